"""How a model adapts to a support set. Params are flat dicts of named tensors.

Heads that a client solves for itself are in `heads`.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.types import Batch, Episode
from seedbed.learning.guarding import guarded_path
from seedbed.learning.head_steps import NotALinearHead, guarded_head_steps, head_steps
from seedbed.learning.objectives import Adapt, hessian_free, meta_objective, recompute_forward
from seedbed.learning.passes import at_step, recording
from seedbed.learning.training import Objective, Params, gradient

Moves = Callable[[str], bool]  # which parameters adapt, by name
MetaGradient = Literal["exact", "recomputed", "first", "hessian_free"]


def all_parameters(name: str) -> bool:
    """All parameters adapt."""
    return True


def unadapted(params: Params, support: Batch) -> Params:
    """The model as it is."""
    return params


def chain_adaptations(*adaptations: Adapt) -> Adapt:
    """One adaptation after another on the same support set."""

    def adapt(params: Params, support: Batch) -> Params:
        for each in adaptations:
            params = each(params, support)
        return params

    return adapt


def gradient_steps(
    loss: Objective,
    *,
    lr: float,
    steps: int = 1,
    first_order: bool = False,
    moves: Moves = all_parameters,
) -> Adapt:
    """φ ← φ − α∇L(φ; support), so many times: MAML's inner loop (Finn et al., ICML 2017, Algorithm 1).

    Where only the linear layer moves in which the model ends, the body runs once for all steps (`head_steps`).

    Args:
        lr: α.
        first_order: treat the gradient as a constant when differentiating through the steps (FOMAML).
        moves: which parameters adapt; the head only is ANIL. The others are not even differentiated.
    """

    def adapt(params: Params, support: Batch) -> Params:
        still = {n: p for n, p in params.items() if not moves(n)}
        moving = {n: p for n, p in params.items() if moves(n)}
        with suppress(NotALinearHead):
            return {**params, **head_steps(loss, still, moving, support, lr=lr, steps=steps, first_order=first_order)}
        for k in range(steps):
            batch = at_step(support, k)
            with recording():  # running statistics are those of the passes over the query set
                g, _ = gradient(lambda part, item: loss({**still, **part}, item), moving, batch, beside=still)
            moving = tree.axpy(-lr, tree.detach(g) if first_order else g, moving)
        return {n: moving.get(n, still.get(n)) for n in params}

    return adapt


def guarded_steps(loss: Objective, *, lr: float, steps: int = 1, moves: Moves = all_parameters) -> Adapt:
    """As `gradient_steps`, but a step that raises the loss on the support set is taken back, and the next goes half as
    far (`guarding`): how clients adapt when training is over.
    """

    def adapt(params: Params, support: Batch) -> Params:
        still = {n: p for n, p in params.items() if not moves(n)}
        moving = {n: p for n, p in params.items() if moves(n)}
        with suppress(NotALinearHead):
            return {**params, **guarded_head_steps(loss, still, moving, support, lr=lr, steps=steps)}

        def part(some: Params, item: Batch) -> Tensor:
            return loss({**still, **some}, item)

        *_, moved = guarded_path(
            lambda some: gradient(part, some, support, beside=still),
            lambda some: part(some, support),
            moving,
            lr=lr,
            steps=steps,
        )
        return {n: moved.get(n, still.get(n)) for n in params}

    return adapt


def maml(
    loss: Objective, *, lr: float, steps: int = 1, order: MetaGradient = "exact", delta: float = 1e-2
) -> Objective:
    """The loss on the query set after gradient steps on the support set, by the order of its gradient.

    recomputed: exact, in memory that does not grow with the steps, for more time (`objectives.recomputed`).
    """
    if order == "recomputed":
        return recompute_forward(loss, lr=lr, steps=steps)
    if order == "hessian_free":
        return hessian_free(loss, lr=lr, steps=steps, delta=delta)
    return meta_objective(gradient_steps(loss, lr=lr, steps=steps, first_order=order == "first"), loss)


RATE = "rate:"  # the prefix of a learned learning rate's name
DONE = "rounds:done"  # how many rounds there were, sent along for `multi_step`
RateGranularity = Literal["number", "tensor_and_step"]  # what has a learned rate of its own


def rates_for(params: Params, lr: float, *, each: RateGranularity = "number", steps: int = 1) -> Params:
    """Learned learning rates, all starting at lr, under names of their own.

    Args:
        each: what has one of its own: every number of a parameter, or every parameter tensor in every step, [steps].
    """
    rates = {n: torch.full_like(p, lr) if each == "number" else p.new_full((steps,), lr) for n, p in params.items()}
    return {RATE + n: rate for n, rate in rates.items()}


def learned_rates_path(
    loss: Objective, *, steps: int = 1, each: RateGranularity = "number"
) -> Callable[[Params, Batch], Sequence[Params]]:
    """φ_0, φ_1, ..., φ_steps with φ_{k+1} = φ_k − a ⊙ ∇L(φ_k; support) and learned rates a, as `rates_for` makes them.

    One for every number: Meta-SGD, Li et al. 2017, eq. 4. One for every tensor in every step: MAML++, Antoniou, Edwards
    and Storkey, ICLR 2019, section 4 (LSLR); steps beyond those that have rates go on with the last.
    """

    def path(params: Params, support: Batch) -> Sequence[Params]:
        points = [{n: p for n, p in params.items() if ":" not in n}]
        for k in range(steps):
            with recording():
                g, _ = gradient(loss, points[-1], at_step(support, k))
            a = {n: params[RATE + n] for n in g}
            a = a if each == "number" else {n: rates[min(k, len(rates) - 1)] for n, rates in a.items()}
            points.append({n: p - a[n] * g[n] for n, p in points[-1].items()})
        return points

    return path


def learned_steps(loss: Objective, *, steps: int = 1, each: RateGranularity = "number") -> Adapt:
    """The last of `learned_path`."""
    path = learned_rates_path(loss, steps=steps, each=each)
    return lambda params, support: path(params, support)[-1]


def multi_step(path: Callable[[Params, Batch], Sequence[Params]], loss: Objective, *, rounds: int) -> Objective:
    """The query losses after every step, weighted: at first alike, in the end the last alone.

    MAML++ (Antoniou et al., ICLR 2019, section 4, multi-step loss): as in the authors' code, the weight of each of the
    N − 1 earlier steps goes down from 1/N in a straight line to .03/N over so many rounds, and is 0 from then on. The
    number of rounds done is read from params (`DONE`).
    """

    def objective(params: Params, episode: Episode) -> Tensor:
        losses = torch.stack([loss(phi, episode.query) for phi in path(params, episode.support)[1:]])
        n, part = len(losses), params[DONE].detach() / rounds
        early = torch.where(part < 1, (1 - part).clamp_min(0.03) / n, 0.0)
        return early * losses[:-1].sum() + (1 - (n - 1) * early) * losses[-1]

    return objective
