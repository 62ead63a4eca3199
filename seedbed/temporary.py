"""Temporary files and folders beside the place where they are moved to: a fresh name each, and only one's own removed.

A process that is killed leaves its temporary file behind. Such files are recognised by their name, `.NAME.TOKEN.part`,
and by their lock: a process that writes one holds a lock on it, which the system releases when the process ends. So a
leftover is one whose lock is free. The first write into a folder removes the leftovers that are older than a minute;
`clear` removes all, for a folder that no other process writes to.
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
OLD = 60.0  # seconds: between making a file and locking it no process waits so long


@contextmanager
def fresh_name(path: Path, *, is_folder: bool = False, mode: int = 0o666) -> Iterator[Path]:
    """A new, empty file or folder beside a path, to be moved there; removed at the end if it was not.

    Raises:
        OSError: it cannot be made.
    """
    if is_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    _tidy(path.parent.absolute())
    beside, handle = _made(path, is_folder, mode)
    own = os.fstat(handle)
    try:
        yield beside
    finally:
        os.close(handle)
        _remove(beside, own)


def clear(folder: Path, older: float = 0.0) -> None:
    """Remove what processes that ended have left in a folder.

    Args:
        older: in seconds; younger ones stay.
    """
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if TEMPORARY_NAME.fullmatch(entry.name):
                _remove_if_left(Path(entry.path), older)


@lru_cache(1024)
def _tidy(folder: Path) -> None:
    """Once for each folder and process."""
    clear(folder, OLD)


def _made(path: Path, is_folder: bool, mode: int) -> tuple[Path, int]:
    """A place that was not there, and its locked descriptor."""
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        with suppress(FileExistsError):
            if is_folder:
                beside.mkdir()
                handle = os.open(beside, os.O_RDONLY)
            else:
                handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            _lock(handle)
            return beside, handle


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
    """Remove it, if it is still the one that was made or looked at."""
    with suppress(OSError):
        found = place.lstat()
        if (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            return
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(place)
        else:
            place.unlink()


def _lock(handle: int) -> bool:
    """Take the lock of a file that is open; False: another process has it, or the file system has none."""
    try:
        import fcntl  # POSIX only
    except ImportError:
        return False
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
