"""How a model adapts to a support set. Params are flat dicts of named tensors.

Shapes: B examples, F features, N classes.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from seedbed import tree
from seedbed.learning.objectives import Adapt, Predict, after, hessian_free
from seedbed.learning.training import Objective, Params, gradient
from seedbed.tasks.types import Batch

Moves = Callable[[str], bool]  # which parameters adapt, by name
Order = Literal["exact", "first", "hessian_free"]


def everything(name: str) -> bool:
    """All parameters adapt."""
    return True


def unadapted(params: Params, support: Batch) -> Params:
    """The model as it is."""
    return params


def chain(*adaptations: Adapt) -> Adapt:
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
    moves: Moves = everything,
) -> Adapt:
    """φ ← φ − α∇L(φ; support), so many times: MAML's inner loop (Finn et al., ICML 2017, Algorithm 1).

    Args:
        lr: α.
        first_order: treat the gradient as a constant when differentiating through the steps (FOMAML).
        moves: which parameters adapt; the head only is ANIL. The others are not even differentiated.
    """

    def adapt(params: Params, support: Batch) -> Params:
        still = {n: p for n, p in params.items() if not moves(n)}
        moving = {n: p for n, p in params.items() if moves(n)}
        for _ in range(steps):
            g, _ = gradient(lambda part, item: loss({**still, **part}, item), moving, support)
            moving = tree.axpy(-lr, tree.detach(g) if first_order else g, moving)
        return {n: moving.get(n, still.get(n)) for n in params}

    return adapt


def maml(loss: Objective, *, lr: float, steps: int = 1, order: Order = "exact", delta: float = 1e-2) -> Objective:
    """The loss on the query set after gradient steps on the support set, by the order of its gradient."""
    if order == "hessian_free":
        return hessian_free(loss, lr=lr, steps=steps, delta=delta)
    return after(gradient_steps(loss, lr=lr, steps=steps, first_order=order == "first"), loss)


RATE = "rate:"  # the prefix of a learned learning rate's name


def rates_for(params: Params, lr: float) -> Params:
    """One learned learning rate per parameter, all starting at lr, under names of their own."""
    return {RATE + n: torch.full_like(p, lr) for n, p in params.items()}


def learned_steps(loss: Objective, *, steps: int = 1) -> Adapt:
    """φ ← φ − a ⊙ ∇L(φ; support) with a learned rate a for every parameter (Meta-SGD, Li et al. 2017, eq. 4)."""

    def adapt(params: Params, support: Batch) -> Params:
        model = {n: p for n, p in params.items() if not n.startswith(RATE)}
        for _ in range(steps):
            g, _ = gradient(loss, model, support)
            model = {n: p - params[RATE + n] * g[n] for n, p in model.items()}
        return model

    return adapt


def one_hot(y: Tensor, ways: int, dtype: torch.dtype) -> Tensor:
    """[B] class numbers -> [B, N], in a form that works under vmap."""
    return (y[:, None] == torch.arange(ways, device=y.device)).to(dtype)


def prototype_head(features: Predict, *, ways: int, head: str = "head", scale: float | None = 1.0) -> Adapt:
    """The head is the prototypes c_k, the mean features of each class: logits −s‖f − c_k‖².

    Snell, Swersky and Zemel, NeurIPS 2017, eq. 1–2, where s = 1. −‖f − c‖² = 2f·c − ‖c‖² − ‖f‖², and ‖f‖² is the same
    for all classes: it is left out, so that the head is an ordinary linear layer. A class without an example gets the
    logit −∞ in effect (−1e9).

    Args:
        scale: s; None: 16/F, which keeps the logits of wide features from saturating (a departure from the paper).
    """

    def adapt(params: Params, support: Batch) -> Params:
        f = features(params, support.x)  # [B, F]
        of_class = one_hot(support.y, ways, f.dtype) * support.mask[:, None]  # [B, N]
        counts = of_class.sum(0)
        c = (of_class.T @ f) / counts.clamp_min(1)[:, None]  # [N, F]
        s = 16 / f.shape[1] if scale is None else scale
        bias = -s * (c * c).sum(1) - 1e9 * (counts == 0).to(f.dtype)
        return {**params, f"{head}.weight": 2 * s * c, f"{head}.bias": bias}

    return adapt


RIDGE = {"ridge:log_lambda": 0.0, "ridge:log_scale": 0.0, "ridge:bias": 0.0}


def ridge_parameters(like: Tensor) -> Params:
    """R2D2's three learned numbers: log λ, log a and b, at λ = a = 1 and b = 0."""
    return {n: torch.full((), v, dtype=like.dtype, device=like.device) for n, v in RIDGE.items()}


def ridge_head(features: Predict, *, ways: int, head: str = "head") -> Adapt:
    """The head is ridge regression on one-hot labels, solved exactly: W = Xᵀ(XXᵀ + λI)⁻¹Y, logits a·(fW) + b.

    Bertinetto, Henriques, Torr and Vedaldi, ICLR 2019, eq. 3–6 (R2D2). X holds the features with a column of ones;
    log λ, log a and b are learned (`ridge_parameters`). Padding rows of X and Y are zero and change nothing.
    """

    def adapt(params: Params, support: Batch) -> Params:
        f = features(params, support.x)
        x = torch.cat([f, torch.ones_like(f[:, :1])], 1) * support.mask[:, None]  # [B, F+1]
        y = one_hot(support.y, ways, f.dtype) * support.mask[:, None]  # [B, N]
        penalty = params["ridge:log_lambda"].exp() * torch.eye(len(x), dtype=f.dtype, device=f.device)
        w = x.T @ torch.linalg.solve(x @ x.T + penalty, y)  # [F+1, N]
        a = params["ridge:log_scale"].exp()
        return {**params, f"{head}.weight": a * w[:-1].T, f"{head}.bias": a * w[-1] + params["ridge:bias"]}

    return adapt


def fresh_head(*, ways: int, width: int, head: str = "head") -> Adapt:
    """A head of zeros for so many classes, [N, F]: where fine-tuning starts when the classes are new."""

    def adapt(params: Params, support: Batch) -> Params:
        like = next(iter(params.values()))
        zeros = {f"{head}.weight": like.new_zeros(ways, width), f"{head}.bias": like.new_zeros(ways)}
        return {**params, **zeros}

    return adapt
