"""Runs on 1, 2 and 3 ranks, killed ranks, and two machines' worth of network end in the same bytes (about 4 minutes)"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "pieces"))

from torchrun import SETTINGS, files, kill, started

from seedbed import randomness

KILLS = 6
SECONDS = 10.0  # within which the ranks that are left must have stopped
LINE = "rank 0 has lost another rank"


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        want = ran(folder / "one", 1)
        good = [ran(folder / f"ranks-{ranks}", ranks) == want for ranks in (2, 3)]
        print(f"2 and 3 ranks: {'the bytes of 1' if all(good) else 'DIFFERENT'}")
        good += [killed(folder / f"killed-{number}", number, want) for number in range(KILLS)]
        good += [stopped(folder / "stopped", want), *refused(folder)]
        good += two_machines(folder, want)
    print(f"{sum(good)} of {len(good)} as they should be")
    return 0 if all(good) else 1


def ran(out: Path, ranks: int) -> dict[str, bytes]:
    """The files of a run that nobody disturbs."""
    finished(started(["run", *SETTINGS, "--out", str(out)], ranks))
    return files(out)


def finished(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said


def killed(out: Path, number: int, want: dict[str, bytes]) -> bool:
    """A random rank of two is killed at a random line, and torchrun starts both again."""
    rng = randomness.generator(0, "killed ranks", number)
    rank, lines = int(rng.integers(2)), int(rng.integers(15))
    process = started(["run", *SETTINGS, "--out", str(out)], 2, restarts=1)
    kill(process, rank, out, lines)
    finished(process)
    same = files(out) == want
    print(f"rank {rank} of 2 killed after line {lines}, restarted by torchrun: {'same' if same else 'DIFFERENT'}")
    return same


def stopped(out: Path, want: dict[str, bytes]) -> bool:
    """Without restarts the others stop, and say so; the same command goes on, here on three ranks."""
    process = started(["run", *SETTINGS, "--out", str(out)], 2)
    at = kill(process, 1, out, 9)
    said, _ = process.communicate(timeout=180)
    seconds = time.monotonic() - at
    told = any(words in said for words in (LINE, "SIGKILL"))
    same = ran(out, 3) == want
    print(f"without restarts all had stopped after {seconds:.1f} s; the same command went on: {same}")
    return same and told and seconds < SECONDS


def refused(folder: Path) -> list[bool]:
    """What is wrong is said once, whatever the number of ranks; and ranks that do not belong together are told so."""
    process = started(["run", *SETTINGS, "--algorithm", "fedavgg", "--out", str(folder / "bad")], 2)
    lines = told(process.communicate(timeout=180)[0])
    print(f"an unknown algorithm on 2 ranks: {lines}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    both = [
        started(
            ["run", *SETTINGS, "--seed", str(rank), "--out", str(folder / "unlike")],
            1,
            launcher=[*where, f"--node-rank={rank}"],
        )
        for rank in (0, 1)
    ]
    unlike = [line for process in both for line in told(process.communicate(timeout=180)[0])]
    print(f"ranks of unlike seeds: {unlike}")
    return [
        len(lines) == 1 and "did you mean 'fedavg'?" in lines[0],
        len(unlike) == 1 and "rank 1 has other settings.seed than rank 0 (1 instead of 0)" in unlike[0],
    ]


def told(said: str) -> list[str]:
    """What Seedbed has told people of errors."""
    return [line for line in said.splitlines() if line.startswith("seedbed:")]


def heard(process: subprocess.Popen[str]) -> float:
    """When a rank said that it has lost another, by time.monotonic."""
    assert process.stdout is not None
    for line in process.stdout:
        if LINE in line:
            return time.monotonic()
    return float("inf")


# ---- two machines ----------------------------------------------------------------------------------------------


def two_machines(folder: Path, want: dict[str, bytes]) -> list[bool]:
    """A rank in each of two network namespaces, which a cable joins; one is killed, and the other's machine hears."""
    try:
        with cable() as names:
            for process in nodes(names, folder / "machines"):
                finished(process)
            same = files(folder / "machines") == want
            print(f"two network namespaces: {'same' if same else 'DIFFERENT'}")
            out = folder / "machines-killed"
            near, far = nodes(names, out)
            at = kill(far, 1, out, 5)
            seconds = heard(near) - at
            for process in (near, far):
                process.communicate(timeout=180)
            print(f"the rank in one killed: the other said so and stopped after {seconds:.1f} s")
            for process in nodes(names, out):
                finished(process)
            again = files(out) == want
            print(f"the same commands went on: {again}")
            return [same, seconds < SECONDS, again]
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"SKIPPED two network namespaces: not allowed here ({error})")
        return []


@contextmanager
def cable() -> Iterator[list[str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2."""
    names = [f"seedbed-{secrets.token_hex(3)}-{i}" for i in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for i, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{i}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def nodes(names: list[str], out: Path) -> list[subprocess.Popen[str]]:
    """torchrun on both. The second machine's --out is not written."""
    where = ["--nnodes=2", "--master-addr=10.77.0.1", "--master-port=29400"]
    places = [out, out.with_name("elsewhere")]
    os.environ["GLOO_SOCKET_IFNAME"] = "cable"
    return [
        started(
            ["run", *SETTINGS, "--out", str(place)],
            1,
            launcher=[*where, f"--node-rank={rank}"],
            inside=["ip", "netns", "exec", name],
        )
        for rank, (name, place) in enumerate(zip(names, places, strict=True))
    ]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
