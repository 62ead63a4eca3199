"""Every client judged as unseen once: a run for each fold of clients, and one table over all of them.

A fold's run lies in the directory's `folds/N`, and is a run like any other. The directory's own files are the table of
all clients and the model of the first fold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from seedbed.data.population import Population
from seedbed.engines.process_group import current_group
from seedbed.errors import InputError
from seedbed.evaluation import summarise
from seedbed.experiments.config import Settings
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.run_plan import RunPlan
from seedbed.experiments.stages import Show
from seedbed.experiments.table_scores import diverged, wilson

FOLDS = "folds"  # the folder of the runs
MANY, FEW = 70, 10  # clients, fewer than which folds are suggested: a few, or one for each client
MODEL = "model.safetensors"
RunOne = Callable[[RunPlan, RunDirectory, int], dict[str, Any]]
Table = Mapping[str, Any]


def run_folds(run: RunDirectory, experiment: RunPlan, run_one: RunOne, show: Show) -> dict[str, Any]:
    """The runs of all folds that are not done yet; returns the result over all clients, which is also written."""
    settings, results = experiment.settings, []
    assert settings.folds is not None
    for fold in range(1, settings.folds + 1):
        show.note(f"fold {fold} of {settings.folds}")
        part = plan(divide(settings.model_copy(update={"fold": fold}), experiment.population))
        results.append(run_one(part, run, fold))
    first = run.path / FOLDS / "1" / MODEL
    run.write(MODEL, first.read_bytes())
    result = {**results[0], "unseen": pooled_table([r["unseen"] for r in results]), "seen": {}, "curve": {}}
    result["folds"] = {"count": settings.folds, "model": "of fold 1, trained on the clients of the other folds"}
    run.write_json("result.json", result)
    return result


def suggestion(population: Population) -> str | None:
    """Folds, for so few clients that one split judges too few of them; None: there are enough."""
    if len(population) >= MANY:
        return None
    way = "--folds 5" if len(population) >= FEW else "--unseen each"
    return f"{len(population)} clients are few: {way} judges each of them as unseen once"


def refuse_folds(settings: Settings, population: Population) -> None:
    """
    Raises:
        InputError: folds are asked for where they cannot be.
    """
    clients = len(population)
    if settings.folds is None:
        return
    if settings.folds > clients:
        raise InputError(f"--folds {settings.folds}: there are {clients} clients; give at most {clients}")
    if current_group().size > 1:
        raise InputError(f"--folds {settings.folds} runs in one process, without torchrun")
    if settings.unseen is not None:
        raise InputError(f"--folds {settings.folds} judges every client, unseen={settings.unseen} some: leave one out")
    if settings.privacy.epsilon is not None:
        raise InputError(
            f"--folds {settings.folds} trains {settings.folds} times on the same clients, and --epsilon is the budget "
            "of one training: leave one out"
        )


# ---- one table of all folds ------------------------------------------------------------------------------------------


def pooled_table(tables: Sequence[Table]) -> dict[str, Any]:
    """Every row of some tables, its clients put together."""
    rows = dict.fromkeys(row for table in tables for row in table)
    return {row: _pooled_row([table[row] for table in tables if row in table]) for row in rows}


def _pooled_row(rows: Sequence[Table]) -> dict[str, Any]:
    columns = [name for name in rows[0] if all(name in row for row in rows)]
    found = {name: _pooled_cell([row[name] for row in rows]) for name in columns}
    if "trivial" in found:
        for cell in found.values():
            _in_units(cell, found["trivial"]["mean"])
    adapted = [row["adapted"] for row in rows]
    if all("names" in cell for cell in adapted):
        names = [name for cell in adapted for name in cell["names"]]
        harm = _pooled_harm(
            [cell["harm"] for cell in adapted], found["unadapted"]["scores"], found["adapted"]["scores"]
        )
        found["adapted"] |= {"names": names, "harm": harm, "diverged": diverged(found, names)}
    return found


def _pooled_cell(cells: Sequence[Table]) -> dict[str, Any]:
    scores = [score for cell in cells for score in cell["scores"]]
    lower = cells[0]["worst_tenth"] >= cells[0]["mean"]  # of losses the worst are the largest
    summary = summarise(scores, higher_is_better=not lower)
    found = asdict(summary) | {"ci95": None if summary.clients == 1 else summary.ci95}
    also = [cell["also"] for cell in cells if "also" in cell]
    if also:
        weights = [cell["clients"] for cell in cells]
        found["also"] = {name: _mean(name, [each.get(name) for each in also], weights) for name in also[0]}
        found["also"] = {name: value for name, value in found["also"].items() if value is not None}
    return found


def _mean(name: str, values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """Over clients; of RMSE the root of the mean square."""
    pairs = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    if not pairs:
        return None
    power = 2 if name == "RMSE" else 1
    total = math.fsum(weight * value**power for value, weight in pairs)
    return float((total / sum(weight for _, weight in pairs)) ** (1 / power))


def _in_units(cell: dict[str, Any], trivial: float) -> None:
    if "R²" in cell.get("also", {}) and trivial:
        cell["also"]["R²"] = 1 - cell["mean"] / trivial


def _pooled_harm(each: Sequence[Table], before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Whom adapting harms, over all folds: tested client by client in each."""
    tested, hurt = sum(harm["tested"] for harm in each), [name for harm in each for name in harm["clients"]]
    gains = [b - a for b, a in zip(before, after, strict=True)]
    wins, losses = [g for g in gains if g > 0], [-g for g in gains if g < 0]
    return {
        "tested": tested,
        "clients": hurt,
        "share": len(hurt) / tested if tested else None,
        "interval": list(wilson(len(hurt), tested)) if tested else None,
        "mean_gain": math.fsum(wins) / len(wins) if wins else 0.0,
        "mean_harm": math.fsum(losses) / len(losses) if losses else 0.0,
    }
