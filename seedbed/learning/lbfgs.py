"""Minimising by gradients computed elsewhere, one evaluation at a time: limited-memory BFGS and Newton's method.

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical Programming 1989; the
recursion is Algorithm 7.4 of Nocedal and Wright, "Numerical optimization", 2006. The line search halves or interpolates
until f falls (Armijo), so that an evaluation is one value and one gradient.

The objective is f(x) + λ/2·‖x‖² over the penalised numbers, for a path of strengths λ, each started from the optimum of
the one before. What is remembered is of f alone, so that it serves every λ.

Shapes: P numbers, M pairs remembered, L strengths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ARMIJO, REMEMBERED, MOST_HALVINGS = 1e-4, 10, 20


class Evaluation(NamedTuple):
    """f at some point."""

    value: Tensor  # []
    slope: Tensor  # [P]
    curve: tuple[Tensor, ...] = ()  # the Hessian [P, P], for Newton's method


class Search(NamedTuple):
    """Where the search is. Every round evaluates f at `trial`."""

    trial: Tensor  # [P]
    point: Tensor  # [P]  the best so far under this λ
    at: Evaluation  # f there
    direction: Tensor  # [P]
    step: Tensor  # []  trial = point + step·direction
    halvings: Tensor  # []  of this step
    steps: Tensor  # [M, P]  past changes of the point, the newest last
    changes: Tensor  # [M, P]  past changes of f's slope
    begun: Tensor  # []  whether `at` is known
    stage: Tensor  # []  which λ; L: done
    solutions: Tensor  # [L, P]
    evaluations: Tensor  # [L]  how many each took


def begin(point: Tensor, strengths: Sequence[float], *, newton: bool) -> Search:
    """The search before its first evaluation, which is of this point [P]."""
    point = point.detach().double()
    size, zero, count = len(point), point.new_zeros(()), torch.zeros((), dtype=torch.int64, device=point.device)
    blank, memory = torch.zeros_like(point), point.new_zeros(REMEMBERED, size)
    curve = (point.new_zeros(size, size),) if newton else ()
    evaluations = torch.zeros(len(strengths), dtype=torch.int64, device=point.device)
    return Search(
        point, point, Evaluation(zero, blank, curve), blank, zero + 1, count, memory, memory, count, count,
        point.new_zeros(len(strengths), size), evaluations,
    )  # fmt: skip


def is_done(search: Search) -> bool:
    """Whether every strength has its solution."""
    return int(search.stage) == len(search.solutions)


def observe(
    search: Search, found: Evaluation, strengths: Sequence[float], penalised: Tensor, tolerance: float
) -> Search:
    """The search after f was evaluated at its trial.

    Args:
        penalised: [P] 1 where λ counts.
        tolerance: a stage ends where the next step promises to lower the objective by no more than this times 1 + |f|.
    """
    if is_done(search):
        return search
    stage = int(search.stage)
    search = search._replace(evaluations=search.evaluations + (torch.arange(len(strengths)).to(search.stage) == stage))
    pull = strengths[stage] * penalised
    if not search.begun:
        return _next(search._replace(at=found, begun=search.begun + 1), strengths, penalised, tolerance)
    before, slope = _value(search.at, search.point, pull), search.at.slope + pull * search.point
    promised = search.step * (slope @ search.direction)
    rise = _value(found, search.trial, pull) - before
    if rise <= ARMIJO * promised:
        return _next(_remembered(search, found), strengths, penalised, tolerance)
    if search.halvings >= MOST_HALVINGS:  # rounding is all that is left
        return _next(_solved(search), strengths, penalised, tolerance)
    shorter = (-promised / (2 * (rise - promised))).nan_to_num(0.1).clamp(0.1, 0.5)
    step = search.step * shorter
    trial = search.point + step * search.direction
    return search._replace(step=step, trial=trial, halvings=search.halvings + 1)


def _value(at: Evaluation, point: Tensor, pull: Tensor) -> Tensor:
    return at.value + 0.5 * (pull * point) @ point


def _remembered(search: Search, found: Evaluation) -> Search:
    """The trial becomes the point."""
    s, y = search.trial - search.point, found.slope - search.at.slope
    moved = search._replace(point=search.trial, at=found)
    if s @ y <= 1e-12 * s.norm() * y.norm():
        return moved
    return moved._replace(
        steps=torch.cat([search.steps[1:], s[None]]), changes=torch.cat([search.changes[1:], y[None]])
    )


def _solved(search: Search) -> Search:
    """The point is this strength's solution."""
    here = torch.arange(len(search.solutions)).to(search.stage) == search.stage
    solutions = torch.where(here[:, None], search.point, search.solutions)
    return search._replace(solutions=solutions, stage=search.stage + 1)


def _next(search: Search, strengths: Sequence[float], penalised: Tensor, tolerance: float) -> Search:
    """The next trial from a known point, under the first strength for which there is something to gain."""
    while not is_done(search):
        pull = strengths[int(search.stage)] * penalised
        slope = search.at.slope + pull * search.point
        direction = _newton(search, slope, pull) if search.at.curve else _lbfgs(search, slope, pull)
        gain = -(slope @ direction) / 2
        if gain > tolerance * (1 + _value(search.at, search.point, pull).abs()):
            known = bool(search.steps[-1].any()) or bool(search.at.curve)
            step = torch.ones_like(gain) if known else 1 / slope.norm().clamp_min(1.0)
            return search._replace(
                direction=direction, step=step, trial=search.point + step * direction, halvings=search.halvings * 0
            )
        search = _solved(search)
    return search._replace(trial=search.point)


def _newton(search: Search, slope: Tensor, pull: Tensor) -> Tensor:
    """−(∇²f + λI)⁻¹(∇f + λx); a direction without curvature is left as it is."""
    values, vectors = torch.linalg.eigh(search.at.curve[0] + torch.diag(pull))
    good = values > 1e-10 * values.max().clamp_min(1e-300)
    inverse = torch.where(good, 1 / torch.where(good, values, 1.0), 0.0)
    direction: Tensor = -vectors @ (inverse * (vectors.T @ slope))
    return direction


def _lbfgs(search: Search, slope: Tensor, pull: Tensor) -> Tensor:
    """Minus the inverse Hessian's approximation times the slope, by the two loops."""
    pairs = [(s, y + pull * s) for s, y in zip(search.steps, search.changes, strict=True) if s.any()]
    q, kept = slope, []
    for s, y in reversed(pairs):
        a = (s @ q) / (s @ y)
        q = q - a * y
        kept.append(a)
    if pairs:
        s, y = pairs[-1]
        q = q * (s @ y) / (y @ y)
    for (s, y), a in zip(pairs, reversed(kept), strict=True):
        q = q + (a - (y @ q) / (s @ y)) * s
    return -q
