"""Several processes that want the same run directory at the same time."""

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from killing import COMMAND, SETTINGS, files


def stopped(out: Path, lines: int = 5) -> Path:
    """A run that was killed once its metrics had so many lines."""
    process = subprocess.Popen(
        [*COMMAND, "run", *SETTINGS, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.002)
    process.kill()
    process.wait()
    return out


READY = (  # imports what is slow, so that none begins when another has ended
    "import sys, torch, seedbed.experiments.launch; from seedbed.cli import main; "
    "print('ready', flush=True); sys.stdin.readline(); main()"
)


def at_once(*commands: list[str]) -> list[tuple[int, str, int]]:
    """Status, what is said on standard error, and process of each command, begun together once all are loaded."""
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([sys.executable, "-c", READY, *words], text=True, stdin=pipe, stdout=pipe, stderr=pipe)
        for words in commands
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[1] for process in running]
    return [(process.returncode, text, process.pid) for process, text in zip(running, said, strict=True)]


def wrong(out: Path, ended: list[tuple[int, str, int]], want: dict[str, bytes]) -> str:
    """What is not as promised: one goes on to the bytes of an undisturbed run, each other says in one line why not."""
    good = [one for one in ended if one[0] == 0]
    refused = [one for one in ended if one[0] != 0]
    if len(good) != 1:
        return f"{len(good)} went on: {[text.strip().splitlines()[-1:] for _, text, _ in ended]}"
    for status, text, _ in refused:
        line = text.strip()
        if status != 2 or "\n" in line or f"process {good[0][2]} on" not in line:
            return f"status {status}, said {line!r}"
    return "" if files(out) == want else "other bytes than of an undisturbed run"
