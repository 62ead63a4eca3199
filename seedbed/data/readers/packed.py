"""A population on disk, memory-mapped: opened in the same time whatever its size, and only what is used is read.

A folder, written by `seedbed data pack` or `packing`:

population.json  classes, encoding and the like, what the arrays must measure, and a checksum of this
x.npy, y.npy     [M, ...] inputs and targets, one client's rows after another's
rows.npy         [M] 0, 1, 2, ...: a population's row numbers
offsets.npy      [N+1] where each client's rows start
names.npy        [N] client names, UTF-8
sums.npy         checksums of 64 KiB each of x, y, names and offsets

Shapes: M examples in all, N clients, n of one.
"""

import base64
import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedbed.data.population import Names, Population
from seedbed.data.readers.checksums import PACK_AGAIN, SUMMED, Checksums, Intact, odd_labels
from seedbed.errors import InputError
from seedbed.limits import first_line_of, from_json
from seedbed.temporary import fresh_name

ABOUT, FORM = "population.json", 2
ARRAYS = ("x", "y", "rows", "offsets", "names")
SUMS, WITHOUT_SUMS = "sums", 1  # the file, and the form that had none
TESTED = "tested"  # a bit for each row, where the data holds some out
ORDERED = "ordered"  # true where rows are ordered in time
SUM = "sum"  # of population.json itself; those packed before there was one have none
FIELDS = ("classes", "unseen", "notes")  # lists of texts
ARRAY_KINDS = {"x": "fiub", "y": "fiub", "rows": "i", "offsets": "i", "names": "S", "sums": "u"}  # of numbers
HEADER = 256  # bytes of a .npy header, so that it can be written when the length is known
MAX_NAME_BYTES = 64  # bytes of a client's name


def read(path: str | Path) -> Population:
    """Open a packed population. Its x and y are read-only: they lie on the disk.

    Data is compared with its checksums at its first use (see `intact`).

    Raises:
        InputError: a file is missing, cut short, altered, or of another version.
    """
    path = Path(path)
    about = _about(path)
    with_sums = about["form"] != WITHOUT_SUMS
    found = {name: _array(path, name, about["shapes"].get(name)) for name in (*ARRAYS, *([SUMS] if with_sums else []))}
    found["offsets"] = np.array(found["offsets"])  # looked at for every client: eight bytes each in memory
    _refuse_unlike_lengths(path, found)
    fields: dict[str, Any] = {name: tuple(about[name]) for name in FIELDS}
    fields["notes"] += () if with_sums else (f"{path.name} was packed without checksums: pack it anew to have them",)
    intact = Intact(path, {name: found[name] for name in ARRAYS}, found.get(SUMS), len(about["classes"]))
    x, y = (_tensor(found[name]) for name in ("x", "y"))
    return Population(
        x,
        y,
        found["rows"],
        found["offsets"],
        Names(found["names"]),
        episodic=about["episodic"],
        source=about["source"],
        encoding=about["encoding"],
        tested=_tested(about, len(found["x"]), path),
        ordered=about.get(ORDERED) is True,
        verify=intact,
        **fields,
    )


def pack_population(population: Population, path: Path, tick: Callable[[int], None] = lambda clients: None) -> None:
    """Write a population to a new folder, client by client.

    Args:
        tick: told how many clients are written, now and then.
    Raises:
        InputError: the folder holds something, or cannot be written; a name is too long.
    """
    fields = {name: getattr(population, name) for name in ("classes", "episodic", "unseen", "source", "notes")}
    tested = None if population.tested is None else population.tested[population.rows]
    more: dict[str, Any] = {"encoding": population.encoding, "tested": tested, "ordered": population.ordered}
    with packed_writer(path, **fields, **more) as add:
        for client in range(len(population)):
            rows = population.rows_of(client)
            rows = np.sort(rows) if population.ordered else rows
            add(population.names[client], population.x[rows], population.y[rows])
            if client % 1000 == 999:
                tick(1000)
    tick(len(population) % 1000)


@contextmanager
def packed_writer(
    path: Path,
    *,
    classes: Sequence[str] = (),
    episodic: bool = False,
    unseen: Sequence[str] = (),
    source: str | None = None,
    notes: Sequence[str] = (),
    encoding: dict[str, Any] | None = None,
    tested: npt.NDArray[np.bool_] | None = None,
    ordered: bool = False,
) -> Iterator[Callable[[str, Tensor, Tensor], None]]:
    """A new packed population that clients are added to, one by one: only their names stay in memory.

    Gives `add(name, x, y)` of a client's examples: x [n, ...], y [n] class numbers (int64) or [n, ...] targets. The
    folder is there when all are: whole or not at all.

    Args:
        classes, episodic, unseen, source, notes, encoding: see `Population`.
        tested: [M] the rows, in the order in which they are added, that the data holds out for testing.
        ordered: a client's later rows are added after its earlier ones.
    Raises:
        InputError: the folder holds something, or cannot be written; or (of `add`) a client is unlike those before,
            has no examples, a number that is not finite, or a name that was there.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is not empty: name a new folder")
    about = {"classes": list(classes), "episodic": episodic, "unseen": list(unseen), "source": source or path.name}
    about |= {"notes": list(notes), "encoding": encoding or {}}
    about |= {ORDERED: True} if ordered else {}
    about |= {} if tested is None else {TESTED: base64.b85encode(np.packbits(tested).tobytes()).decode()}
    try:
        with fresh_name(path, is_folder=True) as beside:
            with ExitStack() as files:
                writer = _Writer(beside, files, len(classes))
                yield writer.add
                writer.finish(about)
            if path.exists():
                path.rmdir()
            beside.rename(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place, or free some space") from error


@dataclass
class _Growing:
    """A .npy file that grows by rows."""

    file: BinaryIO
    dtype: np.dtype[Any]
    inner: tuple[int, ...]
    sums: Checksums = field(default_factory=Checksums)
    rows: int = 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        self.file.write(data)
        self.sums.add(data)
        self.rows += len(rows)

    def finish(self) -> list[Any]:
        """Write the header, now that the length is known; [type, shape]."""
        shape = (self.rows, *self.inner)
        said = repr({"descr": self.dtype.str, "fortran_order": False, "shape": shape}).encode()
        self.file.seek(0)
        self.file.write(b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + said.ljust(HEADER - 11) + b"\n")
        self.file.close()
        return [self.dtype.str, list(shape)]


@dataclass
class _Writer:
    """A packed population that is being written."""

    folder: Path
    files: ExitStack  # closes them
    classes: int
    growing: dict[str, _Growing] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def add(self, name: str, x: Tensor, y: Tensor) -> None:
        """See `packing`."""
        word = name.encode()
        if not 0 < len(word) <= MAX_NAME_BYTES:
            raise InputError(
                f"client name {name!r} has {len(word)} bytes of UTF-8: 1 to {MAX_NAME_BYTES} can be packed"
            )
        if name in self.names:
            raise InputError(f"client {name!r} comes twice: give all its examples at once")
        if len(x) != len(y) or len(x) == 0:
            raise InputError(f"client {name!r} has {len(x)} inputs and {len(y)} targets: as many of both, and some")
        start = self.growing["x"].rows if self.growing else 0
        arrays = {"x": x.numpy(), "y": y.numpy(), "rows": np.arange(start, start + len(x))}
        arrays |= {"offsets": np.array([start]), "names": np.array([word], f"S{MAX_NAME_BYTES}")}
        if not self.growing:
            self.growing = {n: self._new(n, array) for n, array in arrays.items()}
        for what in ("x", "y"):
            like, given = self.growing[what], arrays[what]
            if (given.dtype, given.shape[1:]) != (like.dtype, like.inner):
                raise InputError(
                    f"{what} of client {name!r} is {given.dtype} of shape {given.shape[1:]}, those before "
                    f"{like.dtype} of {like.inner}: all clients need the same"
                )
            if given.dtype.kind == "f" and not np.isfinite(given).all():
                raise InputError(f"{what} of client {name!r} is not finite: drop or fill such rows first")
        if why := odd_labels(arrays["y"], self.classes):
            raise InputError(f"client {name!r} has {why}: number them from 0, or name all classes")
        for what, array in arrays.items():
            self.growing[what].add(array)
        self.names.add(name)

    def finish(self, about: dict[str, Any]) -> None:
        """The last offset, the headers, and what must be known to open it."""
        if not self.growing:
            raise InputError("no client was added: a population needs at least one")
        self.growing["offsets"].add(np.array([self.growing["x"].rows]))
        sums = np.array([one for name in SUMMED for one in self.growing[name].sums.finish()], np.uint32)
        self.growing[SUMS] = self._new(SUMS, sums)
        self.growing[SUMS].add(sums)
        shapes = {name: array.finish() for name, array in self.growing.items()}
        whole = {"form": FORM, **about, "shapes": shapes}
        (self.folder / ABOUT).write_text(json.dumps({**whole, SUM: _sum(whole)}, indent=1) + "\n")

    def _new(self, name: str, like: npt.NDArray[Any]) -> _Growing:
        file = self.files.enter_context((self.folder / f"{name}.npy").open("wb"))
        file.write(bytes(HEADER))
        return _Growing(file, like.dtype, like.shape[1:])


def _about(path: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = from_json((path / ABOUT).read_text())
        form = about["form"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / ABOUT} cannot be read ({error}): pack the data anew") from error
    if form not in (WITHOUT_SUMS, FORM):
        raise InputError(f"{path} is packed in form {str(form)[:40]}, this version reads 1 to {FORM}: pack it anew")
    kinds = {**dict.fromkeys(FIELDS, list), "episodic": bool, "source": str, "encoding": dict, "shapes": dict}
    odd = [name for name, kind in kinds.items() if not isinstance(about.get(name), kind)]
    odd += [name for name in FIELDS if name not in odd and not all(isinstance(word, str) for word in about[name])]
    if odd:
        raise InputError(f"{path / ABOUT} has no {odd[0]} as it should be: copy it again, or pack the data anew")
    if about.get(SUM, _sum(about)) != _sum(about):
        raise InputError(f"{path / ABOUT} is not what was written: {PACK_AGAIN}")
    return about


def _tested(about: Mapping[str, Any], rows: int, path: Path) -> npt.NDArray[np.bool_] | None:
    """[M] the rows that the data holds out for testing."""
    if TESTED not in about:
        return None
    try:
        bits = np.frombuffer(base64.b85decode(about[TESTED]), np.uint8)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path / ABOUT} has no {TESTED} as it should be: {PACK_AGAIN}") from error
    if len(bits) != -(-rows // 8):
        raise InputError(f"{path / ABOUT} has no {TESTED} as it should be: {PACK_AGAIN}")
    return np.unpackbits(bits, count=rows).astype(bool)


def _sum(about: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps({name: about[name] for name in sorted(about) if name != SUM}).encode())


def _array(path: Path, name: str, shape: Any) -> npt.NDArray[Any]:
    """A file's array, mapped: read where it is looked at."""
    place = path / f"{name}.npy"
    try:
        found: npt.NDArray[Any] = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, SyntaxError, TokenError) as error:  # a header is read as Python's literals
        reason = first_line_of(error)
        raise InputError(f"{place} is missing or cut short ({reason}): copy it again, or pack the data anew") from error
    if not isinstance(found, np.memmap) or [found.dtype.str, list(found.shape)] != shape:
        what = f"{found.dtype.str} {list(found.shape)}" if isinstance(found, np.ndarray) else "no array"
        raise InputError(f"{place} holds {what}, not {str(shape)[:80]}: copy it again")
    if found.dtype.kind not in ARRAY_KINDS[name] or not found.flags.c_contiguous:
        raise InputError(f"{place} holds {found.dtype.str}, which no packed population has there: pack the data anew")
    return found


def _refuse_unlike_lengths(path: Path, found: Mapping[str, npt.NDArray[Any]]) -> None:
    """Arrays that are not of one population."""
    rows, clients = len(found["x"]) if found["x"].ndim else 0, len(found["names"]) if found["names"].ndim else 0
    wanted = {"y": rows, "rows": rows, "offsets": clients + 1}
    for name, length in wanted.items():
        array = found.get(name)
        flat = name != "y"
        if array is not None and (array.ndim == 0 or len(array) != length or (flat and array.ndim > 1)):
            raise InputError(f"{path / name}.npy holds {list(array.shape)}, not {length} entries: copy it again")
    if rows == 0 or clients == 0 or found["names"].dtype.itemsize != MAX_NAME_BYTES or found["names"].ndim > 1:
        raise InputError(f"{path} holds no clients with names of {MAX_NAME_BYTES} bytes: pack the data anew")
    for name in ("rows", "offsets"):
        if found[name].dtype != np.int64:
            raise InputError(f"{path / name}.npy holds {found[name].dtype.str}, not <i8: pack the data anew")


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """The same memory as a tensor. It cannot be written to, which torch has a warning for: nothing here does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
