"""The commands of peers without a server."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from seedbed.cli.app import CommandApp
from seedbed.cli.console import PlainConsole
from seedbed.cli.options import Config, Rounds, Seed, Set, listed
from seedbed.errors import InputError

peers_app = CommandApp(
    no_args_is_help=True,
    help="Train among peers without a server: each peer is a process with its own data and exchanges encrypted "
    "messages with its neighbours. Training continues if a peer dies.",
)
console = PlainConsole()

Deadline = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Seconds of silence after which training continues without a neighbour. Longer than a round takes.",
    ),
]
Patience = Annotated[
    float, typer.Option(min=0.1, help="Seconds to wait for neighbours at the start, and for any message later.")
]


@peers_app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Folder to make.")],
    peers: Annotated[
        list[str],
        typer.Option("--peers", help="NAME, or NAME=HOST:PORT as the others reach it: --peers basel bern chur."),
    ],
    like: Annotated[
        str,
        typer.Option(
            help="A file that looks like the peers' own (columns, classes): made-up rows will do. Only its form is "
            "read; each peer's numbers are standardised by its own."
        ),
    ],
    algorithm: Annotated[
        str | None, typer.Option(help="One for peers: see `seedbed algorithms`. Default: dpsgd.")
    ] = None,
    rounds: Rounds = None,
    topology: Annotated[
        str | None, typer.Option(help="Who is linked with whom: ring, complete, grid, erdos_renyi, matching, ...")
    ] = None,
    seed: Seed = None,
    config: Config = None,
    set_: Set = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,  # the peers after the first
) -> None:
    """Make settings and keys: a folder for each peer.

    `seedbed peers init heart --peers basel=10.0.0.5:7100 bern=10.0.0.9:7100 --like sample.csv`
    """
    from seedbed.deployment.peers_folder import PEERS, init_peers
    from seedbed.experiments.config import read_toml, table_from

    asked = {"algorithm": algorithm, "rounds": rounds, "seed": seed}
    words = [] if topology is None else [f"schedule.topology={topology}"]
    given = table_from(
        read_toml(config) if config else {},
        {key: value for key, value in asked.items() if value is not None},
        assignments=[*words, *(set_ or [])],
    )
    made = init_peers(directory, listed(peers, more), like, given)
    settings = made.settings
    console.print(
        f"{directory}: {settings.algorithm}, {settings.rounds} rounds, {settings.schedule.topology}, inputs of shape "
        f"{made.shape.inputs}",
        soft_wrap=True,
    )
    for name in made.members:
        console.print(f"  {directory / PEERS / name}: for {name} alone, over a channel that you trust", soft_wrap=True)
    console.print("next: `seedbed peers join FOLDER --data FILE` at each peer's", soft_wrap=True)


@peers_app.command()
def join(
    folder: Annotated[Path, typer.Argument(help="Your peer's folder, one of DIR/peers/.")],
    data: Annotated[Path, typer.Option(help="Your data: a file or folder of the form agreed on. It stays here.")],
    client: Annotated[str | None, typer.Option(help="Whose rows, where the file holds several clients'.")] = None,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT to listen on, where it is not what the others were told.")
    ] = None,
    deadline: Deadline = 60.0,
    patience: Patience = 600.0,
) -> None:
    """Be one peer with your own data, until all rounds are done. Killed and started again, it goes on."""
    from seedbed.deployment.peers_folder import join_peers as be

    model = be(folder, data, said=_say, client=client, listen=listen, deadline=deadline, patience=patience)
    console.print(f"the model: {model}", soft_wrap=True)
    console.print(f"your own: `seedbed adapt {folder} --support FILE --out mine.safetensors`", soft_wrap=True)


@peers_app.command()
def run(
    directory: Annotated[Path, typer.Argument(help="The folder that `seedbed peers init` made.")],
    data: Annotated[str, typer.Option(help="The peers' data, {peer} for the name: 'data/{peer}.csv'.")],
    deadline: Deadline = 60.0,
    patience: Patience = 600.0,
) -> None:
    """All peers on this machine, each in a process of its own; under torchrun each process is the peer of its rank.

    `torchrun --nproc-per-node 4 -m seedbed peers run DIR --data 'data/{peer}.csv'`
    """
    from seedbed.deployment.peers_folder import choose_peer, run_all_peers
    from seedbed.deployment.peers_folder import join_peers as be

    if "{peer}" not in data:
        raise InputError(f"--data {data!r} gives all peers the same file: write {{peer}} where the name stands")
    folders = choose_peer(directory)
    if len(folders) > 1:
        ended = run_all_peers(folders, data, deadline, patience)
        console.print(f"{sum(ended.values())} of {len(ended)} peers came to the end", soft_wrap=True)
        raise typer.Exit(0 if all(ended.values()) else 1)
    path = Path(data.replace("{peer}", folders[0].name))
    be(folders[0], path, said=lambda line: _say(line, folders[0].name), deadline=deadline, patience=patience)


def _say(line: str, name: str = "") -> None:
    from seedbed.deployment.peers_folder import peer_log_line

    words = peer_log_line(json.loads(line))
    if words:
        begin = time.strftime("%H:%M:%S") + (f"  {name}" if name else "")
        console.print(f"{begin}  {words}", markup=False, highlight=False, soft_wrap=True)
