"""The commands of a real federation: for the coordinator, and for each member."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from seedbed.cli.app import CommandApp
from seedbed.cli.console import PlainConsole
from seedbed.cli.options import AlgorithmOption, Config, Rounds, Seed, Set, listed

if TYPE_CHECKING:
    from seedbed.deployment.status import FederationStatus

federation_app = CommandApp(
    no_args_is_help=True,
    help="Set up a real federation over TLS, show its status, manage members and certificates. `seedbed serve` and "
    "`seedbed join` run it.",
)
console = PlainConsole()

Directory = Annotated[Path, typer.Argument(help="The federation's folder, as `seedbed federation init` made it.")]
Host = Annotated[str, typer.Option(help="The server's name or address as members reach it.")]


@federation_app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Folder to make.")],
    nodes: Annotated[list[str], typer.Option("--nodes", help="The members' names: --nodes basel bern chur.")],
    like: Annotated[
        str,
        typer.Option(
            help="A file that looks like the members' own (columns, classes): made-up rows will do. Only its form is "
            "read; each member's numbers are standardised by its own."
        ),
    ],
    host: Host = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port that members reach it on.")] = 8443,
    algorithm: AlgorithmOption = None,
    rounds: Rounds = None,
    seed: Seed = None,
    config: Config = None,
    set_: Set = None,
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,  # the names after the first
) -> None:
    """Make certificates, keys and settings: a folder for the server, and one for each member to be given.

    `seedbed federation init heart --nodes basel bern chur --like sample.csv --set reader.target=disease`
    """
    from seedbed.deployment.flower.init import init_federation
    from seedbed.experiments.config import read_toml, table_from

    asked = {"algorithm": algorithm, "rounds": rounds, "seed": seed}
    given = table_from(
        read_toml(config) if config else {},
        {key: value for key, value in asked.items() if value is not None},
        assignments=set_ or [],
    )
    members = listed(nodes, more)
    made = init_federation(directory, members, like, given, host=host, port=port)
    form = f"{len(made.classes)} classes ({', '.join(made.classes[:5])})" if made.classes else "numbers to predict"
    console.print(f"{directory}: {made.settings.algorithm}, {made.settings.rounds} rounds, inputs of shape "
                  f"{made.shape.inputs}, {form}", soft_wrap=True)  # fmt: skip
    for name in made.members:
        folder = directory / "nodes" / name
        console.print(f"  {folder}: for {name} alone, over a channel that you trust", soft_wrap=True)
    console.print(f"next: `seedbed serve {directory}` here, `seedbed join FOLDER --data FILE` at each member's",
                  soft_wrap=True)  # fmt: skip


@federation_app.command()
def status(
    directory: Directory,
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking, until Ctrl-C.")] = False,
) -> None:
    """Rounds, members, who is late, bytes, and the last numbers. It changes nothing."""
    from seedbed.deployment.status import FederationStatus

    if not watch:
        for part in _shown(FederationStatus.of(directory)):
            console.print(part)
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            from rich.console import Group

            standing = FederationStatus.of(directory)
            live.update(Group(*_shown(standing)), refresh=True)
            time.sleep(1)


@federation_app.command()
def renew(
    directory: Directory,
    days: Annotated[int, typer.Option(min=1, help="How long it is to be good for.")] = 365,
) -> None:
    """Make the server another certificate, by the same authority: members need nothing new."""
    from datetime import timedelta

    from seedbed.deployment.flower.init import renew_certificate

    until = renew_certificate(directory, timedelta(days=days))
    console.print(f"the server's certificate is good until {until:%d %B %Y}")


member_app = CommandApp(no_args_is_help=True, help="Members that come and go, while the server runs or not.")
federation_app.add_typer(member_app, name="member")
Name = Annotated[str, typer.Argument(help="The member's name.")]


@member_app.command()
def add(directory: Directory, name: Name) -> None:
    """Make a new member's folder and let it in: it takes part from the next round on."""
    from seedbed.deployment.flower.init import add_member

    folder = add_member(directory, name)
    console.print(f"{folder}: for {name} alone, over a channel that you trust", markup=False, soft_wrap=True)


@member_app.command()
def remove(directory: Directory, name: Name) -> None:
    """Let a member in no more. Its keys are refused at once; the round at work goes on without it."""
    from seedbed.deployment.flower.init import remove_member

    remove_member(directory, name)
    console.print(f"{name} is no member any more", markup=False, soft_wrap=True)


@member_app.command()
def renew_key(directory: Directory, name: Name) -> None:
    """Make a member a new folder with new keys, for one that lost its own. The old keys are refused."""
    from seedbed.deployment.flower.init import renew_member

    folder = renew_member(directory, name)
    console.print(f"{folder}: for {name} alone; its old keys are refused", markup=False, soft_wrap=True)


def serve(
    directory: Directory,
    listen: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 behind a proxy.")] = "0.0.0.0",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on; default: the one that members know.")
    ] = None,
    metrics: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Also show figures for Prometheus on this port of localhost.")
    ] = None,
) -> None:
    """Run a federation's server until all rounds are done. Restart it after a crash and it continues."""
    from seedbed.deployment.flower.serve import serve_federation as run

    figures: Any = None
    if metrics is not None:
        from seedbed.deployment.metrics import MetricsServer
        from seedbed.deployment.status import FederationStatus

        figures = MetricsServer(lambda: FederationStatus.of(directory), metrics)
        console.print(f"figures: http://127.0.0.1:{figures.port}/metrics", soft_wrap=True)
    try:
        run(directory, listen=listen, port=port, said=_say)
    finally:
        if figures is not None:
            figures.close()
    console.print(f"the model: {directory / 'server' / 'run' / 'model.safetensors'}", soft_wrap=True)


def join(
    folder: Annotated[Path, typer.Argument(help="Your node's folder, as the coordinator gave it to you.")],
    data: Annotated[Path, typer.Option(help="Your data: a file or folder of the form agreed on. It stays here.")],
    client: Annotated[str | None, typer.Option(help="Whose rows, where the file holds several clients'.")] = None,
) -> None:
    """Take part in a federation with your own data until all rounds are done. Restart it and it continues."""
    from seedbed.deployment.flower.join import join_federation as run

    run(folder, data, client=client, said=_say)
    console.print(f"your own model: `seedbed adapt {folder} --support FILE --out mine.safetensors`", soft_wrap=True)


def _say(line: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')}  {line}", markup=False, highlight=False, soft_wrap=True)


def _shown(standing: "FederationStatus") -> list[Any]:
    """What a person looks at."""
    from seedbed.deployment.status import format_age

    table = Table()
    for title in ("member", "now", "last heard of"):
        table.add_column(title)
    for title in ("last round in", "refused", "to it", "from it"):
        table.add_column(title, justify="right")
    for m in standing.members:
        table.add_row(
            m.name, m.state, format_age(m.heard), str(m.round or "–"), str(m.refused), _size(m.sent), _size(m.got)
        )
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in standing.numbers.items())
    lines = [f"last round: {numbers}"] if numbers else []
    return [standing.title, table, *lines, "privacy: none spent; the server sees each member's updates"]


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"
