"""File locks: one process at a time. A lock's file names its holder, and the system releases it when the holder dies.

`flock` works over NFS and most parallel file systems, but not everywhere: with some mount options it only covers one
machine, and some file systems do not support it. There the name in the file decides: a lock whose process may still run
is refused.
"""

import errno
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from seedbed.errors import InputError

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
LOCAL_LOCK_OPTIONS: Mapping[
    str, tuple[str, ...]
] = {  # by type of file system: options with which locks cover one machine only
    "nfs": ("nolock", "local_lock=flock", "local_lock=all"),
    "nfs4": ("local_lock=flock", "local_lock=all"),
    "lustre": ("localflock",),
    "fuse.sshfs": ("",),
}
TRIES, PAUSE = 5, 0.02  # attempts and seconds in between: reading the status takes the lock for a moment
CLOSED = "choose a directory that you may write to"
OTHER_PLACE = "stop that one, or choose another place"


def lock_file(path: Path, what: str, *, way: str = OTHER_PLACE) -> int:
    """Lock a file and write this process's name into it; returns a descriptor, whose closing releases the lock.

    Args:
        path: the lock's file, created if missing.
        what: the kind of process, for error messages: server, node.
        way: the way out if another process holds the lock.
    Raises:
        InputError: another process holds it, or may hold it if the file system cannot tell; the file cannot be written;
            or it is a link, whose target would be overwritten.
    """
    try:
        return _lock(path, what, way)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path} is a link, whose target would be overwritten: remove it") from error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        place = "free some space, then start it again with the same command" if full else CLOSED
        raise InputError(f"cannot write {path}: {error.strerror}; {place}") from error


def _lock(path: Path, what: str, way: str) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if not (_flock(file, path, what, way) and holds_everywhere(path)):
            _refuse_named(file, path, what)
        if not os.fstat(file).st_nlink:
            raise InputError(f"{path} was removed by another {what} just now: start again")
        _name(file, f"process {os.getpid()} on {platform.node()}\n")
    except BaseException:
        os.close(file)
        raise
    return file


@contextmanager
def hold_lock(path: Path, what: str, *, way: str = OTHER_PLACE) -> Iterator[None]:
    """Hold the lock within this context; afterwards the file names no process."""
    file = lock_file(path, what, way=way)
    try:
        yield
    finally:
        with suppress(OSError):
            _name(file, "")
        os.close(file)


def holds_everywhere(path: Path, mounts: str | None = None) -> bool:
    """Whether a lock on this file also excludes other machines, according to the mount table.

    Args:
        path: the lock's file.
        mounts: in the format of /proc/self/mountinfo; None: that file.

    >>> line = "36 35 0:40 / /home rw - nfs4 server:/home rw,vers=4.2,local_lock={}"
    >>> [holds_everywhere(Path("/home/a/lock"), line.format(which)) for which in ("none", "all")]
    [True, False]
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return True
    place, longest, holds = path.resolve(), -1, True
    for line in mounts.splitlines():
        about, _, behind = line.partition(" - ")
        point = Path(about.split()[4].replace("\\040", " "))
        kind, options = behind.split()[0], {*about.split()[5].split(","), *behind.split()[-1].split(","), ""}
        if place.is_relative_to(point) and len(point.parts) >= longest:
            longest, holds = len(point.parts), not options & {*LOCAL_LOCK_OPTIONS.get(kind, ())}
    return holds


def _flock(file: int, path: Path, what: str, way: str) -> bool:
    """Lock the file; False if the file system does not support locks."""
    import fcntl  # POSIX only

    for tries_left in reversed(range(TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not tries_left:
                holder = _holder(file) or "without a name"
                raise InputError(f"{path.parent} is held by another {what} ({holder}): {way}") from error
            time.sleep(PAUSE)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
        else:
            return True
    raise AssertionError("the last try returns or raises")


def _refuse_named(file: int, path: Path, what: str) -> None:
    """Where locks do not exclude all machines: refuse if the process named in the file may still run."""
    holder = _holder(file)
    words = holder.split()
    if len(words) != 4 or not words[1].isdigit():
        return
    process, host = int(words[1]), words[3]
    if host == platform.node() and not (process != os.getpid() and _runs(process)):
        return
    raise InputError(
        f"{path.parent} was last held by another {what} ({holder}), and the locks of this file system cannot tell "
        f"whether it has ended: make sure that it has, then remove {path}"
    )


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _holder(file: int) -> str:
    return os.pread(file, 500, 0).decode(errors="replace").partition("\n")[0]


def _name(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)
