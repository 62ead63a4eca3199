"""Large populations by the command line: packed data, and what clients keep on disk."""

from pathlib import Path

import pytest

from .bench import PLAIN, TINY, kept, seedbed


def ran(out: Path, *words: object) -> Path:
    said = seedbed("run", *TINY, *words, "--out", out)
    assert said.code == 0, said
    return out


def test_what_is_kept_on_disk_changes_no_byte(tmp_path: Path) -> None:
    """SCAFFOLD: the model, metrics and result; and checkpoints hold an index in the place of control variates."""
    memory = ran(tmp_path / "memory", "--algorithm", "scaffold")
    disk = ran(tmp_path / "disk", "--algorithm", "scaffold", "--set", "kept=disk")
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
