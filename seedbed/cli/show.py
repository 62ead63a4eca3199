"""What people see: progress while a run works, tables when it is done."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from seedbed.algorithms.catalogue import FAMILIES, CatalogueEntry
from seedbed.audit.findings import Audit
from seedbed.bench.race import BenchRow
from seedbed.cli.console import PlainConsole, printable
from seedbed.data.readers import PopulationSummary
from seedbed.experiments.comparison import Comparison
from seedbed.experiments.headroom import Headroom
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.signatures import describe_settings
from seedbed.experiments.stages import TABLE_COLUMNS, Show
from seedbed.reports.audit_report import ORDER, format_figure
from seedbed.reports.comparison_report import choices, format_cell, meaning, rank_rows
from seedbed.reports.page import format_number, plus_minus, shots_of
from seedbed.reports.run_report import TITLES, write_run_report

WAYS = {"bias": "own intercept", "slopes": "own slopes", "local": "local only"}


class Speed(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class Bars(Show):
    """One progress bar a stage, on standard error.

    Args:
        verbose: with details.
    """

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self.progress = Progress(
            TextColumn("{task.description:32}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Speed(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[word]}", markup=False),
            console=PlainConsole(stderr=True),
        )

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *why: object) -> None:
        _stop(self.progress)

    def stage(self, title: str, total: int) -> Callable[[str], None]:
        task = self.progress.add_task(printable(title), total=total, word="")
        return lambda word: self.progress.update(task, advance=1, word=printable(word))

    def steps(self, title: str, total: int) -> Callable[[int], None]:
        """A bar that is told how many steps were done."""
        task = self.progress.add_task(printable(title), total=total, word="")
        return lambda done: self.progress.update(task, advance=done)

    def note(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def detail(self, text: str) -> None:
        if self.verbose:
            self.note(text)

    def finished(self, run: RunDirectory) -> None:
        write_run_report(run)


class Download:
    """A bar for each file that is fetched."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            console=PlainConsole(stderr=True),
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "Download":
        self.progress.start()
        return self

    def __exit__(self, *why: object) -> None:
        _stop(self.progress)

    def __call__(self, file: str, done: int, total: int | None) -> None:
        if file not in self.tasks:
            self.tasks[file] = self.progress.add_task(printable(file), total=total)
        self.progress.update(self.tasks[file], completed=done)


def _stop(progress: Progress) -> None:
    """Without the empty line that rich writes into files, where no bar was shown."""
    if progress.tasks:
        progress.stop()
    else:
        progress.live.stop()


def result_table(result: Mapping[str, Any], which: str = "unseen") -> Table:
    """Mean ± 95 % interval over clients and the worst tenth, for each number of shots."""
    rows = result[which]
    by_row = {shots: next(iter(cells.values()))["clients"] for shots, cells in rows.items()}
    count, unequal = max(by_row.values()), len(set(by_row.values())) > 1
    whom = "clients never seen in training" if which == "unseen" else "known clients"
    title = f"{result['algorithm']}: {result['metric']} on {count} {whom}"
    table = Table(title=title, caption="mean ± 95 % interval over clients; in brackets the worst tenth of the clients")
    table.add_column("shots", justify="right")
    columns = [c for c in TABLE_COLUMNS if c in next(iter(rows.values()))]
    for column in columns:
        table.add_column(TITLES[column], justify="right")
    for shots, cells in rows.items():
        best = _best(cells, result["higher_is_better"])
        shown = f"{shots} ({by_row[shots]} clients)" if unequal else shots
        table.add_row(shown, *(_cell(cells[c], result["metric"], bold=c == best) for c in columns))
    return table


def also_table(result: Mapping[str, Any]) -> Table | None:
    """The scores that people read beside the loss, in the target's own units; None: there are none."""
    rows = result["unseen"]
    first = next(iter(rows.values()))["adapted"].get("also")
    if not first:
        return None
    columns = [c for c in TABLE_COLUMNS if c in next(iter(rows.values()))]
    table = Table(title=f"{', '.join(first)}: means over clients", box=box.SIMPLE_HEAD)
    for title in ("shots", "", *(TITLES[c] for c in columns)):
        table.add_column(title, justify="right")
    for shots, cells in rows.items():
        for name in first:
            values = (cells[c]["also"].get(name) for c in columns)
            table.add_row(shots, name, *("–" if v is None else format_number(v, name) for v in values))
    return table


def bench_table(rows: Sequence[BenchRow]) -> Table:
    """What `seedbed bench` found."""
    table = Table(caption="ratio: to the plain PyTorch loop, which has one thread; medians of rounds in turn")
    table.add_column("workload")
    table.add_column("executor", no_wrap=True)
    for title in ("steps/s", "ratio", "% of GEMM", "memory, MB"):
        table.add_column(title, justify="right")
    for row in rows:
        memory = "" if row.peak_memory is None else f"{row.peak_memory:.0f}"
        executor = row.executor + (f" ({row.chosen.partition(':')[0]})" if row.chosen else "")
        percent = f"{row.percent_of_gemm:.0f}"
        table.add_row(row.workload, executor, f"{row.steps_per_s:,.0f}", f"{row.ratio_to_loop:.2f}", percent, memory)
    return table


def comparison_tables(found: Comparison) -> Iterator[Table]:
    """For each number of shots: the algorithms, best first; and what was chosen for each."""
    many = len(found.seeds)
    for shots in found.rows:
        table = Table(
            title=f"{shots_of([shots])}: {found.metric}, {found.clients} unseen clients, {many} seed{'s' * (many > 1)}",
            caption=f"{meaning(found)}; behind: client by client, ± 95 % interval over clients",
        )
        table.add_column("algorithm", no_wrap=True)
        for column in ("unadapted", "adapted", "worst tenth", "behind the best"):
            table.add_column(column, justify="right")
        for name, row in rank_rows(found, shots):
            behind = "" if row.behind is None else format_number(row.behind[0], found.metric)
            behind += "" if row.behind is None else plus_minus(row.behind[1], found.metric)
            cells = (format_cell(value, found.metric) for value in (row.unadapted, row.adapted, row.worst_tenth))
            table.add_row(name, *cells, behind)
        yield table
    private = found.privacy is not None
    title = (
        "how clients adapt: nothing is chosen under privacy" if private else "chosen by validation clients, for each"
    )
    chosen = Table(title=title, caption=str(found.privacy) if private else None, show_lines=True)
    for column in ("algorithm", "rate", "chosen", "how clients adapt"):
        chosen.add_column(column)
    for name, words in choices(found).items():
        chosen.add_row(name, *words)
    yield chosen


def catalogue_tables() -> Iterator[Table]:
    """A table for each family of algorithms."""
    for family in FAMILIES:
        table = Table(title=(family.__doc__ or "").rstrip("."), title_justify="left", show_lines=True, expand=True)
        table.add_column("algorithm", no_wrap=True)
        table.add_column("what it computes", ratio=2)
        table.add_column("from", ratio=1)
        for name, entry in family.ENTRIES.items():
            table.add_row(name, Text(entry.equation), Text(entry.paper))
        yield table


def card(name: str, entry: CatalogueEntry) -> Iterator[Table]:
    """One algorithm whole: what it computes, where it stands among the others, what there is to set."""
    facts = Table(title=name, show_header=False, title_justify="left", expand=True)
    facts.add_column(no_wrap=True)
    facts.add_column(ratio=1)
    rows = {
        "computes": entry.equation,
        "from": entry.paper,
        "clients work on": entry.items.replace("_", " "),
        **entry.axes._asdict(),
        "tuned by compare": ", ".join(entry.rates),
        "oracle": f"tests/oracles/{entry.oracle}",
        "number": "not reproduced yet" if entry.number is None else f"docs/results.md, {entry.number}",
    }
    for title, value in rows.items():
        facts.add_row(title, Text(value))
    yield facts
    settings = Table(title="settings (--set KEY=VALUE)", title_justify="left", expand=True)
    for title in ("key", "default"):
        settings.add_column(title, no_wrap=title == "key")
    settings.add_column("meaning", ratio=1)
    for row in describe_settings(entry.factory):
        settings.add_row(*map(Text, row))
    yield settings


def attack_lines(result: Mapping[str, Any]) -> list[str]:
    """Who attacked, and for a backdoor how often it opens."""
    attack = result.get("attack")
    if not attack:
        return []
    lines = [f"attacked: {attack['name']} by {len(attack['attackers'])} of {attack['clients']} known clients"]
    for shots, row in attack.get("success", {}).items():
        rates = ", ".join(f"{TITLES[column]} {cell['mean']:.1%}" for column, cell in row.items())
        lines.append(f"  backdoor opens on unseen clients, {shots} shots: {rates}")
    return lines


def audit_table(found: Audit) -> Table:
    """A row for each case of each attack: what it obtains, with each defence."""
    table = Table(title=found.what, caption="intervals, words and pictures: in the report", box=box.SIMPLE_HEAD)
    table.add_column("attack", no_wrap=True)
    table.add_column("case")
    for column in ORDER:
        table.add_column(found.columns.get(column, column), justify="right")
    for finding in found.findings:
        for place, row in enumerate(finding.rows):
            figures = (row.figures.get(column) for column in ORDER)
            cells = ("–" if f is None else format_figure(f.value, finding.unit) for f in figures)
            table.add_row("" if place else f"{finding.name}, {finding.unit}", Text(row.case), *cells)
    return table


def audit_lines(found: Audit) -> Iterator[str]:
    """What does not apply, what was checked, and the verdict."""
    for finding in found.findings:
        if finding.missing is not None:
            yield f"  {finding.title}: does not apply: {finding.missing}"
        if finding.claim is not None:
            yield f"  {finding.title} {'REFUTED' if finding.claim.refuted else 'not refuted'}: {finding.claim.said}"
    yield found.verdict


def summary_table(found: PopulationSummary) -> Table:
    """Clients, sizes, classes and label skew of a population."""
    table = Table(show_header=False, title=found.source)
    kind = "regression" if not found.classes else f"{found.classes} ({_spread(found.classes_per_client)} per client)"
    task = "N-way episodes inside a client" if found.episodic else "a client's own support and query"
    rows = {
        "clients": f"{found.clients}" + (f", {found.unseen} set apart as never seen" if found.unseen else ""),
        "examples": f"{found.examples} ({_spread(found.sizes)} per client)",
        "shape of an example": "×".join(map(str, found.shape)) or "one number",
        "classes": kind,
        "shares of classes": ", ".join(f"{name} {share:.1%}" for name, share in found.shares[:12]),
        "tiny clients": f"{found.tiny} of three rows or fewer: they train with what they have" if found.tiny else "",
        "label skew": "" if found.label_skew is None else f"{found.label_skew:.2f} (0: all alike, 1: all apart)",
        "tasks": task,
        "notes": "\n".join(found.notes),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def columns_table(found: PopulationSummary) -> Table:
    """Every column of a table, and what was done to it."""
    table = Table(title="columns")
    for title in ("column", "kind", "gaps", "features", "what is done to it"):
        table.add_column(title, justify="right" if title in ("gaps", "features") else "left")
    for column in found.columns:
        table.add_row(column.name, column.kind, str(column.gaps or ""), str(column.features or ""), column.treatment)
    return table


def headroom_table(found: Headroom) -> Table:
    """What a linear model gives on known clients that it has not seen, by how they adapt."""
    ways = list(dict.fromkeys(way for row in found.rows.values() for way in row))
    table = Table(
        title=f"headroom: {found.metric} of a linear model on known clients that it has not seen",
        caption="mean ± 95 % interval over clients; none: the pooled model as it is",
    )
    for title in ("examples", "clients", *(WAYS.get(way, way) for way in ways)):
        table.add_column(title, justify="right")
    for row, each in found.rows.items():
        cells = [f"{each[way].mean:.4g}{plus_minus(each[way].ci95, found.metric)}" for way in ways]
        table.add_row(row, str(next(iter(each.values())).clients), *cells)
    return table


def _spread(values: tuple[int, float, int]) -> str:
    return f"{values[0]} to {values[2]}, median {values[1]:g}"


def _cell(cell: Mapping[str, Any], metric: str, *, bold: bool) -> Text:
    worst = format_number(cell["worst_tenth"], metric)
    text = f"{format_number(cell['mean'], metric)}{plus_minus(cell['ci95'], metric)} ({worst})"
    return Text(text, style="bold" if bold else "")


def _best(cells: Mapping[str, Any], higher_is_better: bool) -> str:
    pick = max if higher_is_better else min
    return pick(cells, key=lambda column: cells[column]["mean"])
