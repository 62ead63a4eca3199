"""How much memory there is, and how much is in use, as Linux tells."""

from contextlib import suppress
from pathlib import Path

LIMITS = (  # of a container: what it may use, and uses; by version of the interface
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def megabytes(field: str, place: str = "/proc/self/status") -> float:
    """A field of this process's status, such as VmRSS, or of /proc/meminfo.

    Raises:
        OSError: the system does not tell.
    """
    [line] = [line for line in Path(place).read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


def available() -> float | None:
    """MB that can still be used, by the machine and by the container; None: the system does not tell."""
    found = []
    with suppress(OSError, ValueError):
        found.append(megabytes("MemAvailable", "/proc/meminfo"))
    for most, used in LIMITS:
        with suppress(OSError, ValueError):
            found.append((int(Path(most).read_text()) - int(Path(used).read_text())) / 2**20)
    return min(found, default=None)
