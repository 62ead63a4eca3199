"""The command line inside this process, tiny settings and small data."""

import contextlib
import io
import random
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from seedbed.cli import main
from seedbed.experiments import tuning

NET = ("--set", "model.name=mlp", "--set", "model.hidden=8")
ONCE = ("--set", "evaluation.episodes=2", "--set", "evaluation.shots=1")
PLAIN = ("--set", "evaluation.baselines=false", "--set", "evaluation.curve=false")
TINY = ("--rounds", "3", "--set", "checkpoint_seconds=0", *NET, *ONCE, *PLAIN)
KEPT = ("model.safetensors", "metrics.jsonl", "result.json")  # what must not depend on how often a run was stopped


def look_at_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing how to fine-tune looks at few ways."""
    for name, values in {
        "HEAD_RATES": (0.1,),
        "HEAD_STEPS": (5,),
        "RATES": (0.1,),
        "STEPS": (2, 4),
        "OWN_STEPS": (2,),
    }.items():
        monkeypatch.setattr(tuning, name, values)


class Said(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a refusal."""
        *before, line = self.err.strip().splitlines()
        assert self.code == 2, self
        assert "Traceback" not in self.err
        assert not any("seedbed:" in other for other in before)
        assert line.startswith("seedbed: ")
        return line


def seedbed(*words: object) -> Said:
    """`seedbed words...`, in this process: importing torch for each command would take seconds."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["seedbed", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    return Said(int(end.value.code or 0), out.getvalue(), err.getvalue())


def files(run: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def kept(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in KEPT}


def table(clients: str = "abcde", rows: int = 24, *, numbers: bool = False) -> str:
    """A CSV of hospitals: age tells ill from well, each hospital with a threshold of its own."""
    rng, lines = random.Random(0), ["hospital,age,dose,label"]
    for number, client in enumerate(clients):
        for i in range(rows):
            age = rng.gauss(50 + 20 * (i % 2), 5)
            label = f"{age / 100 + number:.4f}" if numbers else ("ill" if i % 2 else "well")
            lines.append(f"{client},{age:.2f},{rng.randrange(9)},{label}")
    return "\n".join(lines) + "\n"
