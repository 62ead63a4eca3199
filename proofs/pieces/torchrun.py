"""Starting runs on several ranks, and killing one of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SETTINGS = [
    *("--algorithm", "scaffold", "--rounds", "12", "--engine", "one_by_one", "--set", "cohort=4"),
    *("--set", "model.name=linear", "--set", "evaluation.episodes=2", "--set", "evaluation.baselines=false"),
    *("--set", "evaluation.curve=false", "--set", "checkpoint_seconds=0"),
]
COMPARED = ("model.safetensors", "metrics.jsonl", "result.json")


def started(
    words: Sequence[str],
    ranks: int,
    *,
    restarts: int = 0,
    launcher: Sequence[str] = ("--standalone",),
    inside: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """`torchrun -m seedbed words...`, or `inside` before it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", *launcher]
    return subprocess.Popen(
        [*inside, *torchrun, f"--nproc-per-node={ranks}", f"--max-restarts={restarts}", "-m", "seedbed", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ranks_of(process: subprocess.Popen[str]) -> dict[int, int]:
    """{rank: process id} of those that a torchrun has started and that run."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            words = (place / "environ").read_bytes().split(b"\0") if parent == process.pid else []
        except OSError:
            continue  # it has ended meanwhile
        said = dict(word.split(b"=", 1) for word in words if b"=" in word)
        if b"RANK" in said:
            found[int(said[b"RANK"])] = int(place.name)
    return found


def kill(process: subprocess.Popen[str], rank: int, out: Path, lines: int) -> float:
    """SIGKILL a rank once the run's metrics have so many lines; when that was, by time.monotonic."""
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    os.kill(ranks_of(process)[rank], signal.SIGKILL)
    return time.monotonic()


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in COMPARED}
