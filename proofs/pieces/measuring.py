"""What a piece of work takes, in time and memory."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

from seedbed.engines.memory_info import memory_use


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of this process, and MB at most beyond what was there."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = memory_use("VmRSS"), time.process_time()
    work()
    return time.process_time() - began, memory_use("VmHWM") - before
