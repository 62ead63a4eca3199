"""All that Flower may run on the server, in place of its own `flwr-serverapp`: the server half of one federation.

Whoever reaches Flower's control port could hand it any program to run. Here what is handed in is not looked at: started
is this module, which goes on with the federation whose folder `seedbed serve` has put into the environment, if it is
the run that `seedbed serve` asked for.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from seedbed.errors import InputError
from seedbed.flower.executor import put_off
from seedbed.flower.half import Half
from seedbed.flower.processes import FLOWER
from seedbed.flower.transport import FlowerTransport
from seedbed.runs.federating import SERVER, open_server

FOLDER = "SEEDBED_FEDERATION"  # in the environment: the federation's folder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds that are still to come; the folder's log says how they went."""
    directory = Path(os.environ[FOLDER])
    half = Half(directory / SERVER / FLOWER)
    if not half.is_wanted(context.run_id):
        return
    half.write(context.run_id, "running")
    try:
        server = open_server(directory, FlowerTransport(grid))
        try:
            for _ in server.rounds():
                pass
        finally:
            server.close()
    except InputError as error:  # in words for people
        half.write(context.run_id, "failed", str(error))
    except Exception as error:
        half.write(context.run_id, "failed", f"{type(error).__name__}: {error}")
        raise  # whoever stops the run (SystemExit) does not end the federation: it is started again
    else:
        half.write(context.run_id, "finished")


def execute() -> None:
    """`flwr-serverapp`, with this app as the only one there is; see `put_off`."""
    from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

    put_off(INSIDE, INSTEAD)
    flwr_serverapp()


def _run(*, grid: Grid, context: Context, **_: Any) -> Context:
    """Instead of loading what was handed in and running it."""
    app(grid, context)
    return context


INSIDE = "flwr.superlink.runtime.run_serverapp"
INSTEAD: Mapping[str, Callable[..., Any]] = {
    "install_from_fab": lambda *_, **__: None,
    "get_project_dir": lambda *_: Path(),
    "get_project_config": lambda _: {"tool": {"flwr": {"app": {"components": {"serverapp": "seedbed"}}}}},
    "get_fused_config_from_dir": lambda *_: {},
    "run_": _run,
}


if __name__ == "__main__":
    execute()
