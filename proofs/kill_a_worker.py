"""Runs whose worker processes are killed with SIGKILL end bit for bit like one never disturbed (about 4 minutes)

At random moments, every few rounds: the run goes on by itself. Again and again, as they come: it stops in one line,
and what is then resumed ends the same. The run itself: none of its workers is left.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

from killing import COMMAND, files

from seedbed import randomness

TIMES = 3
SETTINGS = [
    *("--algorithm", "scaffold", "--processes", "--executor", "loop", "--rounds", "60", "--set", "workers=2"),
    *("--set", "model.name=mlp", "--set", "model.hidden=300", "--set", "cohort=6", "--set", "checkpoint_seconds=0"),
    *("--set", "evaluation.episodes=1", "--set", "evaluation.baselines=false", "--set", "evaluation.curve=false"),
]


def main() -> int:
    rng, good, kills = randomness.generator(0, "killed workers"), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run([*COMMAND, "run", *SETTINGS, "--out", str(place / "whole")], check=True, capture_output=True)
        want = files(place / "whole")
        for number in range(TIMES):
            run, seen = begun(out := place / f"some-{number}"), 0
            killed = 0
            while run.poll() is None:
                time.sleep(float(rng.uniform(0, 0.1)))
                workers = list(workers_of(run.pid))
                if workers and lines_of(out) > seen:  # no client's worker dies three times
                    seen = lines_of(out)
                    killed += kill(workers[int(rng.integers(len(workers)))])
            same = run.returncode == 0 and files(out) == want
            good, kills = good + same, kills + killed
            how = "same" if same else f"DIFFERENT (code {run.returncode})"
            print(f"{killed} workers killed at random: {how}")
        for number in range(TIMES):
            out = place / f"all-{number}"
            run = begun(out)
            lines = int(rng.integers(1, 40))
            while run.poll() is None and lines_of(out) < lines:
                time.sleep(0.002)
            while run.poll() is None:
                kills += sum(map(kill, workers_of(run.pid)))
                time.sleep(0.002)
            said = run.stderr.read().decode() if run.stderr else ""
            stopped = run.returncode == 2 and "was ended by SIGKILL" in said and "Traceback" not in said
            subprocess.run([*COMMAND, "resume", str(out)], check=True, capture_output=True)
            same = stopped and files(out) == want
            good += same
            print(f"all killed from line {lines} on, and resumed: {'same' if same else f'DIFFERENT ({said.strip()})'}")
        run, left = begun(place / "parent"), list[int]()
        while run.poll() is None and len(left := list(workers_of(run.pid))) < 2:
            time.sleep(0.002)
        run.kill()
        run.wait()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(lives(worker) for worker in left):
            time.sleep(0.01)
        orphans = sum(lives(worker) for worker in left)
    print(
        f"{good} of {2 * TIMES} bit-identical after {kills} kills; {orphans} of {len(left)} workers outlived their run"
    )
    return 0 if good == 2 * TIMES and kills and len(left) == 2 and not orphans else 1


def begun(out: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, "run", *SETTINGS, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def lines_of(run: Path) -> int:
    """Of its metrics: rounds so far."""
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def workers_of(process: int) -> Iterator[int]:
    """Its children that are no other program."""
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            for child in Path(f"/proc/{process}/task/{thread}/children").read_text().split():
                if Path(f"/proc/{child}/cmdline").read_bytes() == Path(f"/proc/{process}/cmdline").read_bytes():
                    yield int(child)


def kill(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
