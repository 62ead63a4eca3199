"""How much is taken from bytes that come from outside, and where reading stops. Read by every reader of such bytes.

A file says how large it is; what it unfolds to is only what its bytes say. So each reader compares the size that is
declared, or the bytes that come out so far, with these limits before it takes memory, and refuses in one line.

The same for names: a path inside a folder is checked by `inside` before it is used.
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

PIXELS = 2**26  # of one image: 8192 × 8192
MAX_UNFOLDED = 2**28  # bytes that anything may unfold to
UNFOLDED = 200  # times its size on disk that a larger file may unfold to; text and tables stay below 50
COLUMNS = 10**5  # of a table
LINE = 2**24  # bytes of a text file without the end of a line
READ_CHUNK = 2**20
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character, as JSON writes it

BROKEN = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)  # what decompressing damaged bytes raises


def refuse_unfolded(name: str, packed: int, unfolded: int, small: int | None = None) -> None:
    """
    Args:
        packed: bytes on disk.
        unfolded: bytes that it says to need, or that came out so far.
        small: bytes that are taken in any case; None: `SMALL`.
    Raises:
        InputError: the file is a decompression bomb, or cannot be told from one.
    """
    if unfolded > max(MAX_UNFOLDED if small is None else small, UNFOLDED * packed):
        raise InputError(
            f"{name} unfolds from {packed} to at least {unfolded} bytes, more than {UNFOLDED} times as many: a file "
            "that fills the memory looks like this; where it is meant, save it uncompressed"
        )


def refuse_pixels(name: str, width: int, height: int) -> None:
    """
    Raises:
        InputError: an image has more pixels than are decoded.
    """
    if width * height > PIXELS:
        raise InputError(
            f"{name} has {width}×{height} pixels, at most {PIXELS:,} are decoded: make it smaller, or leave it out"
        )


class Bounded(io.RawIOBase):
    """A stream that refuses to give more than the limits allow.

    Args:
        packed: the file's size on disk.
        lines: it is a text, whose lines have a limit too.
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
            raise InputError(f"{self._name} has a line of more than {LINE:,} bytes: it is no table of rows")

    def close(self) -> None:
        self._stream.close()
        super().close()


OPENERS: Mapping[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def open_bounded(path: Path, *, lines: bool = False) -> BinaryIO:
    """A file's bytes, decompressed by its suffix, within the limits.

    Raises:
        InputError: (while it is read) it unfolds to too much.
    """
    stream: Any = OPENERS.get(path.suffix.lower(), Path.open)(path, mode="rb")
    return io.BufferedReader(Bounded(stream, str(path), path.stat().st_size, lines=lines), READ_CHUNK)


def read_unfolded(path: Path) -> bytes:
    """All of a compressed file, within the limits."""
    with open_bounded(path) as stream:
        return stream.read()


def from_json(text: str | bytes, *, unique: bool = False) -> Any:
    """Parse JSON from outside.

    Args:
        unique: refuse a key that occurs twice in one object, of which a parser would keep the last value.
    Raises:
        ValueError: it is no JSON, it is nested too deeply, or a whole number has thousands of digits.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
        if HALF.search(text if isinstance(text, str) else text.decode()):
            json.dumps(value, ensure_ascii=False).encode()  # halves of characters that no text can hold
        return value
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:i]))
        raise ValueError(f"it has the key {twice[:40]!r} twice")
    return found


def from_toml(text: str) -> dict[str, Any]:
    """Parse TOML from outside.

    Raises:
        ValueError: it is no TOML, or it is nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def first_line_of(error: Exception) -> str:
    """What a foreign parser says, in a line."""
    said = str(error).strip().splitlines()
    return said[0][:200] if said else type(error).__name__


def inside(folder: Path, name: object) -> Path:
    """The place of a file that a name from outside stands for: below the folder.

    Raises:
        InputError: the name leads elsewhere.

    >>> inside(Path("run"), "checkpoints/a.safetensors").as_posix()
    'run/checkpoints/a.safetensors'
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    plain = all(p not in ("", ".", "..") and not set(p) & set("\\\0") and p.isprintable() for p in parts)
    if not plain or PurePosixPath(str(name)).is_absolute():
        raise InputError(f"{str(name)[:80]!r} is no name of a file inside {folder}: nothing is read or written there")
    place = folder.joinpath(*parts)
    if not place.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{place} leads out of {folder} by a link: nothing is read or written there")
    return place


def refuse_links(folder: Path) -> None:
    """
    Raises:
        InputError: something in a folder that is written to is a link: what it leads to would be changed.
    """
    link = next((place for place in sorted(folder.rglob("*")) if place.is_symlink()), None)
    if link is not None:
        raise InputError(f"{link} is a link, and what it leads to would be changed: put what it leads to in its place")
