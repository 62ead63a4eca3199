"""Really killing a run: start the command, SIGKILL it when its metrics have so many lines, resume, compare files."""

import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "seedbed"]
SETTINGS = [
    *("--algorithm", "fedavg", "--rounds", "12", "--set", "cohort=4", "--set", "model.name=linear"),
    *("--set", "evaluation.episodes=2", "--set", "evaluation.curve=false", "--set", "checkpoint_seconds=0"),
]
COMPARED = ("model.safetensors", "metrics.jsonl", "result.json")


def whole(out: Path, *more: str) -> dict[str, bytes]:
    """The files of a run that nobody disturbs. `more`: settings."""
    subprocess.run([*COMMAND, "run", *SETTINGS, *more, "--out", str(out)], check=True, capture_output=True)
    return files(out)


def killed(out: Path, lines: int, *more: str, delay: float = 0.0) -> dict[str, bytes]:
    """The files of a run that is killed `delay` seconds after its metrics have `lines` lines, and then resumed."""
    process = subprocess.Popen(
        [*COMMAND, "run", *SETTINGS, *more, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.wait()
    subprocess.run([*COMMAND, "resume", str(out)], check=True, capture_output=True)
    return files(out)


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in COMPARED}
