"""Large populations by the command line: packed data, and what clients keep on disk."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seedbed.engines import distributed
from seedbed.experiments import run_plan

from .bench import PLAIN, TINY, kept, seedbed


def ran(out: Path, *words: object) -> Path:
    said = seedbed("run", *TINY, *words, "--out", out)
    assert said.code == 0, said
    return out


def test_what_is_kept_on_disk_changes_no_byte(tmp_path: Path) -> None:
    """SCAFFOLD: the model, metrics and result; and checkpoints hold an index in the place of control variates."""
    memory = ran(tmp_path / "memory", "--algorithm", "scaffold")
    disk = ran(tmp_path / "disk", "--algorithm", "scaffold", "--set", "client_state=disk")
    assert kept(disk) == kept(memory)
    sizes = [sum(p.stat().st_size for p in (run / "checkpoints").iterdir()) for run in (memory, disk)]
    assert sizes[1] < sizes[0] - (disk / "kept" / "scaffold" / "0.bin").stat().st_size / 2


def test_packed_data_are_the_same_data(tmp_path: Path) -> None:
    """The rows lie in another order in the files, and in the same order for every client."""
    said = seedbed("data", "pack", "digits", tmp_path / "packed")
    assert said.code == 0, said
    assert "14 clients" in said.out
    runs = [ran(tmp_path / str(i), "--data", data, *PLAIN) for i, data in enumerate(("digits", tmp_path / "packed"))]
    assert kept(runs[0]) == kept(runs[1])
    assert "exists and is not empty" in seedbed("data", "pack", "digits", tmp_path / "packed").line


@pytest.mark.parametrize("command", ["compare", "evaluate", "data"])
def test_commands_that_share_nothing_out_are_refused_under_torchrun(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert seedbed(command, "list").line.endswith("only run and resume share their work out over ranks")


def test_messages_for_which_there_is_no_room_are_summed_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said; the model is the same but for rounding, and the same bytes however many are asked at once."""
    ran(tmp_path / "held", "--algorithm", "fedavg", "--executor", "loop", *PLAIN)
    monkeypatch.setattr(run_plan, "HELD_BYTES", 1)
    words = ("run", *TINY, "--algorithm", "fedavg", "--executor", "loop", *PLAIN, "--out")
    models = []
    for room, least in ((2**30, 32), (1, 3), (1, 1)):
        monkeypatch.setattr(distributed, "MAX_HELD_BYTES", room)
        monkeypatch.setattr(distributed, "MIN_ASKED", least)
        said = seedbed(*words, tmp_path / str(least))
        assert "are summed as they come" in said.err.replace("\n", " ")
        models.append((tmp_path / str(least) / "model.safetensors").read_bytes())
    assert len(set(models)) == 1
    found, want = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "held"))
    assert all(torch.allclose(found[name], want[name], atol=1e-5) for name in want)
