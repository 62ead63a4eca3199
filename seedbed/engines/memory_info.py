"""How much memory there is, and how much is in use, as Linux tells; and keeping what is freed for the next step."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

CGROUP_FILES = (  # of a container: what it may use, and uses; by version of the interface
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


# For glibc: tensors up to 32 MB come from the heap, and of that up to 1 GB is not given back to the system only to be
# asked for again in the next step: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
FREED_STAYS = {-3: 2**25, -1: 2**30}
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded now: a forked worker must not


def keep_freed_memory() -> None:
    """For a process that is Seedbed's own: what its tensors free stays its own, for the next ones.

    Second-order MAML takes a fifth less time by it, for a page that the system gives anew is filled with zeros first.
    """
    if _libc is not None and hasattr(_libc, "mallopt"):
        for option, number in FREED_STAYS.items():
            _libc.mallopt(option, number)


def memory_use(field: str, place: str = "/proc/self/status") -> float:
    """A field of this process's status, such as VmRSS, or of /proc/meminfo.

    Raises:
        OSError: the system does not tell.
    """
    [line] = [line for line in Path(place).read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


def available_memory() -> float | None:
    """MB that can still be used, by the machine and by the container; None: the system does not tell."""
    found = []
    with suppress(OSError, ValueError):
        found.append(memory_use("MemAvailable", "/proc/meminfo"))
    for most, used in CGROUP_FILES:
        with suppress(OSError, ValueError):
            found.append((int(Path(most).read_text()) - int(Path(used).read_text())) / 2**20)
    return min(found, default=None)
