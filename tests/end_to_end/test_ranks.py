"""A run on two ranks, in real processes; killed ones and two machines: scripts/prove ranks."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .bench import TINY, kept, seedbed

WORDS = ("--algorithm", "scaffold", "--engine", "one_by_one", *TINY)


def together(rank: int, size: int) -> dict[str, str]:
    """What torchrun would say to a rank; the port is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def test_one_rank_goes_on_with_its_own_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again finds the run done; another finds the place taken. To rounding it is the plain run."""
    out, plain = tmp_path / "one", tmp_path / "plain"
    assert seedbed("run", *WORDS, "--out", plain).code == 0
    for name, value in together(0, 1).items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        said = seedbed("run", *WORDS, "--out", out)
        assert said.code == 0, said
        assert "report:" in said.out
    assert "exists and is not empty" in seedbed("run", *WORDS, "--seed", 9, "--out", out).line
    mine, theirs = (load_file(run / "model.safetensors") for run in (out, plain))
    assert all(torch.allclose(mine[name], theirs[name], rtol=0, atol=1e-6) for name in theirs)


@pytest.mark.slow
def test_two_ranks_write_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And rank 1 writes and says nothing."""
    two, one, place = tmp_path / "two", tmp_path / "one", together(0, 2)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "seedbed", "run", *WORDS, "--out", str(out)],
            env={**os.environ, **place, "RANK": str(rank), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, out in enumerate((two, tmp_path / "elsewhere"))
    ]
    said = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "report:" in said[0]
    assert said[1] == ""
    assert [p.name for p in tmp_path.iterdir()] == ["two"]
    for name, value in together(0, 1).items():
        monkeypatch.setenv(name, value)
    assert seedbed("run", *WORDS, "--out", one).code == 0
    assert kept(one) == kept(two)
