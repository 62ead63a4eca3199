"""Apple's pfl: FederatedAveraging on its simulated backend. `by_pfl.py WORK PROCESSES`.

Two processes meet as pfl has it, by torch.distributed. Nothing is evaluated or saved, in its favour.
"""

import itertools
import os
import socket
import subprocess
import sys

from turns import Turns


def main() -> None:
    rank, processes = int(os.environ.get("RANK", 0)), int(sys.argv[2])
    turns, other = Turns(), None
    if processes == 2 and rank == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "peers", "WORLD_SIZE": "2"}
        os.environ.update(meet, LOCAL_WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
        theirs = os.environ | {"RANK": "1", "LOCAL_RANK": "1"}
        other = subprocess.Popen([sys.executable, *sys.argv], env=theirs, stdin=subprocess.DEVNULL, stdout=2)
    try:
        rounds(turns, rank)
    finally:
        if other is not None:
            other.kill()


def rounds(turns: Turns, rank: int) -> None:
    """FedAvg until there is no turn; rank 1 follows rank 0 by what they exchange."""
    import torch
    from modules import module, params
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel
    from torch.nn import functional as F

    work = turns.work
    network = module(work)
    network.loss = lambda x, y: F.cross_entropy(network(x), y)
    network.metrics = lambda x, y: {}
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))

    class InTurn(TrainingProcessCallback):
        """A round begins when it is its turn."""

        def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
            if rank == 0 and not turns.wait(lambda: params(network)):
                raise SystemExit
            return Metrics()

        def after_central_iteration(
            self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
        ) -> tuple[bool, Metrics]:
            return rank == 0 and not turns.wait(lambda: params(network)), Metrics()

    x = torch.as_tensor(work.x).flatten(1, 2)
    y = torch.as_tensor(work.y).flatten(1, 2)
    clients = [PyTorchTensorDataset((x[c], y[c])) for c in range(work.clients)]
    data = FederatedDataset(clients.__getitem__, itertools.cycle(range(work.clients)).__next__)
    how = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=work.lr, local_batch_size=work.x.shape[2])
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=sys.maxsize,
            evaluation_frequency=sys.maxsize,
            train_cohort_size=work.clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()]),
        model,
        how,
        callbacks=[InTurn()],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main()
