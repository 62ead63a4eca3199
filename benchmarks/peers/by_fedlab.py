"""FedLab: its serial trainer and synchronous server, standalone.

A client's batches are given as a list, not through a DataLoader, in its favour; nothing is evaluated or saved.
"""

import sys

from turns import Turns


def main() -> None:
    turns = Turns()
    from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
    from fedlab.contrib.algorithm.basic_server import SyncServerHandler
    from fedlab.core.standalone import StandalonePipeline
    from modules import batches, module, params
    from torch import Tensor

    work = turns.work

    class Batches:
        """What FedLab calls a dataset."""

        def __init__(self) -> None:
            self.of = [batches(work, c) for c in range(work.clients)]

        def get_dataloader(self, client: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
            return self.of[client]

    class InTurn(StandalonePipeline):
        """A round ends where FedLab would evaluate, and the next begins when it is its turn."""

        def evaluate(self) -> None:
            if not turns.wait(lambda: params(self.handler.model)):
                raise SystemExit

    handler = SyncServerHandler(module(work), sys.maxsize, 1.0)
    trainer = SGDSerialClientTrainer(module(work), work.clients)
    trainer.setup_dataset(Batches())
    trainer.setup_optim(1, work.x.shape[2], work.lr)
    rounds = InTurn(handler, trainer)
    rounds.evaluate()
    rounds.main()


if __name__ == "__main__":
    main()
