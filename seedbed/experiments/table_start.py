"""A run's start for tables: an exact linear base, priors of the clients' effects, and an honest choice of how to adapt.

The base is fitted by summed gradients, its strength chosen on validation clients, and refitted with all known clients.
Cross-fitted over folds of clients, it gives the scores that the ways to adapt are judged by and that the priors are
learned from. Everything follows from the seed and takes seconds, so that a resumed run computes it again.

Shapes: F folds.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from torch import Tensor

from seedbed import randomness, tree
from seedbed.algorithms.cross_fitted import cross_fitted
from seedbed.algorithms.exact_start import with_priors
from seedbed.algorithms.fed_eb import frozen, with_prior
from seedbed.data.encoding.places import slope_places
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, TaskSource, batches
from seedbed.engines import Vectorised
from seedbed.evaluation import per_example
from seedbed.experiments.builder import Learner
from seedbed.experiments.config import Row
from seedbed.experiments.conformal import START, interval_from_residuals, residual_metric
from seedbed.experiments.honest_choice import (
    FEW,
    MOST_LEARNERS,
    NONE,
    Among,
    Losses,
    Way,
    choose,
    fold_of,
    judge,
    learn,
    some_of,
)
from seedbed.experiments.linear_base import COARSE, MOST_ROUNDS, Fit, Remembered, Split, fit, fit_over
from seedbed.experiments.personal_model import Interval, spread_of
from seedbed.experiments.run_plan import RunPlan, large_enough, row_sampler
from seedbed.federated import Algorithm, Params, ServerState
from seedbed.learning.effects import Effects, with_effects
from seedbed.learning.empirical_bayes import Prior
from seedbed.learning.finetuning import FineTuning, Layers
from seedbed.learning.objectives import Predict, supervised
from seedbed.models import Model

FOLDS, ROUNDS, DRAWS = 5, 15, 3
MANY = 20  # known clients, from which on a fifth chooses the strength
SMALL = 100  # numbers of a model up to which Newton's method is used
MOST_EFFECTS = {True: 256, False: 64}  # of a client, where the posterior is in closed form, or not
MANY_CLASSES = MOST_EFFECTS[False]  # more have no intercepts of a client's own: a posterior of K takes K³ steps
NO_STRENGTH = 0.03  # of the base where there is one known client


@dataclass(frozen=True)
class Start:
    """What was trained and why.

    Attributes:
        params: the base and the priors.
        chosen: how clients adapt, by row.
        losses: what that was chosen by, by the row's name.
        places: the features that have slopes of their own.
    """

    params: Params
    chosen: Mapping[Row, FineTuning]
    losses: Mapping[str, Losses]
    places: tuple[int, ...]
    base: Fit
    priors: Mapping[str, Prior]
    falling: bool = False  # whether the base's loss was still falling when its rounds were over
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # of predicted numbers, by row and before adapting


class TableStart:
    """Makes the start of an experiment.

    Args:
        model: a linear one.
    """

    def __init__(self, experiment: RunPlan, model: Model):
        self.experiment, self.model, self.learner = experiment, model, experiment.learner
        self.known, self.seed = experiment.train, experiment.settings.seed
        self.blank = {name: p.new_zeros(p.shape) for name, p in model.params.items()}
        self.objective = supervised(model.predict, self.learner.loss)
        self.falling = False
        self.newton = sum(p.numel() for p in self.blank.values()) <= SMALL

    def make(self) -> Start:
        base = self._base()
        places = self._places()
        if len(self.known) < 2:  # nothing can be learned over clients
            rows = self.experiment.shots
            chosen = {row: self._chosen(None) for row in rows}
            return Start(self._whole(base.params, {}, ()), chosen, {}, (), base, {}, self.falling)
        folds = fold_of(range(len(self.known)), min(FOLDS, len(self.known)), seed=self.seed)
        starts = tree.stack([self._without(fold, folds, base) for fold in range(1 + max(folds.values()))])
        ways, engine = self.ways(places), self._engine(self.known)
        kept: dict[tuple[str, str], dict[int, Tensor]] = defaultdict(dict)

        def keep(size: str, way: str, client: int, residuals: Tensor) -> None:
            kept[size, way][client] = residuals

        losses = judge(ways, engine, starts, folds, self._sources(), seed=self.seed, keep=keep)
        chosen = {row: self._chosen(losses.get(str(row))) for row in self.experiment.shots}
        priors = {name: self._prior(way, starts, folds, engine) for name, way in ways.items() if way.rounds}
        return Start(
            self._whole(base.params, priors, places), chosen, losses, places, base, priors, self.falling,
            intervals(chosen, kept),
        )  # fmt: skip

    def _whole(self, params: Params, priors: Mapping[str, Prior], places: tuple[int, ...]) -> Params:
        """The params of a start, as its file holds them: a prior that was not learned is as it begins."""
        algorithm, _ = self.learner.exact(self.model, {"slopes": places}, None)
        return algorithm.init(with_priors(params, priors)).params

    def _sources(self) -> dict[str, TaskSource]:
        """Episodes of the known clients that are large enough, by row. Clients keep their numbers."""
        found: dict[str, TaskSource] = {}
        for row in self.experiment.shots:
            source = Sampled(self.known, row_sampler(row, DRAWS), seed=self.seed, purpose="choice")
            if clients := large_enough(self.known, row):
                found[str(row)] = Among(source, clients)
        return found

    def _chosen(self, losses: Losses | None) -> FineTuning:
        """How clients adapt, by these losses; as they are, where no known client is large enough to judge."""
        return FineTuning(cast(Layers, NONE if losses is None else choose(losses)))

    # ---- the base ------------------------------------------------------------------------------------------------

    def _engine(self, people: Population) -> Vectorised:
        return Vectorised(Remembered(Sampled(people, batches(None), seed=self.seed)))

    def _base(self) -> Fit:
        """The base of all known clients, its strength chosen on clients that a fit has not seen."""
        known = self.known
        if len(known) < 2:
            fitted, rounds = fit(self.objective, self._engine(known), self.blank, [NO_STRENGTH], newton=self.newton)
            return Fit(NO_STRENGTH, fitted[0], {}, rounds)
        found = fit_over(self.objective, self._splits(), self.blank, newton=self.newton)
        fitted, more = fit(self.objective, self._engine(known), found.params, [found.strength], newton=self.newton)
        self.falling = more >= MOST_ROUNDS
        return Fit(found.strength, fitted[0], found.tried, found.rounds + more)

    def _splits(self) -> list[Split]:
        """Known clients to fit on and to choose by: a fifth of them, or of few clients each in turn."""
        order = randomness.generator(self.seed, "validation clients").permutation(len(self.known)).tolist()
        if len(order) >= MANY:
            return [self._split(order[: round(len(order) / 5)])]
        folds = min(FOLDS, len(order))
        return [self._split(order[fold::folds]) for fold in range(folds)]

    def _split(self, apart: Sequence[int]) -> Split:
        """Fit without these clients, validate on their rows."""
        judges = self.known.only(sorted(apart)).pooled()
        x, y = tree.to_device_of((judges.inputs(judges.rows), judges.y[judges.rows]), self.blank)

        def validate(params: Params) -> float:
            return float(self.learner.loss(self.model.predict(params, x), y).mean())

        rest = self.known.only(sorted(set(range(len(self.known))) - set(apart)))
        return Split(self._engine(rest), validate)

    def _without(self, fold: int, folds: Mapping[int, int], base: Fit) -> Params:
        """The base without the clients of a fold."""
        rest = self.known.only([c for c in folds if folds[c] != fold])
        engine, strength = self._engine(rest), [base.strength]
        fitted, _ = fit(self.objective, engine, base.params, strength, newton=self.newton, tolerance=COARSE)
        return fitted[0]

    # ---- the ways to adapt ---------------------------------------------------------------------------------------

    def _places(self) -> tuple[int, ...]:
        """The features with slopes; none for few clients, or where they would be too many to solve for."""
        if len(self.known) < FEW:
            return ()
        known, encoding = self.known, self.experiment.population.encoding
        owners = np.repeat(np.arange(len(known)), known.sizes)
        found = slope_places(encoding["columns"], known.x[known.rows].numpy(), owners)
        regression = self._numbers
        effects = (1 + len(found)) * (1 if self.learner.shape.classes in (0, 2) else self.learner.shape.classes)
        return found if effects <= MOST_EFFECTS[regression] else ()

    @property
    def _numbers(self) -> bool:
        """Whether numbers are predicted."""
        return self.learner.shape.classes == 0

    def ways(self, places: Sequence[int]) -> dict[str, Way]:
        ways = {NONE: self._way(frozen(), self.model.predict, None, 0)}
        if has_many_classes(self.learner):
            return ways
        for name, effects in self.learner.effects(self.model, places).items():
            algorithm = with_prior(frozen(), self.model.predict, effects, self.learner.kind(self.model))
            ways[name] = self._way(algorithm, with_effects(self.model.predict, effects), effects, ROUNDS)
        return ways

    def _way(self, algorithm: Algorithm, predict: Predict, effects: Effects | None, rounds: int) -> Way:
        residuals = residual_metric(predict, spread_of(effects)) if self._numbers else None
        return Way(algorithm, per_example(predict, self.learner.loss), rounds, residuals)

    def _prior(self, way: Way, starts: Params, folds: Mapping[int, int], engine: Vectorised) -> Prior:
        """Learned on the scores of bases that were fitted without each client."""
        algorithm = cross_fitted(way.algorithm, folds)
        learners = some_of(engine.population, MOST_LEARNERS, seed=self.seed)
        state: ServerState = learn(algorithm, engine, algorithm.init(starts), learners, way.rounds)
        prior: Prior = state.extra["prior"]
        return prior


def has_many_classes(learner: Learner) -> bool:
    """Whether there are too many classes for a client to have effects on each."""
    return learner.shape.classes > MANY_CLASSES


def intervals(
    chosen: Mapping[Row, FineTuning], residuals: Mapping[tuple[str, str], Mapping[int, Tensor]]
) -> dict[str, Interval]:
    """The interval of the way that was chosen for each row, and of the start, from the row that most clients judge.

    Args:
        residuals: by row and way.
    """
    found = {
        str(row): interval_from_residuals(residuals.get((str(row), how.layers), {})) for row, how in chosen.items()
    }
    plain = [each for (_, way), each in residuals.items() if way == NONE]
    found[START] = interval_from_residuals(max(plain, key=len, default={}))
    return {row: interval for row, interval in found.items() if interval is not None}
