"""FedML's simulation in a single process (`backend: sp`): its FedAvg with its classification trainer.

Its settings are handed to it without `fedml.init`, which asks FedML's servers for a configuration: nothing is tracked,
and nothing leaves the machine. It evaluates after the first round and cannot be told not to: here on one client. The
batches are ready in memory and nothing is saved, in its favour.
"""

import copy
import sys
from types import SimpleNamespace

from turns import Turns


def main() -> None:
    turns = Turns()
    import torch
    from fedml import mlops
    from fedml.simulation.sp.fedavg import FedAvgAPI
    from modules import batches, module, params

    work = turns.work
    network = module(work)
    settings = SimpleNamespace(
        training_type="simulation",
        backend="sp",
        federated_optimizer="FedAvg",
        dataset="made up",
        client_num_in_total=work.clients,
        client_num_per_round=work.clients,
        comm_round=sys.maxsize,
        epochs=1,
        batch_size=work.x.shape[2],
        client_optimizer="sgd",
        learning_rate=work.lr,
        frequency_of_the_test=sys.maxsize,
        enable_wandb=False,
        using_mlops=False,
        enable_tracking=False,
    )
    mlops.pre_setup(settings)

    class InTurn(FedAvgAPI):
        """A round begins when it is its turn."""

        def _client_sampling(self, *of: int) -> list[int]:
            if not turns.wait(lambda: params(network)):
                raise SystemExit
            return super()._client_sampling(*of)

    train = {client: batches(work, client) for client in range(work.clients)}
    test = dict.fromkeys(train) | {0: train[0][:1]}
    examples = {client: work.y[client].size for client in train}
    everything = (sum(examples.values()), 0, None, None, examples, train, test, int(work.y.max()) + 1)
    simulation = InTurn(settings, torch.device("cpu"), everything, network)
    trainer = simulation.model_trainer
    live = trainer.get_model_params

    def first() -> dict[str, torch.Tensor]:
        """What FedML takes for the first round's weights are the network's own, so that each client starts from where
        the one before it has ended. A copy is what it means, and has in every later round."""
        trainer.get_model_params = live
        return copy.deepcopy(live())

    trainer.get_model_params = first
    simulation.train()


if __name__ == "__main__":
    main()
