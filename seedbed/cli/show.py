"""What people see: progress while a run works, tables when it is done."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
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

from seedbed.runs.pipeline import COLUMNS, Show
from seedbed.runs.report import TITLES
from seedbed.tasks.readers import Summary


class Speed(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class Bars(Show):
    """One progress bar a stage, on standard error."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description:32}"),
            BarColumn(),
            MofNCompleteColumn(),
            Speed(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[word]}"),
            console=Console(stderr=True),
        )

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *why: object) -> None:
        self.progress.stop()

    def stage(self, title: str, total: int) -> Callable[[str], None]:
        task = self.progress.add_task(title, total=total, word="")
        return lambda word: self.progress.update(task, advance=1, word=word)

    def note(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Download:
    """A bar for each file that is fetched."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=Console(stderr=True)
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "Download":
        self.progress.start()
        return self

    def __exit__(self, *why: object) -> None:
        self.progress.stop()

    def __call__(self, file: str, done: int, total: int | None) -> None:
        if file not in self.tasks:
            self.tasks[file] = self.progress.add_task(file, total=total)
        self.progress.update(self.tasks[file], completed=done)


def result_table(result: Mapping[str, Any], which: str = "unseen") -> Table:
    """Mean ± 95 % interval over clients and the worst tenth, for each number of shots."""
    rows = result[which]
    count = next(iter(next(iter(rows.values())).values()))["clients"]
    whom = "clients never seen in training" if which == "unseen" else "known clients"
    title = f"{result['algorithm']}: {result['metric']} on {count} {whom}"
    table = Table(title=title, caption="mean ± 95 % interval over clients; in brackets the worst tenth of the clients")
    table.add_column("shots", justify="right")
    columns = [c for c in COLUMNS if c in next(iter(rows.values()))]
    for column in columns:
        table.add_column(TITLES[column], justify="right")
    for shots, cells in rows.items():
        best = _best(cells, result["higher_is_better"])
        table.add_row(shots, *(_cell(cells[c], result["metric"], bold=c == best) for c in columns))
    return table


def summary_table(found: Summary) -> Table:
    """Clients, sizes, classes and label skew of a population."""
    table = Table(show_header=False, title=found.source)
    kind = "regression" if not found.classes else f"{found.classes} ({_spread(found.classes_per_client)} per client)"
    task = "N-way episodes inside a client" if found.episodic else "a client's own support and query"
    rows = {
        "clients": f"{found.clients}" + (f", {found.unseen} set apart as never seen" if found.unseen else ""),
        "examples": f"{found.examples} ({_spread(found.sizes)} per client)",
        "shape of an example": "×".join(map(str, found.shape)) or "one number",
        "classes": kind,
        "label skew": "" if found.label_skew is None else f"{found.label_skew:.2f} (0: all alike, 1: all apart)",
        "tasks": task,
        "notes": "\n".join(found.notes),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table


def _spread(values: tuple[int, float, int]) -> str:
    return f"{values[0]} to {values[2]}, median {values[1]:g}"


def number(value: float, metric: str) -> str:
    return f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.4g}"


def _cell(cell: Mapping[str, Any], metric: str, *, bold: bool) -> str:
    ci95 = "" if cell["ci95"] is None or math.isnan(cell["ci95"]) else f" ± {number(cell['ci95'], metric)}"
    text = f"{number(cell['mean'], metric)}{ci95} ({number(cell['worst_tenth'], metric)})"
    return f"[bold]{text}[/bold]" if bold else text


def _best(cells: Mapping[str, Any], higher_is_better: bool) -> str:
    pick = max if higher_is_better else min
    return pick(cells, key=lambda column: cells[column]["mean"])
