"""Optimisers as pure (init, update) pairs: state in, state out, so that clients can be stacked and runs resumed."""

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.learning.passes import set_statistics, statistic_steps
from seedbed.tree import Tree

Params = Any
Schedule = Callable[[Tensor], Tensor]  # how many updates were done [] -> factor on the learning rate []


class Optimizer(NamedTuple):
    """init(params) -> state; update(gradients, state, params) -> (params, state).

    `name` and `settings` say how it was built, for manifests and for people. `linear`: its path is a linear function of
    the gradients, −η·Σ_k a_k g_k with a_k that do not depend on them: what FedNova and SCAFFOLD build on. `overwrite`,
    where there is one, is the same update written over the params and the state that it is given: (gradients, state,
    params) -> state.
    """

    init: Callable[[Params], Tree]
    update: Callable[[Tree, Tree, Params], tuple[Params, Tree]]
    name: str
    settings: Mapping[str, Any]
    linear: bool = False
    overwrite: Callable[[Tree, Tree, Params], Tree] | None = None

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={_said(v)}' for k, v in self.settings.items())})"


def _said(value: Any) -> Any:
    """A setting in words that are the same in every process: of a schedule the name of what made it."""
    return value.__qualname__.partition(".")[0] if callable(value) else value


def constant(*, warmup: int = 0) -> Schedule:
    """The learning rate as it is, after a warm-up.

    Args:
        warmup: updates over which the factor first grows in equal steps: 1/warmup at the first, 1 at the last of them.
    """
    return _warmed(torch.ones_like, warmup)


def linear(updates: int, *, end: float = 0.0, warmup: int = 0) -> Schedule:
    """From 1 down to `end` in a straight line over so many updates, then `end`. Reptile's outer step."""
    falling = max(1, updates - warmup)
    return _warmed(lambda done: end + (1 - end) * (1 - done / falling).clamp_min(0), warmup)


def cosine(updates: int, *, end: float = 0.0, warmup: int = 0) -> Schedule:
    """From 1 down to `end` along half a cosine over so many updates, warm-up included, then `end`."""
    falling = max(1, updates - warmup)
    return _warmed(lambda done: end + (1 - end) * (1 + torch.cos(math.pi * (done / falling).clamp_max(1))) / 2, warmup)


def exponential(*, factor: float = 0.998, end: float = 0.0, warmup: int = 0) -> Schedule:
    """factor^t after t updates, at least `end`."""
    return _warmed(lambda done: (factor**done).clamp_min(end), warmup)


def _warmed(schedule: Schedule, warmup: int) -> Schedule:
    """A schedule that begins after so many updates of warm-up."""
    if not warmup:
        return schedule
    return lambda done: torch.where(done < warmup, (done + 1) / warmup, schedule((done - warmup).clamp_min(0)))


def sgd(
    lr: float = 0.1,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float = 0.0,
    schedule: Schedule | None = None,
) -> Optimizer:
    """w ← w − lr·d with d = g + λw, or with momentum v ← ρv + g + λw and d = v (Nesterov: d = g + λw + ρv).

    clip: a gradient g that is longer than this, over all parameters, is first scaled to this length; 0: none is.

    >>> sgd(0.1).update({"w": torch.ones(1)}, {}, {"w": torch.zeros(1)})
    ({'w': tensor([-0.1000])}, {})
    """

    def init(params: Params) -> Tree:
        state = {"velocity": tree.zeros_like(params)} if momentum else {}
        return state | _count(params, schedule)

    def update(grads: Tree, state: Tree, params: Params) -> tuple[Params, Tree]:
        grads = _clipped(grads, clip)
        direction = tree.axpy(weight_decay, params, grads) if weight_decay else grads
        after = dict(state)
        if momentum:
            after["velocity"] = tree.axpy(momentum, state["velocity"], direction)
            direction = tree.axpy(momentum, after["velocity"], direction) if nesterov else after["velocity"]
        rate = _rate(lr, schedule, after)
        return tree.axpy(-rate, direction, params), after

    def overwrite(grads: Tree, state: Tree, params: Params) -> Tree:
        after, statistics = dict(state), statistic_steps(grads, params)
        rate = float(_rate(lr, schedule, after))
        moving = tree.leaves(state["velocity"]) if momentum else [None] * len(tree.leaves(params))
        for g, v, p in zip(tree.leaves(grads), moving, tree.leaves(params), strict=True):
            direction = g.add(p, alpha=weight_decay) if weight_decay else g
            if v is not None:
                v.mul_(momentum).add_(direction)
                direction = direction.add(v, alpha=momentum) if nesterov else v
            p.sub_(direction, alpha=rate)
        for path, value in statistics:
            functools.reduce(operator.getitem, path, params).copy_(value)
        return after

    return Optimizer(
        init,
        _around_statistics(update),
        "sgd",
        _given(
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            clip=clip or None,
            schedule=schedule,
        ),
        linear=not clip,
        overwrite=None if clip else overwrite,
    )


def adam(
    lr: float = 1e-3,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    initial: float = 0.0,
    bias_correction: bool = True,
    weight_decay: float = 0.0,
    clip: float = 0.0,
    schedule: Schedule | None = None,
) -> Optimizer:
    """m ← β1 m + (1−β1) g; v ← β2 v + (1−β2) g²; w ← w − lr·(m̂/(√v̂ + ε) + λw).

    Kingma and Ba, ICLR 2015, Algorithm 1 (bias_correction=True: m̂ = m/(1−β1ᵗ), v̂ = v/(1−β2ᵗ) at the t-th update, t
    from 1); Reddi et al., ICLR 2021, Algorithm 2 has none (m̂ = m, v̂ = v): see fedadam. The weight decay is decoupled
    (AdamW).

    Args:
        initial: v before the first update.
        clip: as of `sgd`.
    """

    def accumulate(g: Tensor, v: Tensor) -> Tensor:
        return beta2 * v + (1 - beta2) * g * g

    given = _given(
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        initial=initial,
        bias_correction=bias_correction,
        weight_decay=weight_decay,
        clip=clip or None,
        schedule=schedule,
    )
    return _adaptive("adam", given, accumulate)


def yogi(
    lr: float = 1e-2,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-3,
    initial: float = 0.0,
    bias_correction: bool = True,
    clip: float = 0.0,
    schedule: Schedule | None = None,
) -> Optimizer:
    """Adam with v ← v − (1−β2)·sign(v − g²)·g²: v moves by at most (1−β2)g², however large it is.

    Zaheer, Reddi, Sachan, Kale and Kumar, "Adaptive methods for nonconvex optimization", NeurIPS 2018, Algorithm 2,
    which has no bias correction. The arguments are Adam's.
    """

    def accumulate(g: Tensor, v: Tensor) -> Tensor:
        step: Tensor = (1 - beta2) * torch.sign(v - g * g) * g * g
        return v - step

    given = _given(
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        initial=initial,
        bias_correction=bias_correction,
        clip=clip or None,
        schedule=schedule,
    )
    return _adaptive("yogi", given, accumulate)


def adagrad(
    lr: float = 1e-2,
    *,
    beta1: float = 0.0,
    epsilon: float = 1e-10,
    initial: float = 0.0,
    bias_correction: bool = True,
    clip: float = 0.0,
    schedule: Schedule | None = None,
) -> Optimizer:
    """m ← β1 m + (1−β1) g; v ← v + g²; w ← w − lr·m̂/(√v + ε).

    Duchi, Hazan and Singer, JMLR 2011, is β1 = 0. v is a sum, not a mean: bias_correction is m's alone.
    """

    def accumulate(g: Tensor, v: Tensor) -> Tensor:
        return v + g * g

    given = _given(
        lr=lr,
        beta1=beta1,
        epsilon=epsilon,
        initial=initial,
        bias_correction=bias_correction,
        clip=clip or None,
        schedule=schedule,
    )
    return _adaptive("adagrad", given, accumulate)


def with_schedule(optimizer: Optimizer, schedule: Schedule) -> Optimizer:
    """The optimiser with every step multiplied by the schedule's factor, whatever rate it was built with."""

    def init(params: Params) -> Tree:
        return {"own": optimizer.init(params), "updates": _counter(params)}

    def update(grads: Tree, state: Tree, params: Params) -> tuple[Params, Tree]:
        moved, own = optimizer.update(grads, state["own"], params)
        after = {"own": own, "updates": state["updates"] + 1}
        return tree.lerp(params, moved, schedule(state["updates"])), after

    return Optimizer(init, _around_statistics(update), optimizer.name, {**optimizer.settings, "annealed": schedule})


def scale_steps(optimizer: Optimizer, factor: float | Tensor) -> Optimizer:
    """The optimiser with its learning rate times a factor, which may be a tensor [].

    A factor that is the same for all steps of an optimiser's life is one on its rate: of each kind here a step is
    linear in the rate.
    """

    def update(grads: Tree, state: Tree, params: Params) -> tuple[Params, Tree]:
        moved, after = optimizer.update(grads, state, params)
        return tree.lerp(params, moved, factor), after

    return optimizer._replace(update=update, overwrite=None, settings={**optimizer.settings, "scale": factor})


def _clipped(grads: Tree, clip: float) -> Tree:
    """min(1, clip/‖g‖)·g, ‖g‖ over all leaves; 0: g."""
    if not clip:
        return grads
    norm = tree.squared_norm(grads).sqrt()
    return tree.scale((clip / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1), grads)


def _adaptive(name: str, given: dict[str, Any], accumulate: Callable[[Tensor, Tensor], Tensor]) -> Optimizer:
    """What Adam, Yogi and Adagrad share; they differ in how a second moment takes in a gradient: (g, v) -> v."""
    lr, beta1, epsilon, correct = given["lr"], given["beta1"], given["epsilon"], given["bias_correction"]
    weight_decay: float = given.get("weight_decay", 0.0)
    schedule: Schedule | None = given.get("schedule")

    def init(params: Params) -> Tree:
        return {
            "mean": tree.zeros_like(params),
            "square": tree.full_like(params, given["initial"]),
            "updates": _counter(params),
        }

    def update(grads: Tree, state: Tree, params: Params) -> tuple[Params, Tree]:
        grads = _clipped(grads, given.get("clip", 0.0))
        mean = tree.lerp(grads, state["mean"], beta1)
        square = tree.map(accumulate, grads, state["square"])
        done = state["updates"] + 1
        rate = lr if schedule is None else lr * schedule(state["updates"])
        c1 = 1 - beta1**done if correct else 1.0
        c2 = 1 - given["beta2"] ** done if correct and "beta2" in given else 1.0

        def step(p: Tensor, m: Tensor, v: Tensor) -> Tensor:
            moved: Tensor = p - rate * ((m / c1) / ((v / c2).sqrt() + epsilon) + weight_decay * p)
            return moved

        after = {"mean": mean, "square": square, "updates": done}
        return tree.map(step, params, mean, square), after

    return Optimizer(init, _around_statistics(update), name, given)


def _around_statistics(update: Callable[..., tuple[Params, Tree]]) -> Callable[..., tuple[Params, Tree]]:
    """The same update of what trains; running statistics take their steps whole, at any rate."""

    def whole(grads: Tree, state: Tree, params: Params) -> tuple[Params, Tree]:
        statistics = statistic_steps(grads, params)
        moved, after = update(grads, state, params)
        return set_statistics(moved, statistics), after

    return whole


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _counter(params: Params) -> Tensor:
    like = tree.leaves(params)[0]
    return torch.zeros((), dtype=like.dtype, device=like.device)


def _count(params: Params, schedule: Schedule | None) -> dict[str, Tensor]:
    return {} if schedule is None else {"updates": _counter(params)}


def _rate(lr: float, schedule: Schedule | None, state: dict[str, Any]) -> float | Tensor:
    """The learning rate of this update; counts it in `state` where a schedule needs the count."""
    if schedule is None:
        return lr
    rate = lr * schedule(state["updates"])
    state["updates"] = state["updates"] + 1
    return rate
