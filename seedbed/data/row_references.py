"""A batch that says which rows of a table it holds, for those who can read them where they lie.

Copying the rows of a round's batches takes as long as a third of what a fast executor then computes. To everyone else
it is a tensor like any other, which is read when it is first looked at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class RowReferences(Tensor):
    """[..., *rest]: the rows of a table [M, *rest] at some places [...].

    Attributes:
        table, places: these.
    """

    table: Tensor
    places: Tensor
    _read: Tensor | None

    @staticmethod
    def __new__(cls, table: Tensor, places: Tensor) -> "RowReferences":
        shape = (*places.shape, *table.shape[1:])
        made: RowReferences = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=table.dtype, device=table.device)
        made.table, made.places, made._read = table, places, None
        return made

    def read(self) -> Tensor:
        """The rows themselves."""
        if self._read is None:
            self._read = rows_of(self.table, self.places)
        return self._read

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        args, kwargs = pytree.tree_map_only(RowReferences, RowReferences.read, (args, kwargs or {}))
        return func(*args, **kwargs)


def rows_of(table: Tensor, places: Tensor) -> Tensor:
    """table[places], several times faster than PyTorch's indexing."""
    return table.index_select(0, places.flatten()).view(*places.shape, *table.shape[1:])


_later: ContextVar[bool] = ContextVar("later", default=False)


@contextmanager
def deferred_reads(later: bool) -> Iterator[None]:
    """Within, batches may be `Unread`."""
    token = _later.set(later)
    try:
        yield
    finally:
        _later.reset(token)


def is_deferred() -> bool:
    """Whether whoever asked for batches can read rows where they lie."""
    return _later.get()
