"""A run killed at its k-th operation on the disk, for every k, and resumed: what differs from one never stopped.

Operations are those that change files: open for writing, write, flush to disk, replace, remove, make, cut. A write that
is killed has written half of its bytes. Each process is a fork of one that has imported everything.

    python everywhere.py FIRST STEP [again] [forgets] [disk]

again: a second kill, at the k-th operation of the resume. forgets: a mutant that does not rewrite metrics.jsonl when it
resumes. disk: an algorithm whose clients keep something, on disk. full: no kill, but a disk that is full from the k-th
operation on, which the run must say in a line; then there is space again.
"""

import builtins
import errno
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seedbed import locks, serialization
from seedbed.engines import client_state_store
from seedbed.errors import InputError
from seedbed.experiments import run_directory, tuning
from seedbed.experiments.launch import resume_run, start_run
from seedbed.experiments.stages import Show

COMPARED = ("model.safetensors", "metrics.jsonl", "result.json", "report.html")
FREES = ("unlink", "rmdir")  # operations that a full disk does not refuse
CHANGES = ("fsync", "replace", "unlink", "mkdir", "truncate", "ftruncate", "pwrite", "rename", "rmdir")
SETTINGS = [
    *("reader.client=client", "reader.target=y", "task.batch_size=4", "evaluation.queries=4", "model.name=linear"),
    *("cohort=3", "evaluation.episodes=1", "evaluation.shots=1", "evaluation.baselines=false"),
    *("evaluation.curve=false", "checkpoint_seconds=0", "local.lr=0.1"),
]
ASKED = {"algorithm": "fedavg", "rounds": 3, "executor": "loop", "workers": 1}
DISK = {"algorithm": "scaffold", "kept": "disk"}


class Killer:
    """Counts operations, and kills this process before the k-th; 0: never."""

    def __init__(self, at: int, *, full: bool = False):
        self.at, self.count, self.full = at, 0, full

    def install(self) -> None:
        for name in CHANGES:
            setattr(os, name, self.counted(getattr(os, name)))
        for module in (run_directory, serialization, client_state_store, locks):
            module.open = self.opened  # type: ignore[attr-defined]

    def step(self) -> bool:
        """Count an operation; whether it must not be done."""
        self.count += 1
        return self.count >= self.at if self.full and self.at else self.count == self.at

    def stop(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **more: Any) -> Any:
            if self.step() and not (self.full and work.__name__ in FREES):
                self.stop()
            return work(*arguments, **more)

        return instead

    def opened(self, path: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+"):
            return builtins.open(path, mode, *arguments, **more)
        if self.step():
            self.stop()
        file = builtins.open(path, mode, *arguments, **more)  # noqa: SIM115
        write = file.write

        def written(data: Any) -> Any:
            if self.step():
                write(data[: len(data) // 2])
                file.flush()
                self.stop()
            return write(data)

        file.write = written  # type: ignore[method-assign]
        return file


def apart(work: Callable[[], object], report: Path, at: int = 0, *, forgets: bool = False, full: bool = False) -> int:
    """Do it in a fork that is stopped at this operation: the number of operations; 0: stopped as it should be; -1: it
    failed otherwise."""
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            killer = Killer(at, full=full)
            if forgets:
                os.truncate = lambda *arguments: None
            killer.install()
            work()
            with builtins.open(report, "w") as file:
                file.write(str(killer.count))
            status = 0
        except InputError as error:
            status = 2 if full and "No space left" in str(error) else 1
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in (-signal.SIGKILL, 2):
        return 0
    return int(report.read_text()) if code == 0 else -1


class Trial:
    """Runs on one small table of data.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path, *, forgets: bool = False, disk: bool = False, full: bool = False):
        self.folder, self.forgets, self.full = folder, forgets, full
        self.asked = {**ASKED, **(DISK if disk else {})}
        self.data, self.report = folder / "t.csv", folder / "report"
        rows = [f"c{i % 8},{i % 3},{(i * 7) % 11},{(i * 5) % 13}" for i in range(160)]
        self.data.write_text("\n".join(["client,y,a,b", *rows]) + "\n")
        settings = [s for s in SETTINGS if not (disk and s.startswith("local"))]
        self.begin = lambda out: start_run({**self.asked, "data": str(self.data)}, settings, None, out, Show())
        self.begin(folder / "first")  # imports what is imported late, so that forks need not
        self.operations = apart(lambda: self.begin(folder / "whole"), self.report)
        assert self.operations > 0, "the run fails without any kill"
        self.want = self.files(folder / "whole")

    def files(self, out: Path) -> list[bytes]:
        return [(out / name).read_bytes().replace(str(out).encode(), b"") for name in COMPARED if (out / name).exists()]

    def gone_on(self, out: Path, at: int = 0) -> int:
        """Resume; where nothing had begun, begin."""
        there = (out / "manifest.json").exists()
        return apart(
            lambda: resume_run(out, Show()) if there else self.begin(out), self.report, at, forgets=self.forgets
        )

    def is_same(self, at: int, again: int = 0) -> bool:
        """Whether a run that is killed here, and its resume there, ends with the bytes of one never stopped."""
        out = self.folder / "killed"
        stopped = apart(lambda: self.begin(out), self.report, at, full=self.full)
        if again and self.gone_on(out, again) > 0:
            again = 0  # it had fewer operations
        same = stopped >= 0 and self.gone_on(out) >= 0 and self.files(out) == self.want
        shutil.rmtree(out, ignore_errors=True)
        return same


def main(first: int, step: int, *words: str) -> int:
    torch.set_num_threads(1)
    for name in ("HEAD_RATES", "HEAD_STEPS", "RATES", "STEPS", "OWN_STEPS"):
        setattr(tuning, name, getattr(tuning, name)[:1])  # a search takes time, and writes no more than its result
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), **{word: word in words for word in ("forgets", "disk", "full")})
        if "again" in words:
            middle = trial.operations // 2
            kills = [(middle, again) for again in range(first, trial.operations, step)]
        else:
            kills = [(at, 0) for at in range(first, trial.operations + 1, step)]
        wrong = [kill for kill in kills if not trial.is_same(*kill)]
    what = "in the middle, then again at" if "again" in words else "at"
    kind = "full disks" if "full" in words else "kills"
    print(f"{len(kills) - len(wrong)} of {len(kills)} {kind} {what} each of {trial.operations} operations: same bytes")
    if wrong:
        print(f"DIFFERENT: {[again or at for at, again in wrong]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
