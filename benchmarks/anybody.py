"""A start for anybody's table: an exact linear base, empirical Bayes on it, and an honest choice of how to adapt.

Seven tables with many real clients, and columns encoded simply. Clients are split 60/10/30 into those to fit on, those
that choose the strength, and those that are never seen. Rows are numbers of a client's own examples; a loss is the
squared error in parts of the target's variance, or the log-loss in nats; ± is the 95 % interval of the paired gain over
the linear model.

    python benchmarks/anybody.py --root DATA
    python benchmarks/anybody.py --only gapminder verbagg exam
    python benchmarks/anybody.py --only exam verbagg --epsilon 4

The tables are read from ROOT/tables/NAME.csv.
"""

import argparse
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.cross_fitted import cross_fitted
from seedbed.algorithms.fed_eb import frozen, with_prior
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, TaskSource, batches, fresh_support, support_query
from seedbed.engines import Vectorised
from seedbed.evaluation import per_example
from seedbed.experiments.honest_choice import BIAS, NONE, Losses, Way, choose, fold_of, judge, learn
from seedbed.experiments.linear_base import Remembered, fit, fit_chosen
from seedbed.federated import Algorithm
from seedbed.learning.effects import Columns, head_effects, likelihood, with_effects
from seedbed.learning.objectives import cross_entropy, squared_error, supervised
from seedbed.privacy.differential import Independent, Noise, noise_for, with_privacy
from seedbed.rounds import synchronous

Array = NDArray[np.float64]
FOLDS, ROUNDS, DRAWS, LEVELS = 5, 15, 3, 20
PRIVATE_ROUNDS, CLIP = 5, 2.0


@dataclass(frozen=True)
class Table:
    name: str
    client: str
    target: str
    drop: tuple[str, ...] = ()


TABLES = [
    Table("gapminder", "country", "lifeExp"),
    Table("exam", "school", "normexam"),
    Table("verbagg", "id", "r2", drop=("item",)),
    Table("flights", "dest", "late"),
    Table("chem97", "school", "score"),
    Table("insteval", "s", "y"),
    Table("penguins", "island", "species"),
]


def encoded(column: pd.Series) -> list[Array]:
    """A number: log where its tail is long, robustly scaled, cut at 4, gaps 0 with an indicator. A word: its levels."""
    gap = column.isna().to_numpy()
    if not pd.api.types.is_numeric_dtype(column):
        levels = sorted(column.dropna().unique())
        return [(column == level).to_numpy(float) for level in levels[1:]] if len(levels) <= LEVELS else []
    x = column.to_numpy(float)
    low, mid, high = np.nanquantile(x, [0.02, 0.5, 0.98])
    if np.nanmin(x) > 0 and high > low and abs(high + low - 2 * mid) / (high - low) > 0.5:
        x = np.log(x)
    q1, mid, q3 = np.nanquantile(x, [0.25, 0.5, 0.75])
    scale = (q3 - q1) / 1.349 or np.nanstd(x) or 1.0
    x = np.nan_to_num(np.clip((x - mid) / scale, -4, 4))
    x = (x - x.mean()) / (x.std() or 1.0)
    return [x, gap.astype(float)] if gap.any() else [x]


def read(table: Table, root: Path) -> Population:
    """The table as a population; a numeric target is standardised."""
    frame = pd.read_csv(root / "tables" / f"{table.name}.csv").dropna(subset=[table.target])
    columns = [c for c in frame if c not in (table.client, table.target, *table.drop)]
    x = np.stack([each for c in columns for each in encoded(frame[c])], 1)
    y = frame[table.target]
    numeric = pd.api.types.is_numeric_dtype(y)
    classes = () if numeric else tuple(sorted(y.unique()))
    target = (y - y.mean()) / y.std() if numeric else y.map({name: i for i, name in enumerate(classes)})
    return Population.from_arrays(
        torch.tensor(x), torch.tensor(target.to_numpy()), frame[table.client].to_numpy(), classes=classes
    )


def linear(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["head.weight"].T + params["head.bias"]


def inputs(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x


class Study:
    """One table, one split."""

    def __init__(self, people: Population, seed: int):
        known, self.unseen = people.split_clients(unseen=0.3, seed=seed)
        self.known, self.seed = known, seed
        self.fitting, self.validating = known.split_clients(unseen=1 / 7, seed=seed)
        self.loss = cross_entropy if people.classes else squared_error
        outputs, columns = len(people.classes) or 1, people.x.shape[1]
        self.objective = supervised(linear, self.loss)
        self.blank = {"head.weight": torch.zeros(outputs, columns), "head.bias": torch.zeros(outputs)}
        self.newton = outputs * columns <= 100
        self.outputs = outputs

    def engine(self, people: Population) -> Vectorised:
        return Vectorised(Remembered(Sampled(people, batches(None), seed=self.seed)))

    def base(self) -> tuple[Mapping[str, Tensor], list[Mapping[str, Tensor]], Mapping[int, int], str]:
        """The start of all known clients, those without each fold, who is in which, and what was done."""
        judges = self.validating.pooled()
        x, y = judges.x[judges.rows], judges.y[judges.rows]
        chosen = fit_chosen(
            self.objective, self.engine(self.fitting), self.blank,
            lambda params: float(self.loss(linear(params, x), y).mean()), newton=self.newton,
        )  # fmt: skip
        [start], more = fit(
            self.objective, self.engine(self.known), chosen.params, [chosen.strength], newton=self.newton
        )
        folds = fold_of(range(len(self.known)), min(FOLDS, len(self.known)), seed=self.seed)
        parts = []
        for fold in sorted(set(folds.values())):
            rest = self.known.only([c for c in folds if folds[c] != fold])
            parts.append(fit(self.objective, self.engine(rest), start, [chosen.strength], newton=self.newton)[0][0])
        return start, parts, folds, f"λ {chosen.strength:g}, {chosen.rounds} + {more} rounds"

    def ways(self, *, start: float = 0.003) -> dict[str, Way]:
        ways = {NONE: Way(frozen(), per_example(linear, self.loss))}
        names: list[Columns] = ["bias", "slopes"]
        for columns in names:
            effects = head_effects(inputs, columns)
            algorithm = with_prior(
                frozen(), linear, effects, lambda params: likelihood(self.loss, self.outputs), start=start
            )
            ways[columns] = Way(algorithm, per_example(with_effects(linear, effects), self.loss), ROUNDS)
        return ways

    def sources(self, people: Population) -> dict[str, TaskSource]:
        """Episodes by number of examples, of the clients that are large enough."""
        found: dict[str, TaskSource] = {}
        for shots in (5, 20):
            sampler = fresh_support(shots, draws=DRAWS)
            found[str(shots)] = Several(
                people, sampler, self.seed, [c for c, n in enumerate(people.sizes) if n > shots]
            )
        large = [c for c, n in enumerate(people.sizes) if n >= 4]
        found["half"] = Several(people, support_query(0.5), self.seed, large)
        return {size: source for size, source in found.items() if source.clients}


class Several(Sampled):
    """Sampled, of some of a population's clients."""

    def __init__(self, people: Population, sampler: object, seed: int, clients: Sequence[int]):
        super().__init__(people, sampler, seed=seed, purpose="judge")  # type: ignore[arg-type]
        self.clients = clients  # type: ignore[assignment]


def study(table: Table, people: Population, seed: int) -> None:
    begun = time.perf_counter()
    made = Study(people, seed)
    start, parts, folds, words = made.base()
    ways, engine = made.ways(), made.engine(made.known)
    judged = judge(ways, engine, tree.stack(parts), folds, made.sources(made.known), seed=seed)
    priors = {name: way.algorithm.init(start) for name, way in ways.items()}
    cross = {name: cross_prior(way, engine, parts, folds, made) for name, way in ways.items()}
    states = {name: priors[name]._replace(extra=cross[name]) for name in ways}
    for size, source in made.sources(made.unseen).items():
        scores: dict[str, dict[int, float]] = {}
        for name, way in ways.items():
            found = Vectorised(source).evaluate(way.algorithm, states[name], source, way.metric)
            scores[name] = {c: float(s.double().mean()) for c, s in found.items()}
        taken = choose(judged[size]) if size in judged else NONE
        print(f"{table.name:>10} {size:>4}  {row(scores, taken)}   {len(source.clients)} clients", flush=True)
    print(f"{'':>10} {words}; {time.perf_counter() - begun:.0f} s", flush=True)


def cross_prior(
    way: Way, engine: Vectorised, parts: list[Mapping[str, Tensor]], folds: Mapping[int, int], made: Study
) -> object:
    """What the server holds beside the start: a prior learned on cross-fitted scores."""
    algorithm = cross_fitted(way.algorithm, folds)
    return learn(algorithm, engine, algorithm.init(tree.stack(parts)), list(engine.population), way.rounds).extra


def private_cost(table: Table, people: Population, seed: int, target: float) -> None:
    """What client-level privacy of the prior costs at 5 examples: five releases, mean and worst of four keys."""
    made = Study(people, seed)
    start, *_ = made.base()
    engine, source, count = made.engine(made.known), made.sources(made.unseen)["5"], len(made.known)
    z = noise_for(target, 1e-5, times=PRIVATE_ROUNDS)
    for name, way in made.ways(start=0.1).items():
        if name != NONE:
            keys = [Noise(bytes([k] * 32)) for k in range(4)]
            noisy = [with_privacy(way.algorithm, Independent(key, z, count, count), clip=CLIP) for key in keys]
            plain, *found = (
                judged_after(algorithm, engine, start, source, way) for algorithm in (way.algorithm, *noisy)
            )
            print(f"{table.name:>10} {count} clients {name}: plain {plain:.4f}, ε {target:g} {np.mean(found):.4f}, "
                  f"worst {max(found):.4f}", flush=True)  # fmt: skip


def judged_after(algorithm: Algorithm, engine: Vectorised, start: object, source: TaskSource, way: Way) -> float:
    """The mean loss of new clients after five rounds."""
    for round in synchronous(algorithm, engine, algorithm.init(start), gate=None):
        if round.number == PRIVATE_ROUNDS:
            break
    scores = Vectorised(source).evaluate(algorithm, round.state, source, way.metric)
    return float(np.mean([float(s.mean()) for s in scores.values()]))


def row(scores: Losses, taken: str) -> str:
    means = {name: math.fsum(each.values()) / len(each) for name, each in scores.items()}
    words = [f"{name} {mean:.4f}" for name, mean in means.items()]
    for over in (NONE, BIAS):
        gains = np.array([scores[taken][c] - scores[over][c] for c in scores[taken]])
        width = 1.96 * gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        words.append(f"{taken} − {over} {gains.mean():+.4f} ± {width:.4f}")
    return "   ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, default=os.environ.get("SEEDBED_DATA"), help="the folder that holds tables/"
    )
    parser.add_argument("--only", nargs="*", default=[table.name for table in TABLES])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--epsilon", type=float, help="what this much privacy of the prior costs, instead")
    asked = parser.parse_args()
    if asked.root is None:
        parser.error("name the folder that holds tables/ by --root or SEEDBED_DATA")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for table in TABLES:
        if table.name in asked.only:
            people = read(table, asked.root)
            for seed in asked.seeds:
                if asked.epsilon is None:
                    study(table, people, seed)
                else:
                    private_cost(table, people, seed, asked.epsilon)


if __name__ == "__main__":
    main()
