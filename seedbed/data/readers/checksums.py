"""Whether a packed population holds what was written: checked whole where it is small, else as it is first used.

Every 64 KiB of x, y, names and offsets have a checksum. Those of x and y are compared when a row in them is first used,
so that opening a large population reads nothing; those of the index (row numbers, offsets, names) before the first row.

Shapes: M examples in all, N clients, B blocks of a file.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.errors import InputError

CHECKSUM_BLOCK = 2**16  # bytes under one checksum
CHECK_AT_OPENING = 2**24  # bytes of a population that is checked whole when it is opened
SOME = 2**17  # row numbers, or names, looked at together
SUMMED = ("x", "y", "names", "offsets")  # in this order in sums.npy
PACK_AGAIN = "copy the folder again, or pack the data anew"

Array = npt.NDArray[Any]


class Checksums:
    """Checksums of data that is written piece by piece."""

    def __init__(self) -> None:
        self._closed: list[int] = []
        self._sum = self._filled = 0

    def add(self, data: memoryview) -> None:
        while len(data):
            piece = data[: CHECKSUM_BLOCK - self._filled]
            self._sum, self._filled = zlib.crc32(piece, self._sum), self._filled + len(piece)
            data = data[len(piece) :]
            if self._filled == CHECKSUM_BLOCK:
                self._close()

    def finish(self) -> list[int]:
        """[B]"""
        if self._filled:
            self._close()
        return self._closed

    def _close(self) -> None:
        self._closed.append(self._sum)
        self._sum = self._filled = 0


@dataclass
class Blocks:
    """The blocks of one file, each checked once.

    Args:
        sums: [B]; None: the population was packed before there were any.
        odd: what is wrong with the values of a block [n]; empty: nothing.
    """

    place: Path
    array: Array
    sums: Array | None
    odd: Callable[[Array], str] = lambda values: ""
    _seen: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self._flat = np.asarray(self.array).reshape(-1)
        self._seen = np.zeros(blocks_in(self.array), bool)

    def verify(self, rows: npt.NDArray[np.int64] | None = None) -> None:
        """
        Args:
            rows: which are about to be used; None: all.
        Raises:
            InputError: the file is not what was written.
        """
        if self._seen.all():
            return
        for block in np.flatnonzero(~self._seen) if rows is None else self._blocks_of(rows):
            self._check(int(block))
            self._seen[block] = True

    def _blocks_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The blocks that hold these rows and were not looked at yet."""
        size = self.array.nbytes // len(self.array)
        if not len(rows) or not size:
            return np.zeros(0, np.int64)
        low, high = int(rows.min()), int(rows.max())
        if high - low < 2 * len(rows) or size > CHECKSUM_BLOCK:  # near each other, or large: all between them
            found = np.arange(low * size // CHECKSUM_BLOCK, ((high + 1) * size - 1) // CHECKSUM_BLOCK + 1)
        else:
            found = np.unique(
                np.concatenate([rows * size // CHECKSUM_BLOCK, ((rows + 1) * size - 1) // CHECKSUM_BLOCK])
            )
        return found[~self._seen[found]]

    def _check(self, block: int) -> None:
        each = max(1, CHECKSUM_BLOCK // self.array.itemsize)
        values = self._flat[block * each : (block + 1) * each]
        if self.sums is not None and zlib.crc32(values.view(np.uint8).data) != self.sums[block]:
            raise InputError(f"{self.place} is not what was written ({self._where(block)}): {PACK_AGAIN}")
        if why := self.odd(values):
            raise InputError(f"{self.place} has {why} ({self._where(block)}): {PACK_AGAIN}")

    def _where(self, block: int) -> str:
        size = self.array.nbytes // len(self.array)
        end = min(len(self.array), -(-(block + 1) * CHECKSUM_BLOCK // size))
        return f"in rows {block * CHECKSUM_BLOCK // size} to {end - 1}"


class Intact:
    """Checks a packed population. Called with the row numbers that are about to be used.

    Args:
        sums: of all files, one after another; None: the population was packed before there were any.
        classes: how many there are; 0: regression.
    """

    def __init__(self, path: Path, found: dict[str, Array], sums: Array | None, classes: int):
        self._path, self._rows, self._indexed = path, found["rows"], False
        parts = _parted(path, [found[name] for name in SUMMED], sums)
        files = {n: Blocks(path / f"{n}.npy", found[n], part) for n, part in zip(SUMMED, parts, strict=True)}
        self._x, self._y, self._names, self._offsets = files.values()
        self._y.odd = lambda values: odd_labels(values, classes) or not_finite(values)
        self._x.odd = not_finite if sums is None else self._x.odd
        self._refuse_odd_offsets(found["offsets"], len(found["x"]))
        if sum(array.nbytes for array in found.values()) <= CHECK_AT_OPENING:
            self(np.arange(len(self._rows)))

    def __call__(self, rows: npt.NDArray[np.int64]) -> None:
        """
        Raises:
            InputError: a file is not what was written.
        """
        if not self._indexed:
            self._refuse_odd_rows()
            self._offsets.verify()
            self._names.verify()
            self._refuse_repeated_names(self._names.array)
            self._indexed = True
        self._x.verify(rows)
        self._y.verify(rows)

    def _refuse_odd_offsets(self, offsets: Array, rows: int) -> None:
        if offsets[0] != 0 or offsets[-1] != rows or (offsets[1:] <= offsets[:-1]).any():
            raise InputError(
                f"{self._path / 'offsets.npy'} does not deal {rows} rows to {len(offsets) - 1} clients: {PACK_AGAIN}"
            )

    def _refuse_odd_rows(self) -> None:
        for start in range(0, len(self._rows), SOME):
            some = self._rows[start : start + SOME]
            if not np.array_equal(some, np.arange(start, start + len(some))):
                raise InputError(f"{self._path / 'rows.npy'} does not count the rows from 0 on: {PACK_AGAIN}")

    def _refuse_repeated_names(self, names: Array) -> None:
        """By 64 bits of each name; where two agree, by the names."""
        keys = np.concatenate([_keys(names[i : i + SOME]) for i in range(0, len(names), SOME)])
        order = np.argsort(keys, kind="stable")
        for at in np.flatnonzero(keys[order][1:] == keys[order][:-1]):
            one, other = order[at], order[at + 1]
            if names[one] == names[other]:
                raise InputError(f"{self._path / 'names.npy'} names clients {one} and {other} alike: {PACK_AGAIN}")


def blocks_in(array: Array) -> int:
    return -(-array.nbytes // CHECKSUM_BLOCK)


def odd_labels(y: Array, classes: int) -> str:
    """What is wrong with class numbers; empty: nothing."""
    if y.dtype.kind not in "iu" or not classes or not y.size:
        return ""
    low, high = int(y.min()), int(y.max())
    odd = low if low < 0 else high
    return f"the label {odd}, but there are {classes} classes" if odd < 0 or odd >= classes else ""


def not_finite(values: Array) -> str:
    return "" if values.dtype.kind != "f" or np.isfinite(values).all() else "values that are not finite"


def _parted(path: Path, arrays: Sequence[Array], sums: Array | None) -> Sequence[Array | None]:
    """Each array's checksums."""
    if sums is None:
        return [None] * len(arrays)
    ends = np.cumsum([blocks_in(array) for array in arrays])
    if sums.dtype != np.uint32 or len(sums) != ends[-1]:
        raise InputError(f"{path / 'sums.npy'} holds {len(sums)} checksums, not {ends[-1]}: {PACK_AGAIN}")
    return np.split(sums, ends[:-1])


def _keys(names: Array) -> npt.NDArray[np.uint64]:
    """[n] names of a multiple of 8 bytes -> [n] mixed into 64 bits."""
    words = np.ascontiguousarray(names).view(np.uint64).reshape(len(names), -1)
    odd = np.random.default_rng(0).integers(1, 2**63, words.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    mixed: npt.NDArray[np.uint64] = (words * odd).sum(1, dtype=np.uint64)
    return mixed
