"""A population of clients as flat arrays plus offsets: nothing is copied per client, on disk or in memory.

Shapes: M examples in all, N clients, R rows in use (R ≤ M).
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedbed import randomness
from seedbed.data.row_references import RowReferences, is_deferred, rows_of
from seedbed.errors import InputError

FEW_CLASSES = 20  # whole numbers of which no more differ are class numbers, however few rows there are
MOST_CLASSES = 1000  # and up to here, however few classes occur

RowIndices = npt.NDArray[np.int64]


class Names(Sequence[str]):
    """Client names that lie in an array of UTF-8 bytes [N], on disk or in memory."""

    def __init__(self, array: npt.NDArray[np.bytes_]):
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Names": ...
    def __getitem__(self, place: int | slice) -> "str | Names":
        return Names(self.array[place]) if isinstance(place, slice) else self.array[place].decode(errors="replace")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool((self.array == name.encode()).any())


@dataclass(frozen=True, eq=False, repr=False)
class Population:
    """Clients and their examples.

    A subset of clients or of rows is another Population over the same `x` and `y`: splits cost an index array.

    Args:
        x: [M, ...] inputs. uint8 is an image, handed to models as 0…1; other integers stay as they are (tokens).
        y: [M] class numbers (int64) or [M, ...] targets (float).
        rows: [R] rows of x and y, one client after another.
        offsets: [N+1] where each client's rows start in `rows`.
        names: N client names.
        classes: the names of the classes that y numbers; empty for regression.
        episodic: True when labels mean something only inside a client, so that tasks are N-way episodes;
            False when they mean the same everywhere, so that a client is a task.
        unseen: names of the clients that come set apart, never to be trained on (may be empty).
        notes: what reading the data changed, in words (rows dropped, values filled).
        encoding: how raw columns became x, so that new rows can be read alike (JSON-like).
        tested: [M] rows that the data itself holds out for testing; None: it holds out none.
        ordered: rows with higher numbers came later: a client's support is its past, and its last rows are held out.
        verify: checks the data of some rows before they are used, where they lie on a disk.
    """

    x: Tensor
    y: Tensor
    rows: RowIndices
    offsets: RowIndices
    names: Sequence[str]
    classes: tuple[str, ...] = ()
    episodic: bool = False
    unseen: tuple[str, ...] = ()
    source: str = "arrays"
    notes: tuple[str, ...] = ()
    encoding: dict[str, Any] = field(default_factory=dict)
    tested: npt.NDArray[np.bool_] | None = None
    ordered: bool = False
    verify: Callable[[RowIndices], None] | None = None

    @classmethod
    def from_arrays(cls, x: Any, y: Any, client: Sequence[str] | npt.NDArray[Any], **fields: Any) -> "Population":
        """Group rows by a client column, keeping the order in which clients first appear.

        Args:
            x: [M, ...].  y: [M] or [M, ...]. Tensors, NumPy arrays, or nested lists of numbers.
            client: M client names.
            fields: the other fields of Population; classes may be their number. y of whole numbers [M] are class
                numbers; without `classes`, these are named 0, 1, ....
        Raises:
            InputError: lengths differ, a value is no number or not finite, there is no row, or whole numbers are no
                class numbers.

        >>> p = Population.from_arrays(torch.arange(6.)[:, None], torch.zeros(6), ["b", "a", "b", "a", "b", "b"])
        >>> p.names, p.sizes.tolist(), p.rows_of(0).tolist()
        (('b', 'a'), [4, 2], [0, 2, 4, 5])
        """
        keys, x, y = np.asarray(client).astype(str), _as_tensor("x", x), _as_tensor("y", y)
        if isinstance(fields.get("classes"), int):
            fields["classes"] = tuple(map(str, range(fields["classes"])))
        if not len(x) == len(y) == len(keys):
            raise InputError(f"x has {len(x)} rows, y {len(y)}, client {len(keys)}: they must be equal")
        if len(x) == 0:
            raise InputError("no rows: a population needs at least one example")
        if y.ndim == 1 and not y.is_floating_point() and not fields.get("classes"):
            y, fields = _as_class_numbers(y, fields)
        _refuse_non_finite("x", x, keys)
        _refuse_non_finite("y", y, keys)
        found, first, number = np.unique(keys, return_index=True, return_inverse=True)
        rank = np.empty(len(found), np.int64)
        rank[np.argsort(first)] = np.arange(len(found))
        rows = np.argsort(rank[number], kind="stable").astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rank[number]))]).astype(np.int64)
        return cls(x, y, rows, offsets, tuple(map(str, found[np.argsort(first)])), **fields)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        kind = f"{len(self.classes)} classes" if self.classes else "regression"
        task = "N-way episodes inside a client" if self.episodic else "a client is a task"
        return (
            f"Population({self.source}: {len(self):,} clients, {len(self.rows):,} examples of shape "
            f"{tuple(self.x.shape[1:])}, {kind}, {task})"
        )

    @cached_property
    def sizes(self) -> RowIndices:
        """[N] how many examples each client has."""
        return np.diff(self.offsets)

    @cached_property
    def labels(self) -> npt.NDArray[Any]:
        """y as a numpy array that shares its memory."""
        return self.y.numpy()

    def rows_of(self, client: int) -> RowIndices:
        """The rows of x and y that are this client's; their data is verified.

        Raises:
            InputError: the data is not what was written.
        """
        return self.verified(self._numbers_of(client))

    def every_row(self) -> RowIndices:
        """All rows in use; their data is verified."""
        return self.verified(self.rows)

    def verified(self, rows: RowIndices) -> RowIndices:
        """These rows, once their data is verified."""
        if self.verify is not None:
            self.verify(rows)
        return rows

    def _numbers_of(self, client: int) -> RowIndices:
        return self.rows[self.offsets[client] : self.offsets[client + 1]]

    def only(self, clients: Sequence[int] | RowIndices) -> "Population":
        """The population of some of the clients, in the order given. A run of neighbours shares the row numbers too."""
        chosen = np.asarray(clients, np.int64)
        first, last = (chosen[0], chosen[-1] + 1) if len(chosen) else (0, 0)
        offsets = np.concatenate([[0], np.cumsum(self.sizes[chosen])]).astype(np.int64)
        if np.array_equal(chosen, np.arange(first, last)):
            rows = self.rows[self.offsets[first] : self.offsets[last]]
        else:
            rows = self.rows[np.repeat(self.offsets[chosen] - offsets[:-1], np.diff(offsets)) + np.arange(offsets[-1])]
        return replace(self, rows=rows, offsets=offsets, names=self._named(chosen))

    def split_clients(self, *, unseen: float | int | None = None, seed: int = 0) -> tuple["Population", "Population"]:
        """Clients to train on, and clients never seen in training.

        Args:
            unseen: how many clients to set apart: a fraction (float) or a count (int). None: those that the data
                itself sets apart, else three in ten.
        """
        if unseen is None and self.unseen:
            unseen_names = set(self.unseen)
            apart = [i for i, name in enumerate(self.names) if name in unseen_names]
        else:
            share = 0.3 if unseen is None else unseen
            count = share if isinstance(share, int) else max(1, round(share * len(self)))
            if not 0 <= count < len(self):
                raise InputError(
                    f"unseen={share} of {len(self)} clients leaves none to train on: name fewer, or a fraction < 1"
                )
            apart = sorted(randomness.generator(seed, "unseen clients").permutation(len(self))[:count].tolist())
        kept = sorted(set(range(len(self))) - set(apart))
        return self.only(kept), self.only(apart)

    def hold_out(self, fraction: float, *, seed: int = 0, first: int = 0) -> tuple["Population", "Population"]:
        """Every client's rows in two: (1 − fraction) to train on, and the rest, to test on. Drawn by seed.

        Where the data itself holds rows out (`tested`), those are the rest, unless the fraction is 0. Where rows are
        ordered in time, the last ones are. A client of one row keeps it for training, so every client has at least one
        row to train on.

        Args:
            first: the number of the first client: that of a client of a federation who is alone here.
        """
        if not 0 <= fraction < 1:
            raise InputError(f"hold_out={fraction} must be at least 0 and below 1")
        if self.tested is not None and fraction:
            return self._split_tested(self.tested)
        own = [np.sort(self._numbers_of(i)) for i in range(len(self))]
        order = (
            own
            if self.ordered
            else [
                randomness.generator(seed, "hold out", first + i).permutation(self._numbers_of(i))
                for i in range(len(self))
            ]
        )
        kept = [max(1, math.ceil((1 - fraction) * len(rows))) for rows in order]
        clients = range(len(self))
        train = self._with_rows(clients, [np.sort(rows[:k]) for rows, k in zip(order, kept, strict=True)])
        test = self._with_rows(clients, [np.sort(rows[k:]) for rows, k in zip(order, kept, strict=True)])
        return train, test

    def _split_tested(self, tested: npt.NDArray[np.bool_]) -> tuple["Population", "Population"]:
        """Every client's rows without those that the data holds out, and those. One row at least is trained on."""
        own = [self._numbers_of(i) for i in range(len(self))]
        trained = [rows[~tested[rows]] if not tested[rows].all() else rows[:1] for rows in own]
        rest = [np.setdiff1d(rows, kept) for rows, kept in zip(own, trained, strict=True)]
        return self._with_rows(range(len(self)), trained), self._with_rows(range(len(self)), rest)

    def set_apart(self, share: float | int, *, seed: int = 0) -> tuple["Population", "Population"]:
        """The clients without some of their rows, drawn by the seed, and those rows: one client, in a random order.

        Args:
            share: how many rows: a fraction of all (float) or a count (int). Every client keeps one at least.
        Raises:
            InputError: there are not so many rows.
        """
        count = share if isinstance(share, int) else max(1, round(share * len(self.rows)))
        free = np.setdiff1d(np.arange(len(self.rows)), self.offsets[:-1])  # all but each client's first
        if not 0 < count <= len(free):
            raise InputError(f"public={share} of {len(self.rows)} rows: {len(free)} at most can be set apart")
        drawn = randomness.generator(seed, "public").permutation(free)[:count]
        kept = np.ones(len(self.rows), bool)
        kept[drawn] = False
        bounds = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        rest = self._with_rows(range(len(self)), [self.rows[a:b][kept[a:b]] for a, b in bounds])
        public = replace(self, rows=self.rows[drawn], offsets=np.array([0, count]), names=("public",), unseen=())
        return rest, public

    def inputs(self, rows: Any) -> Tensor:
        """The inputs of some rows as models take them: images 0…1, numbers in the default precision, tokens as they
        are."""
        dtype = torch.get_default_dtype()
        if isinstance(rows, Tensor) and is_deferred() and self.x.dtype == dtype and self.x.is_contiguous():
            return RowReferences(self.x, rows)
        x = rows_of(self.x, rows) if isinstance(rows, Tensor) else self.x[rows]
        if x.dtype == torch.uint8:
            return x.to(dtype) / 255
        return x.to(dtype) if x.is_floating_point() else x

    def pooled(self) -> "Population":
        """One client that holds everybody's examples: the centralised baseline."""
        return replace(self, offsets=np.array([0, len(self.rows)]), names=("everyone",), unseen=())

    def compact(self) -> "Population":
        """The same clients with only the classes that they have, numbered anew in the same order."""
        found = np.unique(self.labels[self.every_row()])
        number = np.zeros(len(self.classes), np.int64)
        number[found] = np.arange(len(found))
        self.verified(np.arange(len(self.y)))
        return replace(self, y=torch.as_tensor(number[self.labels]), classes=tuple(self.classes[c] for c in found))

    def fingerprint(self) -> str:
        """sha256 of the examples, of whose they are, and of the names: what a manifest records."""
        self.every_row()
        digest = hashlib.sha256()
        split = (*(() if self.tested is None else (self.tested,)), *((np.ones(1),) if self.ordered else ()))
        for array in (self.x.numpy(), self.labels, self.rows, self.offsets, *split):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update("\0".join((*self.names, "", *self.classes)).encode())
        return digest.hexdigest()

    def _with_rows(self, clients: Sequence[int] | RowIndices, rows: list[RowIndices]) -> "Population":
        sizes = np.array([len(r) for r in rows], np.int64)
        return replace(
            self,
            rows=np.concatenate([np.empty(0, np.int64), *rows]),
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            names=self._named(np.asarray(clients, np.int64)),
        )

    def _named(self, clients: RowIndices) -> Sequence[str]:
        """These clients' names."""
        if isinstance(self.names, Names):
            return Names(self.names.array[clients])
        return tuple(self.names[c] for c in clients)


def _as_class_numbers(y: Tensor, fields: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Whole numbers [M] as class numbers, and the fields with names and a note for them."""
    distinct, (least, most) = len(np.unique(y.numpy())), (int(y.min()), int(y.max()))
    if least < 0 or distinct > max(FEW_CLASSES, len(y) // 2) or most >= max(MOST_CLASSES, len(y)):
        raise InputError(
            f"y holds {distinct} different whole numbers from {least} to {most} in {len(y)} rows, which are no class "
            "numbers: pass y.float() for a regression, or number the classes from 0 and name them with classes=..."
        )
    note = f"y holds whole numbers: read as {most + 1} classes; y.float() is a regression"
    names = tuple(map(str, range(most + 1)))
    return y.long(), {**fields, "classes": names, "notes": (*fields.get("notes", ()), note)}


def _as_tensor(what: str, values: Any) -> Tensor:
    """Numbers as a tensor: whole ones of 64 bits (uint8 stays, as an image), real ones as they are."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise InputError(
                f"{what} holds {array.dtype} values, not numbers: encode words and dates as numbers first, or read "
                "them from a file (seedbed.read)"
            )
        values = torch.tensor(array.astype(np.int64) if array.dtype.kind == "u" and array.itemsize > 1 else array)
    found: Tensor = values if not values.requires_grad and values.device.type == "cpu" else values.detach().cpu()
    if found.dtype == torch.bool:
        return found.to(torch.int64 if what == "y" else torch.get_default_dtype())
    whole = not found.is_floating_point() and not found.is_complex()
    return found.to(torch.int64) if whole and (what == "y" or found.dtype != torch.uint8) else found


def _refuse_non_finite(what: str, values: Tensor, keys: npt.NDArray[Any]) -> None:
    if not values.is_floating_point():
        return
    bad = ~torch.isfinite(values.reshape(len(values), -1)).all(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise InputError(
            f"{what} of row {row} (client {str(keys[row])!r}) is not finite, as in {int(bad.sum())} rows in all: "
            "a model cannot learn from NaN or infinity; drop or fill those rows first"
        )
