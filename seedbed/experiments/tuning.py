"""Choosing how clients adapt: on validation clients that the model never saw, not on those that it is judged by."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import torch

from seedbed.algorithms.catalogue import CatalogueEntry
from seedbed.data.sampling import TaskSource
from seedbed.evaluation import to_newcomers
from seedbed.experiments.config import Row
from seedbed.experiments.factories import setting, with_setting
from seedbed.federated import Algorithm, Engine, ServerState, personalise_by
from seedbed.learning.finetuning import FineTuning, Scored, adapt_along_path
from seedbed.learning.objectives import Adapt, Metric

HEAD_RATES, HEAD_STEPS = (0.01, 0.1, 1.0), (20, 100)
RATES, STEPS = (0.01, 0.1), (5, 20)
OWN_STEPS = (1, 5, 20)  # beside none, and the factory's default
OWN_RATES = (0.1, 1.0, 10.0)  # times the factory's default


class TriedRates(NamedTuple):
    """Settings with their learning rates multiplied by a factor, and how clients adapt then, by number of shots."""

    factor: float
    options: Mapping[str, Any]
    adapting: Mapping[Row, Scored]

    @property
    def score(self) -> float:
        """The mean over the numbers of shots."""
        return fmean(scored.score for scored in self.adapting.values())


S = TypeVar("S", Scored, TriedRates)


class Judge(NamedTuple):
    """Validation clients.

    Attributes:
        state: of a model that was trained without them.
        source: their episodes.
    """

    engine: Engine
    state: ServerState
    source: TaskSource
    metric: Metric
    higher_is_better: bool

    def scores(self, algorithm: Algorithm, *, metric: Metric | None = None) -> list[float]:
        """The mean over clients and their episodes, of each point of a path if the metric is of several.

        The probe never saw these clients, so they are newcomers, as the unseen clients are that the choice is for.
        """
        algorithm = to_newcomers(algorithm)
        found = self.engine.evaluate(algorithm, self.state, self.source, metric or self.metric).values()
        means = torch.stack([s.double().mean(0) for s in found]).mean(0).reshape(-1).tolist()
        return [mean if self.higher_is_better else -mean for mean in means]


def choose_finetuning(
    adapt: Callable[[FineTuning, Sequence[int]], Adapt], algorithm: Algorithm, judge: Judge, *, has_head: bool
) -> Scored:
    """The best of: the head alone, all layers, the best head and then all layers; over rates and numbers of steps.

    Args:
        adapt: a way and numbers of steps to look at -> the adaptation whose result is the params there, stacked.
    """

    def path(how: FineTuning, at: Sequence[int]) -> Iterator[Scored]:
        on_the_way = replace(algorithm, personalise=personalise_by(adapt(how, at)))
        for steps, mean in zip(at, judge.scores(on_the_way, metric=adapt_along_path(judge.metric)), strict=True):
            reached = replace(how, head_steps=steps) if how.layers == "head" else replace(how, steps=steps)
            yield Scored(mean, reached)

    longest = STEPS[-1]
    found = [each for lr in RATES for each in path(FineTuning("all", steps=longest, lr=lr), STEPS)]
    if has_head:
        heads = [
            each
            for lr in HEAD_RATES
            for each in path(FineTuning("head", head_steps=HEAD_STEPS[-1], head_lr=lr), HEAD_STEPS)
        ]
        head = best_trial(heads).how
        assert head is not None
        both = replace(head, layers="head_then_all", steps=longest)
        found += heads + [each for lr in RATES for each in path(replace(both, lr=lr), STEPS)]
    return best_trial(found)


def choose_own_steps(
    algorithm: Callable[[FineTuning], Algorithm], judge: Judge, usual: FineTuning, rates: Sequence[float]
) -> Scored:
    """The best number of an algorithm's own adaptation steps, none included, and their rate if it can be set.

    Args:
        usual: the algorithm's own way under its settings (`usual_steps`): it is tried first, and wins a tie.
        rates: learning rates to try (`own_rates`).
    """
    others = [replace(usual, steps=k, lr=lr) for lr in rates for k in OWN_STEPS]
    ways = dict.fromkeys((usual, replace(usual, steps=0), *others))
    return best_trial(Scored(judge.scores(algorithm(how))[0], how) for how in ways)


def usual_steps(entry: CatalogueEntry, options: Mapping[str, Any]) -> FineTuning:
    """The adaptation steps of an algorithm under these settings; lr 0: their rate is no setting.

    >>> from seedbed.algorithms.catalogue import CATALOGUE
    >>> str(usual_steps(CATALOGUE["fd"], {})), str(usual_steps(CATALOGUE["pfedme"], {"steps": 3}))
    ('its own, 100 steps of lr 0.1', 'its own, 3 steps')
    """
    steps = setting(entry.factory, options, "test_steps")
    steps = setting(entry.factory, options, "steps") if steps is None else steps
    rate = setting(entry.factory, options, "test_lr") if "test_lr" in entry.settings else 0.0
    return FineTuning("own", steps=steps, lr=rate)


def own_rates(usual: FineTuning, options: Mapping[str, Any]) -> list[float]:
    """The rates to try beside the usual one: only that, where the user has set it or there is none to set."""
    fixed = "test_lr" in options or not usual.lr
    return [usual.lr] if fixed else [float(f"{usual.lr * factor:.6g}") for factor in OWN_RATES]


def best_trial(found: Iterable[S]) -> S:
    """The first of the highest score; what diverged has none."""
    return max(found, key=lambda scored: -math.inf if math.isnan(scored.score) else scored.score)


def scale_rates(entry: CatalogueEntry, options: Mapping[str, Any], factor: float) -> Mapping[str, Any]:
    """The settings with each of the entry's learning rates times the factor.

    >>> from seedbed.algorithms.catalogue import CATALOGUE
    >>> scale_rates(CATALOGUE["fedavg"], {"local": {"momentum": 0.9}}, 3)
    {'local': {'momentum': 0.9, 'lr': 0.3}}
    """
    for key in entry.rates:
        # Rounded, so that settings are written as people would write them: 0.3, not 0.30000000000000004.
        options = with_setting(options, key, float(f"{factor * setting(entry.factory, options, key):.6g}"))
    return options
