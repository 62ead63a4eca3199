"""What a model must know of the batch that passes through it, beside its rows, and what it writes meanwhile.

A model that draws at random (dropout) takes the batch's key, one that mixes rows (batch normalisation) its mask, and
one that keeps running statistics leaves their new values. `train` puts these into the params (`statistics:NAME`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.tree import is_statistic

NEXT_KEY = 0x1F83D9ABFB41BD6B  # odd: what is added to a key for each further pass over the same batch


class NotTogether(InputError):
    """Several clients, or several examples, cannot pass through the model at once; the vectorised engine then runs
    clients one by one."""


@dataclass
class Pass:
    """A batch on its way through a model.

    Attributes:
        mask: [B] 1 = real example, 0 = padding.
        key: [] of what is drawn at random; None: the model predicts, and draws nothing.
        drew: whether anything was drawn.
    """

    mask: Tensor | None = None
    key: Tensor | None = None
    drew: bool = False


_pass: ContextVar[Pass | None] = ContextVar("pass", default=None)
_written: ContextVar[tuple[dict[str, Tensor], ...]] = ContextVar("written", default=())


def current_pass() -> Pass:
    """The pass in which a model is called; outside of any, it predicts."""
    return _pass.get() or Pass()


@contextmanager
def passing(batch: Batch, *, trains: bool = True) -> Iterator[Pass]:
    """Within, models are called on this batch."""
    key = batch.key if trains and isinstance(batch.key, Tensor) else None
    now = Pass(batch.mask, key)
    token = _pass.set(now)
    try:
        yield now
    finally:
        _pass.reset(token)


def predictions(predict: Callable[[Any, Tensor], Tensor], params: Any, batch: Batch, *, trains: bool = True) -> Tensor:
    """predict(params, batch.x), in a pass of this batch.

    Args:
        trains: the model trains if the batch has a key; otherwise it predicts.
    """
    with passing(batch, trains=trains):
        return predict(params, batch.x)


def at_step(batch: Batch, step: int) -> Batch:
    """The batch in a further pass over it: with draws of its own."""
    if not step or not isinstance(batch, Batch) or not isinstance(batch.key, Tensor):
        return batch
    return batch._replace(key=batch.key + _signed(step * NEXT_KEY))


def _signed(number: int) -> int:
    """A whole number modulo 2⁶⁴, as int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63


# ---- running statistics -----------------------------------------------------------------------------------------


@contextmanager
def recording() -> Iterator[dict[str, Tensor]]:
    """Within, running statistics that models write come into this dict, and are read from it and those around it."""
    own: dict[str, Tensor] = {}
    token = _written.set((own, *_written.get()))
    try:
        yield own
    finally:
        _written.reset(token)


def write_statistics(found: Mapping[str, Tensor]) -> None:
    """Leave new values of running statistics; where nothing records they are dropped."""
    if found and _written.get():
        _written.get()[0].update(found)


def latest_statistic(name: str) -> Tensor | None:
    """What was last written in this pass over the params; None: nothing."""
    return next((own[name] for own in _written.get() if name in own), None)


def unrecorded(objective: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """The same objective, whose statistics are dropped: for derivatives, out of which no tensor may escape."""

    def value(params: Any, item: Any) -> Tensor:
        with recording():
            return objective(params, item)

    return value


def with_statistics(grads: Any, params: Any, found: Mapping[str, Tensor]) -> Any:
    """The gradients, in which each statistic's is its old value less the new one: every optimiser steps by it whole."""
    moved = {n: (params[n] - new).detach() for n, new in found.items() if n in params}
    return grads | moved if moved else grads


def whole_steps(grads: Any, params: Any) -> dict[str, Tensor]:
    """The statistics among the params after their steps (`with_statistics`); none: the params have none."""
    if not isinstance(params, dict):
        return {}
    return {n: params[n] - grads[n] for n in params if is_statistic(n)}


def keep_statistics(changed: Any, plain: Any) -> Any:
    """A tree that was scaled, with the running statistics of the one that was not: they are averaged as they are."""
    statistics = {n: value for n, value in plain.items() if is_statistic(n)} if isinstance(plain, dict) else {}
    return changed | statistics if statistics else changed


def is_vectorised() -> bool:
    """Whether vmap runs."""
    functorch: Any = torch._C._functorch
    stack = functorch.get_interpreter_stack() or ()
    return any(level.key() == functorch.TransformType.Vmap for level in stack)


def is_differentiated_again() -> bool:
    """Whether a transform of torch.func runs: what it differentiates may be differentiated again."""
    functorch: Any = torch._C._functorch
    return functorch.peek_interpreter_stack() is not None
