"""Limits on data from outside, used by every reader of such data.

A compressed file can claim any size, or expand to any. So each reader compares the declared size, or the bytes produced
so far, with these limits before it allocates memory, and refuses in one line.

Names from outside have limits too: `inside` checks a path within a folder before it is used.
"""

import bz2
import gzip
import io
import json
import lzma
import re
import tomllib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from seedbed.errors import InputError

PIXELS = 2**26  # per image: 8192 × 8192
MAX_UNFOLDED = 2**28  # decompressed bytes that are always allowed
UNFOLDED = 200  # allowed expansion factor of larger files; text and tables stay below 50
COLUMNS = 10**5  # per table
LINE = 2**24  # bytes per line of a text file
READ_CHUNK = 2**20
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half of a surrogate pair, in JSON

BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)  # errors of decompressing damaged data


def refuse_unfolded(name: str, packed: int, unfolded: int, small: int | None = None) -> None:
    """Refuse a file that expands too much.

    Args:
        name: of the file.
        packed: bytes on disk.
        unfolded: declared bytes, or bytes produced so far.
        small: bytes that are always allowed; None: `MAX_UNFOLDED`.
    Raises:
        InputError: the file may be a decompression bomb.
    """
    if unfolded > max(MAX_UNFOLDED if small is None else small, UNFOLDED * packed):
        raise InputError(
            f"{name} unfolds from {packed} to at least {unfolded} bytes, more than {UNFOLDED} times as many, like a "
            "decompression bomb; if that is intended, save it uncompressed"
        )


def refuse_pixels(name: str, width: int, height: int) -> None:
    """Refuse an image that is too large.

    Raises:
        InputError: the image has more than `PIXELS` pixels.
    """
    if width * height > PIXELS:
        raise InputError(
            f"{name} has {width}×{height} pixels, but at most {PIXELS:,} are decoded: shrink it, or leave it out"
        )


class Bounded(io.RawIOBase):
    """A stream that raises an error when its data exceed the limits.

    Args:
        stream: the decompressed data.
        name: of the file.
        packed: the file's size on disk in bytes.
        lines: whether it is text, whose lines are limited too.
    """

    def __init__(self, stream: BinaryIO, name: str, packed: int, *, lines: bool = False):
        self._stream, self._name, self._packed, self._lines = stream, name, packed, lines
        self._count = self._line = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(len(buffer), READ_CHUNK))
        self._count += len(data)
        refuse_unfolded(self._name, self._packed, self._count)
        if self._lines:
            self._refuse_long_line(data)
        buffer[: len(data)] = data
        return len(data)

    def _refuse_long_line(self, data: bytes) -> None:
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self._line = self._line + len(data) if end < 0 else len(data) - end - 1
        if self._line > LINE:
            raise InputError(f"{self._name} has a line of more than {LINE:,} bytes: it is not a table of rows")

    def close(self) -> None:
        self._stream.close()
        super().close()


OPENERS: Mapping[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def open_bounded(path: Path, *, lines: bool = False) -> BinaryIO:
    """Open a file, decompressed by its suffix, within the limits.

    Raises:
        InputError: (while reading) the data exceed the limits.
    """
    stream: Any = OPENERS.get(path.suffix.lower(), Path.open)(path, mode="rb")
    return io.BufferedReader(Bounded(stream, str(path), path.stat().st_size, lines=lines), READ_CHUNK)


def read_unfolded(path: Path) -> bytes:
    """Read a whole compressed file, within the limits."""
    with open_bounded(path) as stream:
        return stream.read()


def from_json(text: str | bytes, *, unique: bool = False) -> Any:
    """Parse JSON from outside.

    Args:
        unique: refuse duplicate keys in an object; a parser would keep only the last value.
    Raises:
        ValueError: it is not valid JSON, is nested too deeply, or has an integer with thousands of digits.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
        if HALF.search(text if isinstance(text, str) else text.decode()):
            json.dumps(value, ensure_ascii=False).encode()  # raises for unpaired surrogates
        return value
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:i]))
        raise ValueError(f"it has the key {twice[:40]!r} twice")
    return table


def from_toml(text: str) -> dict[str, Any]:
    """Parse TOML from outside.

    Raises:
        ValueError: it is not valid TOML, or is nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def first_line_of(error: Exception) -> str:
    """The first line of another parser's error text, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def inside(folder: Path, name: object) -> Path:
    """The path of a file below `folder`, from a name that comes from outside.

    Raises:
        InputError: the name leads out of the folder.

    >>> inside(Path("run"), "checkpoints/a.safetensors").as_posix()
    'run/checkpoints/a.safetensors'
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    plain = all(p not in ("", ".", "..") and not set(p) & set("\\\0") and p.isprintable() for p in parts)
    if not plain or PurePosixPath(str(name)).is_absolute():
        raise InputError(f"{str(name)[:80]!r} is not a file name inside {folder}: nothing is read or written there")
    place = folder.joinpath(*parts)
    if not place.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{place} leads out of {folder} through a link: nothing is read or written there")
    return place


def refuse_links(folder: Path) -> None:
    """Refuse links in a folder that is written to.

    Raises:
        InputError: there is a link, whose target would be changed.
    """
    link = next((place for place in sorted(folder.rglob("*")) if place.is_symlink()), None)
    if link is not None:
        raise InputError(f"{link} is a link, whose target would be changed: replace it by what it points to")
