"""Temporary files and folders: each has a fresh name in the target's folder, and a process removes only its own.

A killed process leaves its temporary file behind. Such files have names of the form `.NAME.TOKEN.part`. A process holds
a lock on its temporary file, which the system releases when the process ends; so a file with a free lock is a leftover.
The first write into a folder removes leftovers older than a minute. `clear` removes all, for a folder that no other
process writes to.
"""

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{16}\.part")
OLD = 60.0  # seconds; creating and locking a file takes less


@contextmanager
def fresh_name(path: Path, *, is_folder: bool = False, mode: int = 0o666) -> Iterator[Path]:
    """A new, empty file or folder next to `path`, to be renamed to it; removed at the end if that did not happen.

    Raises:
        OSError: it cannot be created.
    """
    if is_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    _tidy(path.parent.absolute())
    temporary, handle = _create(path, is_folder, mode)
    own = os.fstat(handle)
    try:
        yield temporary
    finally:
        os.close(handle)
        _remove(temporary, own)


def clear(folder: Path, older: float = 0.0) -> None:
    """Remove the leftovers of ended processes from a folder.

    Args:
        folder: that no running process writes to, unless `older` protects its files.
        older: minimum age in seconds.
    """
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if TEMPORARY_NAME.fullmatch(entry.name):
                _remove_if_left(Path(entry.path), older)


@lru_cache(1024)
def _tidy(folder: Path) -> None:
    """Clear old leftovers once per folder and process."""
    clear(folder, OLD)


def _create(path: Path, is_folder: bool, mode: int) -> tuple[Path, int]:
    """A new path and its locked descriptor."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        with suppress(FileExistsError):
            if is_folder:
                temporary.mkdir()
                handle = os.open(temporary, os.O_RDONLY)
            else:
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            _lock(handle)
            return temporary, handle


def _remove_if_left(place: Path, older: float) -> None:
    with suppress(OSError):
        own = place.lstat()
        if not (stat.S_ISREG(own.st_mode) or stat.S_ISDIR(own.st_mode)) or time.time() - own.st_mtime < older:
            return
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if _lock(handle):
                _remove(place, own)
        finally:
            os.close(handle)


def _remove(place: Path, own: os.stat_result) -> None:
    """Remove it, if it is still the same file or folder."""
    with suppress(OSError):
        current = place.lstat()
        if (current.st_dev, current.st_ino) != (own.st_dev, own.st_ino):
            return
        if stat.S_ISDIR(current.st_mode):
            shutil.rmtree(place)
        else:
            place.unlink()


def _lock(handle: int) -> bool:
    """Lock an open file; False if another process has the lock, or locks are not supported."""
    try:
        import fcntl  # POSIX only
    except ImportError:
        return False
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
