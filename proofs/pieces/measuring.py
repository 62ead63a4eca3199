"""What a piece of work takes, in time and memory."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of this process, and MB at most beyond what was there."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = megabytes("VmRSS"), time.process_time()
    work()
    return time.process_time() - began, megabytes("VmHWM") - before


def megabytes(field: str) -> float:
    """A line of /proc/self/status: VmRSS or VmHWM."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024
