"""The commands. Each reads its arguments, calls one function of the library, and prints what it gives."""

import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from seedbed.cli.app import CommandApp
from seedbed.cli.console import PlainConsole
from seedbed.cli.federation import federation_app, join, serve
from seedbed.cli.options import (
    AlgorithmOption,
    Attackers,
    AttackOption,
    Client,
    CohortOption,
    Config,
    Data,
    Delta,
    EngineOption,
    ExecutorOption,
    LossOption,
    MetricOption,
    ModelOption,
    ProcessesOption,
    Rate,
    Reduce,
    Root,
    Rounds,
    Run,
    Seed,
    Set,
    Target,
    Verbose,
    reader_of,
)
from seedbed.cli.peers import peers_app
from seedbed.errors import InputError

if TYPE_CHECKING:  # what computes is imported by the commands: `seedbed --help` needs none of it
    from seedbed.data.population import Population
    from seedbed.engines.process_group import ProcessGroup
    from seedbed.experiments.stages import Show

WORSE_THAN_TRIVIAL = 3  # the exit status of a run whose model is of no use
RANKED = ("run", "resume")  # what torchrun may start
app = CommandApp(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = CommandApp(no_args_is_help=True, help="List data sets, inspect and partition one, and download public ones.")
app.add_typer(data_app, name="data")
app.add_typer(federation_app, name="federation")
app.add_typer(peers_app, name="peers")
console = PlainConsole()


@app.command()
def run(
    data: Data = None,
    client: Client = None,
    target: Target = None,
    algorithm: AlgorithmOption = None,
    rounds: Rounds = None,
    cohort: CohortOption = None,
    lr: Rate = None,
    loss: LossOption = None,
    metric: MetricOption = None,
    model: ModelOption = None,
    seed: Seed = None,
    engine: EngineOption = None,
    executor: ExecutorOption = None,
    processes: ProcessesOption = None,
    reduce: Reduce = None,
    attack: AttackOption = None,
    attackers: Attackers = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Differential privacy of the known clients: the budget ε of the run, such as 4."),
    ] = None,
    delta: Delta = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="Secure aggregation: the server sees only sums of client updates.")
    ] = False,
    unseen: Annotated[
        str | None, typer.Option(help="Clients never trained on: a fraction, a count, or each in turn.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="So many runs, so that every client is judged as unseen once.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; default: runs/DATA-ALGORITHM-SEED. Must be new.")
    ] = None,
    config: Config = None,
    root: Root = None,
    set_: Set = None,
    verbose: Verbose = False,
) -> None:
    """Train a start, adapt it to unseen clients, and compare it with FedAvg + fine-tuning and local training.

    `seedbed run` alone does it on handwriting by writer, with nothing to download. On several processes or machines:
    `torchrun --nproc-per-node 2 -m seedbed run ...`.
    """
    from seedbed.engines.process_group import init_group
    from seedbed.experiments.launch import start_run

    asked = {
        "data": data,
        "reader": reader_of(client, target),
        "algorithm": algorithm,
        "rounds": rounds,
        "cohort": cohort,
        "lr": lr,
        "loss": loss,
        "metric": metric,
        "model": {"name": model} if model else None,
        "seed": seed,
        "engine": engine,
        "executor": executor,
        "processes": processes,
        "data_dir": root,
        "privacy": _budget(epsilon, delta),
        "secure": {"form": "masks"} if secure else None,
        "folds": folds,
    }
    named = {"reduce.name": reduce, "attack.name": attack, "attack.fraction": attackers, "unseen": unseen}
    words = [f"{key}={value}" for key, value in named.items() if value is not None]
    with init_group() as ranks, _shown(ranks, verbose) as show:
        directory, result = start_run(asked, [*words, *(set_ or [])], config, out, show)
    if ranks.rank == 0:
        _print(result, directory)


@app.command()
def resume(
    directory: Run,
    loss: LossOption = None,
    metric: MetricOption = None,
    model: ModelOption = None,
) -> None:
    """Resume a stopped or killed run. The result is bit-identical to that of an uninterrupted run."""
    from seedbed.engines.process_group import init_group
    from seedbed.experiments.launch import resume_run

    with init_group() as ranks, _shown(ranks) as show:
        result = resume_run(directory, show)
    if ranks.rank == 0:
        _print(result, directory)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Algorithms: see `seedbed algorithms`.")],
    data: Data = None,
    client: Client = None,
    target: Target = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from --seed on.")] = 1,
    tune: Annotated[
        bool, typer.Option(help="Let validation clients choose learning rates; other factors: --set tune=[0.1,1,10].")
    ] = True,
    rounds: Rounds = None,
    cohort: CohortOption = None,
    lr: Rate = None,
    loss: LossOption = None,
    metric: MetricOption = None,
    model: ModelOption = None,
    seed: Seed = None,
    engine: EngineOption = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the runs; default: runs/compare-DATA.")] = None,
    config: Config = None,
    root: Root = None,
    set_: Set = None,
) -> None:
    """Compare algorithms on the same clients, episodes and budget of examples, each tuned on the same grid.

    Known clients that are not trained on meanwhile choose a learning rate and how to adapt for each of them.
    """
    from seedbed.cli.show import Bars, comparison_tables
    from seedbed.experiments.comparison import FACTORS
    from seedbed.experiments.comparison import compare_algorithms as compare_runs
    from seedbed.experiments.run_directory import RunDirectory
    from seedbed.reports.comparison_report import comparison_page

    reader = reader_of(client, target)
    asked = {
        "data": data,
        "reader": reader,
        "rounds": rounds,
        "cohort": cohort,
        "lr": lr,
        "loss": loss,
        "metric": metric,
        "model": {"name": model} if model else None,
        "engine": engine,
        "data_dir": root,
    }
    assignments = [*([f"tune={list(FACTORS)}"] if tune else []), *(set_ or [])]
    with Bars() as bars:
        found, directory = compare_runs(
            names, asked, assignments, config, out, range(seed or 0, (seed or 0) + seeds), bars
        )
    page = comparison_page(found, shlex.join(["seedbed", *sys.argv[1:]]))
    RunDirectory(directory).write("comparison.html", page.encode())
    for table in comparison_tables(found):
        console.print(table)
    console.print(f"report: {directory / 'comparison.html'}; runs beside it", soft_wrap=True)


@app.command()
def evaluate(
    directory: Run,
    data: Data = None,
    loss: LossOption = None,
    metric: MetricOption = None,
    model: ModelOption = None,
    root: Root = None,
    set_: Set = None,
) -> None:
    """Evaluate a trained run: on its own unseen clients, or on every client of other data of the same shape."""
    from seedbed.cli.show import Bars, result_table
    from seedbed.experiments.launch import evaluate_run

    with Bars() as bars:
        result = evaluate_run(directory, data, root, set_ or [], bars)
    console.print(result_table(result))


@app.command()
def adapt(
    directory: Run,
    support: Annotated[Path, typer.Option(help="This client's examples: CSV, Parquet, .npz, or a folder class/*.png.")],
    out: Annotated[
        Path, typer.Option(help="Where the client's own model goes (.safetensors); with --all a new folder.")
    ],
    steps: Annotated[int | None, typer.Option(min=0, help="Adaptation steps; default: the algorithm's own.")] = None,
    query: Annotated[Path | None, typer.Option(help="More labelled examples, to score the model on.")] = None,
    client: Annotated[str | None, typer.Option(help="Whose examples, where the files hold several clients'.")] = None,
    loss: LossOption = None,
    metric: MetricOption = None,
    model: ModelOption = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Adapt to every client of the table; also keep the start.")
    ] = False,
) -> None:
    """Adapt a trained start to one client, or to all, from a few examples each. Nothing leaves this machine.

    `seedbed predict` takes the model. With --all: a model for each client of a table.
    """
    from seedbed.experiments.adapt import adapt_all, adapt_client

    start: Any = directory
    if (directory / "node.json").exists() or (directory / "peer.json").exists():
        from seedbed.deployment.adapt import start_of  # only members need its extras

        start = start_of(directory)
    if all_ and (client is not None or query is not None):
        raise InputError("--all adapts to every client: leave --client and --query out")
    made = (
        adapt_all(start, support, out, steps=steps)
        if all_
        else adapt_client(start, support, out, steps=steps, query=query, client=client)
    )
    for line in made.lines():
        console.print(line, soft_wrap=True)


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(help="A client's own model, a folder of them, or a run's directory: its start.")
    ],
    rows: Annotated[Path, typer.Argument(help="New rows: a table with the columns of training, .npz, or images.")],
    out: Annotated[Path, typer.Option(help="Where the predictions go: a new .csv or .parquet.")],
) -> None:
    """Predict new rows: classes with probabilities, numbers in their own units with 90 % intervals.

    A row goes to its client's own model, as the client column says; without one, to the start.
    """
    from seedbed.experiments.predict import predict_file

    for line in predict_file(model, rows, out).lines():
        console.print(line, soft_wrap=True)


@app.command()
def audit(
    of: Annotated[
        Path | None, typer.Argument(help="The directory of a run, or a settings file; left out: as `seedbed run`.")
    ] = None,
    data: Data = None,
    algorithm: AlgorithmOption = None,
    rounds: Rounds = None,
    cohort: CohortOption = None,
    lr: Rate = None,
    loss: LossOption = None,
    metric: MetricOption = None,
    model: ModelOption = None,
    seed: Seed = None,
    engine: EngineOption = None,
    epsilon: Annotated[float | None, typer.Option(help="The claim to audit: the budget ε, such as 4.")] = None,
    delta: Delta = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for audit.html and audit.json; default: the run's, else runs/audit-DATA-ALGORITHM."),
    ] = None,
    root: Root = None,
    set_: Set = None,
) -> None:
    """Attack what a run releases, and report what it leaks of its clients, with and without its defence.

    Exit code 0: no claim of the run is refuted; 1: one is; 2: it cannot be audited.
    """
    from seedbed.audit.run_attacks import audit_subject, place_of
    from seedbed.audit.subject import subject_of
    from seedbed.cli.show import Bars, audit_lines, audit_table
    from seedbed.reports.audit_report import write_audit

    asked = {
        "data": data,
        "algorithm": algorithm,
        "rounds": rounds,
        "cohort": cohort,
        "lr": lr,
        "loss": loss,
        "metric": metric,
        "model": {"name": model} if model else None,
        "seed": seed,
        "engine": engine,
        "data_dir": root,
        "privacy": _budget(epsilon, delta),
    }
    with Bars() as bars:
        subject = subject_of(of, asked, set_ or [])
        found = audit_subject(subject, bars)
    _, page = write_audit(found, out or place_of(subject, of), shlex.join(["seedbed", *sys.argv[1:]]))
    console.print(audit_table(found))
    for line in audit_lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {page}", soft_wrap=True)
    raise typer.Exit(1 if found.refuted else 0)


@app.command()
def bench(
    workload: Annotated[
        list[str] | None, typer.Argument(help="mlp, cnn, small_cnn, lstm, maml; left out: all of them.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed rounds of each; medians count.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Over clients; default: one for each core.")] = None,
    device: Annotated[str, typer.Option(help="Where clients compute, such as cuda.")] = "cpu",
    json: Annotated[Path | None, typer.Option(help="Also write the rows to this file.")] = None,
) -> None:
    """Measure how fast clients train on this machine with each executor and a plain PyTorch loop. Takes minutes."""
    from seedbed.bench.race import gpus, write_json
    from seedbed.bench.race import run_bench as race
    from seedbed.cli.show import Bars, bench_table

    with Bars() as bars:
        rows = race(workload or (), repeat=repeat, threads=threads, device=device, show=bars)
    console.print(bench_table(rows))
    console.print(gpus(device), style="dim")
    if json is not None:
        write_json(json, rows)


@app.command()
def algorithms(
    name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None,
) -> None:
    """List the algorithms and what each computes, or show one with its settings."""
    from seedbed.algorithms.catalogue import entry
    from seedbed.cli.show import card, catalogue_tables

    if name is None:
        for table in catalogue_tables():
            console.print(table)
        console.print("`seedbed algorithms NAME` shows one whole", style="dim")
        return
    for part in card(name, entry(name)):
        console.print(part)


@data_app.command("list")
def data_list() -> None:
    """Named sets: what they are, and their natural clients."""
    from seedbed.data.readers import KNOWN

    table = Table()
    for title in ("name", "what", "natural clients", "licence"):
        table.add_column(title)
    for name, known in KNOWN.items():
        table.add_row(name, known.summary, known.clients, known.licence)
    console.print(table)


@data_app.command("inspect")
def data_inspect(
    data: Annotated[str, typer.Argument(help="A set's name or a path.")],
    client: Client = None,
    target: Target = None,
    headroom: Annotated[
        bool, typer.Option(help="Also fit a linear model to a table: what adapting can gain, in seconds.")
    ] = True,
    root: Root = None,
    set_: Set = None,
) -> None:
    """Clients, sizes, classes and label skew; of a table each column, its treatment, and what adapting can gain."""
    from seedbed.cli.show import columns_table, summary_table
    from seedbed.data.readers import inspect
    from seedbed.experiments.config import settings_from, table_from
    from seedbed.experiments.launch import population_for

    asked = {"data": data, "data_dir": root, "reader": reader_of(client, target) or {}}
    given = table_from(asked, assignments=set_ or [])
    population = population_for(settings_from(given))
    found = inspect(population)
    console.print(summary_table(found))
    if found.columns:
        console.print(columns_table(found))
        if headroom:
            _print_headroom(given, population)


def _print_headroom(given: dict[str, Any], population: "Population") -> None:
    from seedbed.cli.show import headroom_table
    from seedbed.experiments.headroom import headroom, headroom_lines
    from seedbed.experiments.presets import complete_settings

    try:
        found = headroom(complete_settings(given, population), population)
    except InputError as error:
        console.print(f"headroom: not known, for {error}", soft_wrap=True)
        return
    if found is not None:
        console.print(headroom_table(found))
        for line in headroom_lines(found):
            console.print(line, soft_wrap=True)


@data_app.command("pack")
def data_pack(
    data: Annotated[str, typer.Argument(help="A set's name or a path.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    root: Root = None,
    set_: Set = None,
) -> None:
    """Write data to a folder that is opened at once whatever its size, and of which only what is used is read.

    `--data FOLDER` then takes it. What makes clients up (reader.partition=...) and leaves some out is done here.
    """
    from seedbed.cli.show import Bars
    from seedbed.data.readers import pack_population
    from seedbed.experiments.config import settings_from, table_from
    from seedbed.experiments.launch import population_for

    population = population_for(settings_from(table_from({"data": data, "data_dir": root}, assignments=set_ or [])))
    with Bars() as bars:
        pack_population(population, out, bars.steps(f"packing {population.source}", len(population)))
    console.print(f"{population!r} is in {out}", soft_wrap=True)


@data_app.command("partition")
def data_partition(
    data: Annotated[str, typer.Argument(help="A set's name or a path.")],
    out: Annotated[Path, typer.Argument(help="A JSON file.")],
    client: Client = None,
    target: Target = None,
    root: Root = None,
    set_: Set = None,
) -> None:
    """Write which client has which rows to a file.

    `--set reader.partition=file --set reader.partition_file=FILE` deals the same rows again.
    """
    from seedbed.data.partition_file import write_partition
    from seedbed.experiments.config import settings_from, table_from
    from seedbed.experiments.launch import population_for

    asked = {"data": data, "data_dir": root, "reader": reader_of(client, target) or {}}
    population = population_for(settings_from(table_from(asked, assignments=set_ or [])))
    write_partition(population, out)
    console.print(f"{population!r} is in {out}", soft_wrap=True)


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A set's name.")],
    root: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path("data"),
) -> None:
    """Download a public set from its own home, with a checksum. The only command that uses the network."""
    from seedbed.cli.show import Download
    from seedbed.data.readers import get

    with Download() as download:
        console.print(f"{name} is in {get(name, root, download)}", soft_wrap=True)


app.command()(serve)  # after the commands of a simulation, in the order of --help
app.command()(join)


def _shown(ranks: "ProcessGroup", verbose: bool = False) -> "AbstractContextManager[Show]":
    """Rank 0's progress bars; the other ranks say nothing."""
    from seedbed.cli.show import Bars
    from seedbed.experiments.stages import Show

    return Bars(verbose) if ranks.rank == 0 else nullcontext(Show())


def _version(asked: bool) -> None:
    if asked:
        from seedbed import __version__

        console.print(f"seedbed {__version__}")
        raise typer.Exit


@app.callback()
def _begin(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Federated meta-learning: train one start across clients that never share data; each grows its own model."""
    if "--help" in sys.argv[1:]:
        return
    from seedbed.engines.memory_info import keep_freed_memory
    from seedbed.engines.process_group import is_torchrun

    keep_freed_memory()
    if is_torchrun() and context.invoked_subcommand not in RANKED:
        raise InputError(
            f"seedbed {context.invoked_subcommand} runs in one process, without torchrun: only "
            f"{' and '.join(RANKED)} share their work out over ranks"
        )


def _print(result: dict[str, Any], directory: Path) -> None:
    from seedbed.cli.show import also_table, attack_lines, result_table
    from seedbed.reports.concerns import concerns, failures
    from seedbed.reports.run_report import harm_lines

    for line in [*failures(result), *concerns(result)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True, style="bold")
    console.print(result_table(result))
    if (also := also_table(result)) is not None:
        console.print(also)
    for line in [*attack_lines(result), *harm_lines(result)]:
        console.print(line, highlight=False, soft_wrap=True)
    for name, chosen in result["finetuning"].items():
        for shots, how in chosen.items():
            console.print(f"  {name.replace('_', ' ')}, {shots} shots: {how['text']}", style="dim")
    for line in [*result.get("secure", {}).get("said", ()), *result.get("privacy", {}).get("said", ())]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {directory / 'report.html'}", soft_wrap=True)
    if failures(result):
        raise typer.Exit(WORSE_THAN_TRIVIAL)


def _budget(epsilon: float | None, delta: float | None) -> dict[str, float] | None:
    """The settings `privacy`, as far as they are given."""
    return {key: value for key, value in (("epsilon", epsilon), ("delta", delta)) if value is not None} or None
