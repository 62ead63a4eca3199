"""A linear start fitted exactly, its strength chosen on clients that the fit has not seen."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from seedbed.algorithms.fed_lbfgs import PATH, fed_lbfgs, solutions
from seedbed.data.sampling import TaskSource, TaskSourceWrapper
from seedbed.data.types import Task
from seedbed.federated import Engine, Params
from seedbed.learning.lbfgs import is_done
from seedbed.learning.training import Objective
from seedbed.rounds import synchronous

FINE, COARSE = 1e-7, 1e-5  # of the objective: for the start; for starts that only choose
WIDER, WIDENINGS, MOST_ROUNDS = 10.0, 3, 500


class Fit(NamedTuple):
    strength: float
    params: Params
    tried: dict[float, float]  # the validation loss of each strength
    rounds: int


class Remembered(TaskSourceWrapper):
    """A source whose clients work on the same task in every round, drawn once."""

    def __init__(self, source: TaskSource):
        super().__init__(source)
        self._drawn: dict[tuple[int, ...], Task] = {}

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        key = tuple(clients)
        if key not in self._drawn:
            self._drawn[key] = self.source.tasks(clients, 0)
        return self._drawn[key]


def fit(
    loss: Objective,
    engine: Engine,
    params: Params,
    strengths: Sequence[float],
    *,
    newton: bool = False,
    tolerance: float = FINE,
) -> tuple[list[Params], int]:
    """The solution of each strength, from large to small, and how many rounds it took: one evaluation each."""
    method: Literal["newton", "lbfgs"] = "newton" if newton else "lbfgs"
    algorithm = fed_lbfgs(loss, strengths=tuple(strengths), method=method, tolerance=tolerance)
    state, rounds = algorithm.init(params), 0
    for round in synchronous(algorithm, engine, state):
        state, rounds = round.state, round.number
        if is_done(state.extra) or rounds == MOST_ROUNDS:
            break
    return [*solutions(state), state.params][: len(strengths)], rounds


class Split(NamedTuple):
    """Clients to fit on, whose tasks hold each example once, and the loss on others; less is better."""

    engine: Engine
    validate: Callable[[Params], float]


def fit_chosen(
    loss: Objective,
    engine: Engine,
    params: Params,
    validate: Callable[[Params], float],
    *,
    strengths: Sequence[float] = PATH,
    newton: bool = False,
) -> Fit:
    """The fit of the strength that validation likes best: `fit_over` of one split."""
    return fit_over(loss, [Split(engine, validate)], params, strengths=strengths, newton=newton)


def fit_over(
    loss: Objective,
    splits: Sequence[Split],
    params: Params,
    *,
    strengths: Sequence[float] = PATH,
    newton: bool = False,
) -> Fit:
    """The strength that validation likes best in the mean over splits, and the fit of the first one.

    A best at the path's edge widens the path, three times at most.
    """
    found: dict[float, list[Params]] = {}
    tried: dict[float, float] = {}
    rounds = 0

    def add(more: Sequence[float], starts: Sequence[Params]) -> None:
        nonlocal rounds
        fitted = []
        for split, start in zip(splits, starts, strict=True):
            points, took = fit(loss, split.engine, start, more, newton=newton, tolerance=COARSE)
            fitted.append(points)
            rounds += took
        for strength, *each in zip(more, *fitted, strict=False):
            found[strength] = each
            tried[strength] = fmean(split.validate(one) for split, one in zip(splits, each, strict=True))

    def best() -> float:
        return min(tried, key=lambda s: tried[s] if math.isfinite(tried[s]) else math.inf)

    add(sorted(strengths, reverse=True), [params] * len(splits))
    for _ in range(WIDENINGS):
        at = best()
        if at == min(tried):
            add([at / WIDER], found[at])
        elif at == max(tried):
            add([at * WIDER], found[at])
        else:
            break
    return Fit(best(), found[best()][0], tried, rounds)
