"""Flower's simulation over Ray: its FedAvg strategy with its weights and metrics, two actors of one processor each.

The network and the data of an actor are made once and kept, in Flower's favour; nothing is evaluated or saved.
"""

import sys
from collections.abc import Iterable
from typing import Any

from turns import Turns


def main() -> None:
    turns = Turns()
    from flower_client import app
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation
    from modules import module

    class InTurn(FedAvg):
        """A round begins when it is its turn; without one no client is asked, and the run ends."""

        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            if not turns.wait(lambda: {n: p.numpy() for n, p in arrays.to_torch_state_dict().items()}):
                raise SystemExit
            return super().configure_train(server_round, arrays, config, grid)

    server, clients = ServerApp(), turns.work.clients

    @server.main()
    def rounds(grid: Grid, context: Context) -> None:
        start = ArrayRecord(module(turns.work).state_dict())
        InTurn(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients).start(
            grid=grid, initial_arrays=start, num_rounds=sys.maxsize, train_config=ConfigRecord({"work": sys.argv[1]})
        )

    resources: dict[str, Any] = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server, app, clients, backend_config=resources)


if __name__ == "__main__":
    main()
