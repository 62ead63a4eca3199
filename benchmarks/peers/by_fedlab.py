"""FedLab's standalone simulation: its FedAvg server and its serial trainer; all clients take part.

The batches are ready in memory and nothing is evaluated or saved, in its favour.
"""

import sys
from typing import Any

from turns import Turns


def main() -> None:
    turns = Turns()
    from fedlab.contrib.algorithm.fedavg import FedAvgSerialClientTrainer, FedAvgServerHandler
    from fedlab.contrib.dataset.basic_dataset import FedDataset
    from fedlab.core.standalone import StandalonePipeline
    from modules import batches, module, params

    work = turns.work
    network = module(work)
    ready = [batches(work, client) for client in range(work.clients)]

    class Ready(FedDataset):
        def get_dataloader(self, id: int, batch_size: int, type: str = "train") -> Any:
            return ready[id]

    class InTurn(FedAvgServerHandler):
        """A round begins when it is its turn."""

        @property
        def if_stop(self) -> bool:
            return not turns.wait(lambda: params(self.model))

    class Unevaluated(StandalonePipeline):
        def evaluate(self) -> None:
            pass

    server = InTurn(network, global_round=sys.maxsize, sample_ratio=1.0)
    trainer = FedAvgSerialClientTrainer(network, work.clients)
    trainer.setup_dataset(Ready())
    trainer.setup_optim(epochs=1, batch_size=work.x.shape[2], lr=work.lr)
    Unevaluated(server, trainer).main()


if __name__ == "__main__":
    main()
