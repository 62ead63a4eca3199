"""Fine-tuning a trained model on a few examples: the strong, plain rival of a meta-learned start.

Shapes: B examples, F features, N classes, P points of a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.data.types import Batch
from seedbed.learning.adaptations import unadapted
from seedbed.learning.guarding import guarded_path
from seedbed.learning.objectives import Adapt, Loss, Metric, Predict, cross_entropy, softmax_regression, supervised
from seedbed.learning.passes import predictions
from seedbed.learning.training import Params, gradient

Layers = Literal["all", "head", "head_then_all", "own", "none", "bias", "slopes"]


@dataclass(frozen=True)
class FineTuning:
    """One way to fine-tune, by gradient steps on the whole support set; one that raises its loss is taken back.

    Attributes:
        layers: all | head | head_then_all | own: the algorithm's own way to adapt, which is not fine-tuning; or none |
            bias | slopes: of a start with priors (`algorithms.exact_start`), itself or the posterior of effects.
        steps, lr: steps of all layers, or the own ones (lr 0: their rate is the algorithm's own too).
        head_steps, head_lr: steps of the head alone, on features computed once.
    """

    layers: Layers = "all"
    steps: int = 10
    lr: float = 0.1
    head_steps: int = 50
    head_lr: float = 0.1

    def __str__(self) -> str:
        head, all = f"{self.head_steps} steps of lr {self.head_lr:g}", f"{self.steps} steps of lr {self.lr:g}"
        return {
            "all": f"all layers, {all}",
            "head": f"the head, {head}",
            "none": "none: the start as it is",
            "bias": "the posterior of an intercept",
            "slopes": "the posterior of an intercept and slopes",
            "own": f"its own, {all if self.lr else f'{self.steps} steps'}",
        }.get(self.layers, f"the head, {head}, then all layers, {all}")


class Scored(NamedTuple):
    """A way to adapt (None: there is nothing to choose), and what validation clients make of it: more is better."""

    score: float
    how: FineTuning | None


@dataclass(frozen=True)
class Tunable:
    """What fine-tuning must know of a model.

    Attributes:
        predict: (params, x) -> predictions.
        features: (params, x) -> what the head sees, [B, F].
        loss: (predictions, y) -> one loss per example.
        head: the name of the linear layer that is the head.
    """

    predict: Predict
    features: Predict
    loss: Loss
    head: str


def finetune(model: Tunable, how: FineTuning, *, start: Adapt = unadapted, at: Sequence[int] = ()) -> Adapt:
    """Params and a support set -> the fine-tuned params.

    Args:
        start: what happens to the model first: a fresh head for new classes, say.
        at: numbers of steps (of the last phase) to look at on the way, ascending: then the result is their params
            stacked, leaves [P, ...]; score them by `along`.
    """

    def adapt(params: Params, support: Batch) -> Params:
        params = start(params, support)
        points: list[Params] = [params]
        if how.layers != "all":
            points = _head_path(model, params, support, how)
        if how.layers != "head":
            points = _path(supervised(model.predict, model.loss), points[-1], support, how.lr, how.steps)
        return tree.stack([points[i] for i in at]) if at else points[-1]

    return adapt


def adapt_along_path(metric: Metric) -> Metric:
    """A metric of params stacked along a path: scores [P]."""

    def each(stacked: Params, batch: Batch) -> Tensor:
        points = len(tree.leaves(stacked)[0])
        return torch.stack([metric(tree.index(stacked, i), batch) for i in range(points)])

    return each


def _path(loss: Metric, params: Params, support: Batch, lr: float, steps: int) -> list[Params]:
    return guarded_path(lambda p: gradient(loss, p, support), lambda p: loss(p, support), params, lr=lr, steps=steps)


def _head_path(model: Tunable, params: Params, support: Batch, how: FineTuning) -> list[Params]:
    """Gradient steps on weight [N, F] and bias [N] of the head, the body's features computed once."""
    weight, bias = f"{model.head}.weight", f"{model.head}.bias"

    def linear(head: Params, f: Tensor) -> Tensor:
        return F.linear(f, head[weight], head[bias])

    known = model.loss is cross_entropy
    loss = softmax_regression(weight=weight, bias=bias) if known else supervised(linear, model.loss)
    seen = support._replace(x=predictions(model.features, params, support))
    start = {weight: params[weight], bias: params[bias]}
    path = _path(loss, start, seen, how.head_lr, how.head_steps)
    return [{**params, **head} for head in path]
