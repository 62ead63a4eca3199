"""All that Flower may run on the server, in place of its own `flwr-serverapp`: the server half of one federation.

Whoever reaches Flower's control port could hand it any program to run. Here what is handed in is not looked at: started
is this module, which goes on with the federation whose folder `seedbed serve` has put into the environment, if it is
the run that `seedbed serve` asked for.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from seedbed.errors import InputError
from seedbed.flower.half import Half
from seedbed.flower.processes import FLOWER
from seedbed.flower.transport import FlowerTransport
from seedbed.runs.federating import SERVER, open_server

FOLDER = "SEEDBED_FEDERATION"  # in the environment: the federation's folder
SOURCES = ("install_from_fab", "get_project_dir", "get_project_config", "get_fused_config_from_dir", "run_")

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
    """`flwr-serverapp`, with this app as the only one there is.

    Raises:
        SystemExit: Flower's insides are not as they were: nothing is run then.
    """
    from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

    inside: Any = import_module("flwr.superlink.runtime.run_serverapp")
    missing = [name for name in SOURCES if not callable(getattr(inside, name, None))]
    if missing:
        sys.exit(f"seedbed: this version of flwr has no {missing[0]} to put off: install flwr>=1.41,<1.43")
    inside.install_from_fab = lambda *_, **__: None
    inside.get_project_dir = lambda *_: Path()
    inside.get_project_config = lambda _: {"tool": {"flwr": {"app": {"components": {"serverapp": "seedbed"}}}}}
    inside.get_fused_config_from_dir = lambda *_: {}
    inside.run_ = _run
    flwr_serverapp()


def _run(*, grid: Grid, context: Context, **_: Any) -> Context:
    """Instead of loading what was handed in and running it."""
    app(grid, context)
    return context


if __name__ == "__main__":
    execute()
