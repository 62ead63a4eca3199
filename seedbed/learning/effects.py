"""Which effects a client may have on a model's scores, and the personal params that follow from them.

Shapes: B examples, P columns, K scores that effects move, N outputs of the model, F features, R = PK effects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.learning.empirical_bayes import Infer, Prior, Rows, infer_classes, infer_number, infer_two_classes
from seedbed.learning.objectives import Loss, Predict, cross_entropy, squared_error
from seedbed.learning.training import Params

SHIFT, COVARIANCE, NOISE = "effects:shift", "effects:covariance", "effects:noise"  # in the params of a client
Columns = Literal["bias", "slopes"]


@dataclass(frozen=True)
class Effects:
    """The columns of an example, and how effects become params.

    Attributes:
        columns: (params, x) -> φ [B, P]; the first is the intercept.
        count: params -> P.
        move: params and effects [P, K] -> params whose model gives z + φᵀb.
    """

    columns: Predict
    count: Callable[[Params], int]
    move: Callable[[Params, Tensor], Params]


def intercept(params: Params, x: Tensor) -> Tensor:
    """φ = 1: [B, 1]."""
    return x.new_ones(len(x), 1, dtype=torch.float64)


def with_intercept(features: Predict) -> Predict:
    """φ = (1, f): [B, 1 + F]."""

    def columns(params: Params, x: Tensor) -> Tensor:
        f = features(params, x).flatten(1).double()
        return torch.cat([torch.ones_like(f[:, :1]), f], 1)

    return columns


def head_effects(features: Predict, columns: Columns, *, head: str = "head") -> Effects:
    """Effects on the bias of the model's head, or on its bias and weights: the personal model has a head of its own.

    Where the model is linear, its features are the encoded columns.
    """

    def move(params: Params, b: Tensor) -> Params:
        weight, bias = f"{head}.weight", f"{head}.bias"
        change = _spread(b.to(params[bias]), len(params[bias]))  # [P, N]
        moved = {**params, bias: params[bias] + change[0]}
        return moved if columns == "bias" else {**moved, weight: params[weight] + change[1:].T}

    if columns == "bias":
        return Effects(intercept, lambda params: 1, move)
    return Effects(with_intercept(features), lambda params: 1 + params[f"{head}.weight"].shape[1], move)


def input_effects(places: Sequence[int], *, head: str = "head") -> Effects:
    """Effects on the bias of a linear model and on the weights of some of its inputs; no places: on the bias.

    Args:
        places: the inputs, by number.
    """
    chosen = list(places)

    def columns(params: Params, x: Tensor) -> Tensor:
        f = x[:, chosen].double()
        return torch.cat([torch.ones_like(x[:, :1], dtype=torch.float64), f], 1)

    def move(params: Params, b: Tensor) -> Params:
        weight, bias = f"{head}.weight", f"{head}.bias"
        change = _spread(b.to(params[bias]), len(params[bias]))  # [P, N]
        spread = torch.eye(params[weight].shape[1]).to(change)[chosen]  # [P - 1, F]
        return {**params, bias: params[bias] + change[0], weight: params[weight] + change[1:].T @ spread}

    return Effects(columns, lambda params: 1 + len(chosen), move)


def column_effects(encode: Predict, width: int) -> Effects:
    """Effects of an intercept and of any columns, on top of any model: `with_effects` makes it see them.

    Args:
        encode: (params, x) -> [B, width].
    """
    return Effects(with_intercept(encode), lambda params: 1 + width, lambda params, b: {**params, SHIFT: b})


@dataclass(frozen=True)
class Likelihood:
    """How scores follow from a model's outputs, and effects from examples.

    Attributes:
        scores: outputs [B, N] -> z, [B] or [B, K].
        infer: rows and prior -> posterior.
        count: K, how many scores of an example effects move.
        numbers: whether there is a σ² to learn.
    """

    scores: Callable[[Tensor], Tensor]
    infer: Infer
    count: int = 1
    numbers: bool = False


def likelihood(loss: Loss, outputs: int, *, nodes: int = 1) -> Likelihood:
    """Normal numbers, two classes, or more, by the loss.

    Args:
        outputs: N.
        nodes: of the quadrature, for a single effect on two classes.
    Raises:
        InputError: another loss than these, or a target of several numbers.
    """
    if loss is not cross_entropy:
        if loss is not squared_error or outputs != 1:
            raise InputError(
                f"effects of clients need cross_entropy, or squared_error of one number, but the loss is "
                f"{getattr(loss, '__name__', loss)} of {outputs} outputs: use another algorithm"
            )
        return Likelihood(lambda outputs: outputs.reshape(len(outputs)), infer_number, numbers=True)
    if outputs == 2:
        return Likelihood(lambda outputs: outputs[:, 1] - outputs[:, 0], infer_two_classes(nodes))
    return Likelihood(lambda outputs: outputs, infer_classes, count=outputs)


def rows_of(likelihood: Likelihood, effects: Effects, predict: Predict, params: Params, batch: Batch) -> Rows:
    """A client's examples as its effects see them."""
    z = likelihood.scores(predict(params, batch.x).double())
    y = batch.y.double().reshape(len(batch.y)) if likelihood.numbers else batch.y
    return Rows(z, effects.columns(params, batch.x).double(), y, batch.mask.double())


def personal(effects: Effects, params: Params, mean: Tensor, covariance: Tensor, noise: Tensor) -> Params:
    """The params of a client: the moved model, beside them what its uncertainty needs.

    Where the posterior is not finite, the effects are 0: it is the start.
    """
    good = mean.isfinite().all() & covariance.isfinite().all()
    mean, covariance = torch.where(good, mean, 0.0), torch.where(good, covariance, 0.0)
    return {**effects.move(params, mean.reshape(effects.count(params), -1)), COVARIANCE: covariance, NOISE: noise}


def start_prior(effects: Effects, likelihood: Likelihood, params: Params, variance: float) -> Prior:
    """Where the prior begins: means of 0, equal variances, noise of 1."""
    mean = next(iter(params.values())).new_zeros(effects.count(params) * likelihood.count, dtype=torch.float64)
    return Prior(mean, torch.full_like(mean, variance), mean.new_ones(()))


def free_means(likelihood: Likelihood, prior: Prior) -> Tensor:
    """[R] the effects whose mean is learned: those of the intercept."""
    return torch.arange(len(prior.mean), device=prior.mean.device) < likelihood.count


def with_effects(predict: Predict, effects: Effects) -> Predict:
    """The predictive distribution of clients with effects: scores η/√(1 + πv/8), v = φᵀVφ, for classes; η for numbers.

    Params without effects are those of the start.
    """

    def predictive(params: Params, x: Tensor) -> Tensor:
        outputs = predict(params, x)
        if COVARIANCE not in params:
            return outputs
        if SHIFT in params:
            shift = effects.columns(params, x).double() @ params[SHIFT]  # [B, K]
            outputs = outputs + _spread(shift, outputs.shape[1]).to(outputs)
        if outputs.shape[1] == 1:
            return outputs
        v = score_variance(params, effects, x).to(outputs)  # [B, 1] or [B, N]
        return outputs / (1 + torch.pi / 8 * v).sqrt()

    return predictive


def score_variance(params: Params, effects: Effects, x: Tensor) -> Tensor:
    """φᵀVφ of each score: [B, K]."""
    phi, v = effects.columns(params, x).double(), params[COVARIANCE]
    p = phi.shape[1]
    k = len(v) // p
    blocks = v.reshape(p, k, p, k).diagonal(dim1=1, dim2=3)  # [P, P, K]
    variance: Tensor = torch.einsum("bp,pqk,bq->bk", phi, blocks, phi)
    return variance


def predictive_variance(params: Params, effects: Effects, x: Tensor) -> Tensor:
    """σ² + φᵀVφ of the number of a new example: [B]."""
    noise: Tensor = params[NOISE]
    return noise + score_variance(params, effects, x)[:, 0]


def _spread(b: Tensor, outputs: int) -> Tensor:
    """Changes [·, K] of scores as changes [·, N] of outputs: of two classes the second has the only one."""
    return torch.cat([torch.zeros_like(b), b], 1) if b.shape[1] == 1 and outputs == 2 else b
