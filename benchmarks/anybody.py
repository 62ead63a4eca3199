"""A default run on anybody's data: the client and the target by name, nothing else, beside floors on the same splits.

Every set is run as `seedbed run --data SET --client C --target T` for each seed. For each number of examples the table
says the adapted loss and, for each floor, adapted less the floor with its 95 % interval, client by client; a client
counts once over the seeds, by its mean. The floors: the start before adapting (which is pooled linear regression),
FedAvg + fine-tuning, a client's own regression, and the pooled linear model with an empirical-Bayes intercept. Last,
the differences on the worse side that remain after Holm's correction over all sets.

    python benchmarks/anybody.py --root DATA --out runs/anybody
    python benchmarks/anybody.py --root DATA --only gapminder verbagg --seeds 0 1 2

Tables are read from ROOT/tables/NAME.csv, named sets from ROOT; a run that is there already is not run again.
"""

import argparse
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from scipy import special

from seedbed.evaluation import summarise
from seedbed.experiments.builder import Learner
from seedbed.experiments.config import settings_from
from seedbed.experiments.launch import population_for, resume_run, start_run, trained_start
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.stages import Show
from seedbed.experiments.table_run import pipeline_for
from seedbed.learning.finetuning import FineTuning

TABLES = {  # the client's column and the target's
    "gapminder": ("country", "lifeExp"),
    "exam": ("school", "normexam"),
    "verbagg": ("id", "r2"),
    "flights": ("dest", "late"),
    "chem97": ("school", "score"),
    "insteval": ("s", "y"),
    "penguins": ("island", "species"),
}
NAMED = ("heart_disease", "parkinsons_telemonitoring", "sp_sw_har", "credit_default")
FLOORS = ("unadapted", "fedavg_finetuned", "local", "intercept")
Scores = Mapping[str, Mapping[str, float]]  # by column and client


class Difference(NamedTuple):
    """Adapted less a floor; above 0 is worse."""

    name: str
    row: str
    floor: str
    mean: float
    half: float
    p: float  # that it is worse, one-sided


def settings(name: str, root: Path) -> dict[str, Any]:
    if name not in TABLES:
        return {"data": name, "data_dir": str(root)}
    client, target = TABLES[name]
    return {"data": str(root / "tables" / f"{name}.csv"), "reader": {"client": client, "target": target}}


def run(name: str, root: Path, seed: int, out: Path) -> dict[str, Any]:
    """The result of a default run, with the intercept's column."""
    if (out / "manifest.json").exists():
        result = resume_run(out, Show())
    else:
        _, result = start_run({**settings(name, root), "seed": seed}, (), None, out, Show())
    if "choice" not in result:
        return result
    return {**result, "unseen": {row: {**cells, "intercept": intercept(out)[row]["adapted"]}
                                 for row, cells in result["unseen"].items()}}  # fmt: skip


def intercept(out: Path) -> Mapping[str, Any]:
    """The table of the run's linear base with the posterior of an intercept, whatever was chosen."""
    opened = RunDirectory.open(out)
    chosen = settings_from(opened.manifest["settings"])
    experiment = plan(divide(chosen, population_for(chosen)))
    trained = trained_start(opened, Learner(chosen, experiment.shape))
    ways = {row: FineTuning("bias") for row in experiment.shots}
    return pipeline_for(opened, experiment).table(replace(trained, finetuning=ways), {}, experiment.unseen)


def by_client(results: Sequence[Mapping[str, Any]], row: str) -> Scores:
    """Each client's mean over the seeds that judged it."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        cells = result["unseen"].get(row, {})
        names = cells.get("adapted", {}).get("names", ())
        for column, cell in cells.items():
            for client, score in zip(names, cell["scores"], strict=False):
                found[column][client].append(score)
    return {column: {c: fmean(scores) for c, scores in each.items()} for column, each in found.items()}


def differences(name: str, row: str, scores: Scores) -> Iterator[Difference]:
    for floor in FLOORS:
        if floor in scores:
            each = [scores["adapted"][c] - scores[floor][c] for c in scores["adapted"]]
            found = summarise(each, higher_is_better=False)
            n = found.clients
            t = found.mean / (found.ci95 / special.stdtrit(n - 1, 0.975)) if n > 1 and found.ci95 else 0.0
            yield Difference(name, row, floor, found.mean, found.ci95, float(special.stdtr(max(n - 1, 1), -t)))


def study(name: str, root: Path, seeds: Sequence[int], out: Path) -> list[Difference]:
    """Run a set and print its table."""
    begun = time.perf_counter()
    results = [run(name, root, seed, out / f"{name}-{seed}") for seed in seeds]
    found: list[Difference] = []
    for row in results[0]["unseen"]:
        scores = by_client(results, row)
        if not scores:  # a set that is no table
            print(name, row, {c: round(cell["mean"], 4) for c, cell in results[0]["unseen"][row].items()}, flush=True)
            continue
        worst = max(scores["adapted"].values()) / fmean(scores["trivial"].values())
        mine = list(differences(name, row, scores))
        found += mine
        words = "  ".join(f"{d.floor} {d.mean:+.4f} ± {d.half:.4f}" for d in mine)
        mean, clients = fmean(scores["adapted"].values()), len(scores["adapted"])
        print(f"{name:>12} {row:>4}  adapted {mean:.4f} of {clients} clients", end="  ")
        print(f"less {words}  worst {worst:.1f} × trivial", flush=True)
    print(f"{'':>12} {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def holm(found: Sequence[Difference], level: float = 0.025) -> list[Difference]:
    """Those that are worse after Holm's correction, Scandinavian Journal of Statistics 1979."""
    worse = []
    for place, each in enumerate(sorted(found, key=lambda d: d.p)):
        if math.isnan(each.p) or each.p > level / (len(found) - place):
            break
        worse.append(each)
    return worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("SEEDBED_DATA")
    parser.add_argument("--root", type=Path, default=root, help="the folder that holds tables/ and named sets")
    parser.add_argument("--only", nargs="*", default=[*TABLES, *NAMED])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/anybody"))
    asked = parser.parse_args()
    if asked.data_dir is None:
        parser.error("name the folder that holds tables/ by --root or SEEDBED_DATA")
    torch.set_num_threads(1)
    found = [each for name in asked.only for each in study(name, asked.data_dir, asked.seeds, asked.out)]
    for floor in FLOORS:
        worse = holm([each for each in found if each.floor == floor])
        print(f"worse than {floor} after Holm's correction: {', '.join(f'{d.name} {d.row}' for d in worse) or 'none'}")


if __name__ == "__main__":
    main()
