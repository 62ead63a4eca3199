"""A linear start fitted exactly, its strength chosen on clients that the fit has not seen."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from seedbed.algorithms.fed_lbfgs import PATH, fed_lbfgs, solutions
from seedbed.data.sampling import TaskSource, TaskSourceWrapper
from seedbed.data.types import Task
from seedbed.federated import Engine, Params
from seedbed.learning.lbfgs import is_done
from seedbed.learning.training import Objective
from seedbed.rounds import synchronous

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
    loss: Objective, engine: Engine, params: Params, strengths: Sequence[float], *, newton: bool = False
) -> tuple[list[Params], int]:
    """The solution of each strength, from large to small, and how many rounds it took: one evaluation each."""
    algorithm = fed_lbfgs(loss, strengths=tuple(strengths), method="newton" if newton else "lbfgs")
    state, rounds = algorithm.init(params), 0
    for round in synchronous(algorithm, engine, state):
        state, rounds = round.state, round.number
        if is_done(state.extra) or rounds == MOST_ROUNDS:
            break
    return [*solutions(state), state.params][: len(strengths)], rounds


def fit_chosen(
    loss: Objective,
    engine: Engine,
    params: Params,
    validate: Callable[[Params], float],
    *,
    strengths: Sequence[float] = PATH,
    newton: bool = False,
) -> Fit:
    """The fit of the strength that validation likes best; a best at the path's edge widens it, three times at most.

    Args:
        engine: the clients to fit on, whose tasks hold each example once.
        validate: the loss on clients that are not among them; less is better.
    """
    found: dict[float, Params] = {}
    tried: dict[float, float] = {}
    rounds = 0

    def add(more: Sequence[float], start: Params) -> None:
        nonlocal rounds
        fitted, took = fit(loss, engine, start, more, newton=newton)
        rounds += took
        for strength, one in zip(more, fitted, strict=False):
            found[strength], tried[strength] = one, validate(one)

    def best() -> float:
        return min(tried, key=lambda s: tried[s] if math.isfinite(tried[s]) else math.inf)

    add(sorted(strengths, reverse=True), params)
    for _ in range(WIDENINGS):
        at = best()
        if at == min(tried):
            add([at / WIDER], found[at])
        elif at == max(tried):
            add([at * WIDER], found[at])
        else:
            break
    return Fit(best(), found[best()], tried, rounds)
