"""PyTorch's own losses, example by example: so that padding does not count and real examples count as they do there.

Shapes: B examples, N classes.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedbed.errors import InputError

LEAST_WEIGHT = 1e-30  # the least weight of a batch
CLASS_LOSSES = nn.CrossEntropyLoss, nn.NLLLoss
OF_CLASSES = (F.cross_entropy, F.nll_loss, F.multi_margin_loss)
PLAIN_REDUCTION = "reduction='none', then the mean over all but the first dimension"


@dataclass(frozen=True)
class PerExample:
    """A loss of PyTorch as one number for each example, [B], and what the example weighs in the mean.

    Attributes:
        each: (predictions, y) -> losses of any shape [B, ...], not averaged.
        classes: targets are class numbers.
        weights: [N] of the classes; None: all weigh the same.
        ignored: a class number that does not count; None: there is none.
    """

    each: Callable[[Tensor, Tensor], Tensor]
    classes: bool
    weights: Tensor | None = None
    ignored: int | None = None

    def __call__(self, predictions: Tensor, y: Tensor) -> Tensor:
        """The sum over the weights of an example's places: [B]."""
        if not self.classes:
            y = _like(predictions, y)
        elif predictions.ndim == 2 and y.ndim == 2 and y.shape[1] == 1 and not y.is_floating_point():
            y = y[:, 0]
        losses = self.each(predictions, y)
        if losses.ndim == 0 or len(losses) != len(predictions):
            raise InputError(f"the loss averages over the batch, where padding would count: give it {PLAIN_REDUCTION}")
        losses = losses.flatten(1) if losses.ndim > 1 else losses[:, None]
        return losses.sum(1) if self.classes and not y.is_floating_point() else losses.mean(1)

    def weight(self, y: Tensor) -> Tensor:
        """What each example weighs: of class numbers the sum over its places, else 1; [B]."""
        if not self.classes or y.is_floating_point():
            return torch.ones(len(y), device=y.device)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        found = torch.ones_like(y, dtype=torch.get_default_dtype())
        if self.weights is not None:
            found = self.weights.to(y.device)[y.clamp(0, len(self.weights) - 1)].to(found.dtype)
        if self.ignored is not None:
            found = torch.where(y == self.ignored, 0.0, found)
        return found.flatten(1).sum(1) if y.ndim > 1 else found


def per_example_loss(loss: Any) -> Any:
    """The loss as one number per example, where it is PyTorch's own; any other as it is.

    Raises:
        InputError: it is PyTorch's, and takes more than predictions and targets, or is given as a class.
    """
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        raise InputError(f"the loss is the class {loss.__name__}: call it, {loss.__name__}()")
    if isinstance(loss, nn.Module) and type(loss).__module__ == nn.CrossEntropyLoss.__module__:
        return _of_module(loss)
    plain = getattr(loss, "func", loss)
    if inspect.isfunction(plain) and plain.__module__ == F.__name__:
        return _of_function(loss, plain)
    return loss


def _of_module(loss: nn.Module) -> PerExample:
    _refuse_more(type(loss).__name__, type(loss).forward)
    _refuse_reduction(type(loss).__name__, getattr(loss, "reduction", "none"))
    each: Any = copy.deepcopy(loss)
    each.reduction = "none"
    classes = isinstance(loss, CLASS_LOSSES)
    weights = getattr(loss, "weight", None) if classes else None
    ignored = getattr(loss, "ignore_index", None) if classes else None
    return PerExample(each, classes or isinstance(loss, nn.MultiMarginLoss), weights, ignored)


def _of_function(loss: Any, plain: Callable[..., Tensor]) -> PerExample:
    given = dict(getattr(loss, "keywords", {}))
    _refuse_more(plain.__name__, plain)
    _refuse_reduction(plain.__name__, given.get("reduction", "mean"))
    ignored = given.get("ignore_index", -100) if plain in OF_CLASSES[:2] else None
    weights = given.get("weight") if plain in OF_CLASSES[:2] else None
    return PerExample(partial(loss, reduction="none"), plain in OF_CLASSES, weights, ignored)


def _refuse_more(name: str, forward: Callable[..., Any]) -> None:
    needed = [
        p.name for p in inspect.signature(forward).parameters.values() if p.default is p.empty and p.name != "self"
    ]
    if len(needed) != 2 or ("reduction" not in inspect.signature(forward).parameters and name[0].islower()):
        raise InputError(
            f"{name} takes {', '.join(needed)}, not predictions and targets: write a loss of two arguments that gives "
            "one number per example"
        )


def _refuse_reduction(name: str, reduction: str) -> None:
    if reduction in ("sum", "batchmean"):
        raise InputError(
            f"{name} with reduction={reduction!r} grows with the batch: leave the reduction out, and the mean over the "
            "real examples is minimised"
        )


def _like(predictions: Tensor, y: Tensor) -> Tensor:
    """Targets in the shape and type of the predictions, which PyTorch would broadcast without a word."""
    if y.shape != predictions.shape and y.numel() != predictions.numel():
        raise InputError(
            f"predictions have shape {tuple(predictions.shape)} and targets {tuple(y.shape)}: give the model as many "
            "outputs as there are targets"
        )
    y = y.reshape(predictions.shape)
    return y if y.is_floating_point() else y.to(predictions.dtype)


def class_map_loss(predictions: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of class maps, the mean over places: [B, N, ...], [B, ...] -> [B]."""
    if y.shape != (len(predictions), *predictions.shape[2:]):
        raise InputError(
            f"predictions have shape {tuple(predictions.shape)}, so that targets must be [{len(predictions)}, "
            f"{', '.join(map(str, predictions.shape[2:]))}], not {list(y.shape)}: the classes come second"
        )
    return F.cross_entropy(predictions, y, reduction="none").flatten(1).mean(1)
