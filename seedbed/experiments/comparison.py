"""Several algorithms on the same clients, the same episodes and the same budget of examples, tuned by the same grid."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from seedbed.algorithms import catalogue
from seedbed.errors import InputError
from seedbed.evaluation import summarise
from seedbed.experiments.config import Settings
from seedbed.experiments.launch import begin_run, plan_run, resume_run
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.experiments.run_directory import LOCK, RunDirectory
from seedbed.experiments.run_plan import RunPlan
from seedbed.experiments.setting_names import with_new_names
from seedbed.experiments.stages import Show
from seedbed.locks import hold_lock
from seedbed.privacy.differential.accountant import Release, epsilon
from seedbed.serialization import explain_write_errors

FACTORS = (0.3, 1.0, 3.0, 10.0)  # on learning rates; validation clients choose one


@dataclass(frozen=True)
class ComparisonCell:
    """A number over seeds.

    Attributes:
        spread: standard deviation over seeds; of one seed, half the 95 % interval over clients, where there is one.
    """

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Sequence[float], interval: float | None = None) -> "ComparisonCell":
        return cls(fmean(values), stdev(values) if len(values) > 1 else interval)


@dataclass(frozen=True)
class ComparisonRow:
    """An algorithm's cells at one number of shots.

    Attributes:
        behind: how far its clients' adapted scores are behind the best algorithm's, client by client, and half the 95 %
            interval of that; None for the best itself, and where there are fewer than two clients.
    """

    unadapted: ComparisonCell
    adapted: ComparisonCell
    worst_tenth: ComparisonCell
    behind: tuple[float, float] | None = None


@dataclass(frozen=True)
class Budget:
    """What the runs of a comparison cost together: each is a release of the same clients.

    Attributes:
        each: ε of one run, at its own δ.
        epsilon, delta: of all of them together.
    """

    each: float
    epsilon: float
    delta: float
    runs: int

    def __str__(self) -> str:
        return (
            f"Privacy: {self.runs} runs on the same clients, each within ε = {self.each:.3g}, are ε = "
            f"{self.epsilon:.3g} at δ = {self.delta:.2g} together, by the accountant. Whoever sees the table sees all "
            "of them; choosing the best does not make it cheaper."
        )

    @classmethod
    def of(cls, promises: Sequence[PrivacyPromise]) -> "Budget | None":
        """The composition of these runs' releases; None: none is private."""
        if not promises:
            return None
        spent: Counter[Release] = Counter()
        for promise in promises:
            spent.update(promise.spent)
        delta = max(promise.delta for promise in promises)
        return cls(max(promise.epsilon for promise in promises), epsilon(spent, delta), delta, len(promises))


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        rows: by number of shots, then by algorithm.
        chosen: what validation clients chose, by algorithm, for each seed: result.json's "tuning" and "finetuning".
        clients: unseen ones that each seed judges by.
        budget: examples that a client passes through its model in a round.
        privacy: what all runs cost together; None: they are not private.
    """

    metric: str
    higher_is_better: bool
    data: str
    rounds: int
    cohort: int
    budget: int
    clients: int
    seeds: tuple[int, ...]
    rows: Mapping[str, Mapping[str, ComparisonRow]]
    chosen: Mapping[str, Sequence[Mapping[str, Any]]]
    privacy: Budget | None = None


def compare_algorithms(
    names: Sequence[str],
    asked: Mapping[str, Any],
    assignments: Iterable[str],
    config: Path | None,
    out: Path | None,
    seeds: Iterable[int],
    show: Show,
) -> tuple[Comparison, Path]:
    """Run each algorithm with each seed (runs that are there already are gone on with), and put them side by side.

    Rounds, cohort, and examples per client and round are those of the first algorithm, where they are not asked for;
    what is known to be good on this very set is used for none. The table goes to comparison.json in the directory.
    """
    for name in names:
        catalogue.entry(name)
    base, seeds = out or Path("runs") / f"compare-{Path(asked.get('data') or 'digits').stem}", tuple(seeds)
    assignments = ["evaluation.baselines=false", "evaluation.curve=false", *assignments]

    def planned(name: str, **more: Any) -> RunPlan:
        return plan_run({**asked, **more, "algorithm": name}, assignments, config, specific=False, command="compare")

    first = planned(names[0])
    for name in names[1:]:
        _refuse_unlike(first, planned(name))
    rounds, cohort, budget = first.settings.rounds or 0, first.settings.cohort or 0, first.budget  # complete
    asked = {**asked, "rounds": rounds, "cohort": cohort, "budget": budget}
    results: dict[str, list[dict[str, Any]]] = {}
    experiments = {(name, seed): planned(name, seed=seed) for name in dict.fromkeys(names) for seed in seeds}
    privacy = Budget.of([e.privacy for e in experiments.values() if e.privacy is not None])
    if privacy is not None:
        show.note(str(privacy))
    with explain_write_errors(base):
        base.mkdir(parents=True, exist_ok=True)
    with hold_lock(base / LOCK, "comparison"):
        for (name, seed), experiment in experiments.items():
            path = base / f"{name}-{seed}"
            if (path / "manifest.json").exists():
                _refuse_other(path, experiment.settings)
                result = resume_run(path, show)
            else:
                result = begin_run(experiment, path, show)[1]
            results.setdefault(name, []).append(result)
    one = results[names[0]][0]
    found = Comparison(
        one["metric"],
        one["higher_is_better"],
        first.population.source,
        rounds,
        cohort,
        budget,
        next(iter(one["unseen"].values()))["adapted"]["clients"],
        seeds,
        {shots: _rows(results, shots, higher_is_better=one["higher_is_better"]) for shots in one["unseen"]},
        {
            name: [{"tuning": r["tuning"].get(name), "adapting": r["finetuning"].get("adapted", {})} for r in made]
            for name, made in results.items()
        },
        privacy,
    )
    RunDirectory(base).write_json("comparison.json", asdict(found))
    return found, base


def _rows(
    results: Mapping[str, Sequence[Mapping[str, Any]]], shots: str, *, higher_is_better: bool
) -> dict[str, ComparisonRow]:
    """Each algorithm's row; all saw the same clients and episodes, so that they are compared client by client."""
    cells = {name: [result["unseen"][shots] for result in made] for name, made in results.items()}
    sign = 1 if higher_is_better else -1
    best = max(cells, key=lambda name: sign * fmean(cell["adapted"]["mean"] for cell in cells[name]))

    def scores(name: str) -> list[float]:
        return [score for cell in cells[name] for score in cell["adapted"]["scores"]]

    rows = {}
    for name, made in cells.items():
        interval = {column: made[0][column]["ci95"] for column in ("unadapted", "adapted")}
        gap = summarise([sign * (b - a) for a, b in zip(scores(name), scores(best), strict=True)])
        rows[name] = ComparisonRow(
            ComparisonCell.of([cell["unadapted"]["mean"] for cell in made], interval["unadapted"]),
            ComparisonCell.of([cell["adapted"]["mean"] for cell in made], interval["adapted"]),
            ComparisonCell.of([cell["adapted"]["worst_tenth"] for cell in made]),
            None if name == best or gap.clients < 2 else (gap.mean, gap.ci95),
        )
    return rows


def _refuse_unlike(a: RunPlan, b: RunPlan) -> None:
    """Scores of episodes, and scores of clients as tasks, answer different questions."""
    if a.shape.episodic != b.shape.episodic:
        one, other = (e.settings.algorithm for e in sorted((a, b), key=lambda e: e.shape.episodic))
        raise InputError(
            f"for {one} a client is a task, for {other} its classes make episodes with labels of their own: their "
            f"scores do not compare; leave {one} out, or set reader.episodic=false for all where the data allow it"
        )


def _refuse_other(path: Path, wanted: Settings) -> None:
    """A run that is there already must be the one that was asked for."""
    here, want = with_new_names(RunDirectory.open(path).manifest["settings"]), wanted.model_dump(mode="json")
    for key in (key for key in want if here.get(key) != want[key]):
        raise InputError(
            f"{path} holds a run with {key}={here.get(key)!r}, but {want[key]!r} is asked for: choose another --out"
        )
