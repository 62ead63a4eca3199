"""What a benchmark found beside what was published, and whether it is good enough."""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor


@dataclass(frozen=True)
class Figure:
    """One number of ours.

    Args:
        name: what was measured.
        ours: the number.
        spread: its standard deviation or half interval, as the benchmark says; None: not measured.
        published: the number of others, in words; empty: there is none.
        source: where that number stands.
        at_least, at_most: the band that ours must be in; None: no bound.
        digits: significant digits to show.
    """

    name: str
    ours: float
    spread: float | None = None
    published: str = ""
    source: str = ""
    at_least: float | None = None
    at_most: float | None = None
    digits: int = 3

    @property
    def judged(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    @property
    def holds(self) -> bool:
        """Whether ours is in the band; NaN never is."""
        low = self.at_least is None or self.ours >= self.at_least
        return low and (self.at_most is None or self.ours <= self.at_most)

    @property
    def band(self) -> str:
        low = "" if self.at_least is None else f"≥ {self.at_least:g}"
        return f"{low} {'' if self.at_most is None else f'≤ {self.at_most:g}'}".strip()


def over_seeds(values: Tensor) -> tuple[float, float | None]:
    """The mean over seeds, and their standard deviation if there are several: [S] -> a figure's `ours`, `spread`."""
    return float(values.mean()), float(values.std()) if len(values) > 1 else None


def report(
    title: str,
    figures: Sequence[Figure],
    *,
    settings: argparse.Namespace,
    began: float,
    notes: Sequence[str] = (),
) -> int:
    """Print the table and the notes, write `settings.json` if named; 0 when every band holds, else 1.

    Args:
        began: time.perf_counter() at the start.
    """
    good = all(figure.holds for figure in figures)
    seconds = time.perf_counter() - began
    spent = f"{seconds:.1f} s ({time.process_time():.1f} s of CPU)"
    console = Console()
    console.print(_table(title, figures))
    for note in notes:
        console.print(f"  {note}", highlight=False)
    console.print(f"[bold]{'holds' if good else 'MISSED'}[/bold] · {spent} · {machine()}", highlight=False)
    if settings.json:
        found = {
            "benchmark": title,
            "holds": good,
            "figures": [asdict(f) | {"holds": f.holds if f.judged else None} for f in figures],
            "settings": {name: str(v) if isinstance(v, Path) else v for name, v in vars(settings).items()},
            "seconds": seconds,
            "cpu_seconds": time.process_time(),
            "machine": machine(),
        }
        settings.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if good else 1


def machine() -> str:
    """What it ran on, in one line."""
    threads, cores = torch.get_num_threads(), os.cpu_count()
    return f"torch {torch.__version__}, {threads} thread(s) of {cores} cores, {platform.machine()}"


def progress() -> Progress:
    """A bar with what it does, how far it is, and the time left; it goes when the work is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        transient=True,
    )


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=_Help)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write figures and settings to this file")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads inside one tensor operation; models this small are slower with more, and many times "
        "slower when another program has the cores",
    )
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The module's docstring as it is, and the default of each option."""

    def _get_help_string(self, action: Any) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _table(title: str, figures: Sequence[Figure]) -> Table:
    """One row a figure; columns that would be empty are left out."""
    columns = {
        "figure": [f.name for f in figures],
        "ours": [f"{f.ours:.{f.digits}g}" + ("" if f.spread is None else f" ± {f.spread:.2g}") for f in figures],
        "band": [f.band for f in figures],
        "": [_verdict(f) for f in figures],
        "published": [f.published for f in figures],
        "source": [f.source for f in figures],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(*shown, title=title, title_justify="left")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _verdict(figure: Figure) -> str:
    if not figure.judged:
        return ""
    return "[green]holds[/green]" if figure.holds else "[red]missed[/red]"
