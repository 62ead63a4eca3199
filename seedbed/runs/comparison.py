"""Several algorithms on the same clients, the same episodes and the same budget of examples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from seedbed.algorithms import catalogue
from seedbed.errors import InputError
from seedbed.runs.directory import RunDirectory
from seedbed.runs.experiment import Experiment
from seedbed.runs.pipeline import Show
from seedbed.runs.settings import Settings
from seedbed.runs.start import go_on, plan, start


@dataclass(frozen=True)
class Cell:
    """A number over seeds."""

    mean: float
    spread: float | None  # standard deviation over seeds; None for one seed

    @classmethod
    def of(cls, values: Sequence[float]) -> "Cell":
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Comparison:
    """Rows by algorithm; for each number of shots the cells unadapted, adapted, worst tenth of adapted."""

    metric: str
    shots: tuple[str, ...]
    rows: Mapping[str, list[Cell]]


def compare(
    names: Sequence[str],
    asked: Mapping[str, Any],
    assignments: Iterable[str],
    config: Path | None,
    out: Path | None,
    seeds: Iterable[int],
    show: Show,
) -> tuple[Comparison, Path]:
    """Run each algorithm with each seed (runs that are there already are gone on with), and put them side by side.

    Rounds, cohort and examples per client and round are those of the first algorithm, where they are not asked for.
    """
    for name in names:
        catalogue.entry(name)
    base = out or Path("runs") / f"compare-{Path(asked.get('data') or 'digits').stem}"
    assignments = ["evaluation.baselines=false", "evaluation.curve=false", *assignments]
    first = plan({**asked, "algorithm": names[0]}, assignments, config)
    for name in names[1:]:
        _refuse_unlike(first, plan({**asked, "algorithm": name}, assignments, config))
    same = {"rounds": first.settings.rounds, "cohort": first.settings.cohort, "budget": first.budget}
    asked = {**asked, **{key: value for key, value in same.items() if asked.get(key) is None}}
    rows: dict[str, list[Cell]] = {}
    shots: tuple[str, ...] = ()
    metric = ""
    for name in dict.fromkeys(names):
        results = []
        for seed in seeds:
            path = base / f"{name}-{seed}"
            these = {**asked, "algorithm": name, "seed": seed}
            if (path / "manifest.json").exists():
                _refuse_other(path, plan(these, assignments, config).settings)
                results.append(go_on(path, show))
            else:
                results.append(start(these, assignments, config, path, show)[1])
        metric, shots = results[0]["metric"], tuple(results[0]["unseen"])
        rows[name] = [
            Cell.of([result["unseen"][k][column][number] for result in results])
            for k in shots
            for column, number in (("unadapted", "mean"), ("adapted", "mean"), ("adapted", "worst_tenth"))
        ]
    return Comparison(metric, shots, rows), base


def _refuse_unlike(a: Experiment, b: Experiment) -> None:
    """Scores of episodes, and scores of clients as tasks, answer different questions."""
    if a.shape.episodic != b.shape.episodic:
        one, other = (e.settings.algorithm for e in sorted((a, b), key=lambda e: e.shape.episodic))
        raise InputError(
            f"for {one} a client is a task, for {other} its classes make episodes with labels of their own: their "
            f"scores do not compare; leave {one} out, or set reader.episodic=false for all where the data allow it"
        )


def _refuse_other(path: Path, wanted: Settings) -> None:
    """A run that is there already must be the one that was asked for."""
    here, want = RunDirectory.open(path).manifest["settings"], wanted.model_dump(mode="json")
    for key in (key for key in want if here.get(key) != want[key]):
        raise InputError(
            f"{path} holds a run with {key}={here.get(key)!r}, but {want[key]!r} is asked for: choose another --out"
        )
