"""Folders that come from others: links in them lead nowhere, and what they lead to is not changed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seedbed.deployment.federation.journal import Journal
from seedbed.errors import InputError
from seedbed.experiments.multi_rank import open_on_ranks
from seedbed.experiments.run_directory import RunDirectory
from seedbed.locks import hold_lock
from tests.federation.bench import node
from tests.peers.bench import peer, terms

THEIRS = "what somebody else wrote\n"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "theirs"
    path.write_text(THEIRS)
    return path


def resume(folder: Path) -> None:
    with open_on_ranks(folder) as run:
        run.recover()


def a_run(folder: Path) -> None:
    run = RunDirectory.create(folder, {"settings": {}})
    run.log({"round": 1})
    run.save("main", 1, {})


Opening = tuple[Callable[[Path], None], Callable[[Path], object], str]
OPENING: dict[str, Opening] = {
    "run": (a_run, resume, "lock metrics.jsonl journal.jsonl ledger.jsonl checkpoints/x-000001.safetensors"),
    "server": (Path.mkdir, lambda folder: Journal(folder).close(), "lock journal.log log.jsonl metrics.jsonl"),
    "node-0": (Path.mkdir, lambda folder: node("fedavg", 0, folder.parent), "log.jsonl"),
    "a": (Path.mkdir, lambda folder: peer("dpsgd", 0, terms(), folder.parent), "lock log.jsonl metrics.jsonl"),
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, (*_, names) in OPENING.items() for name in names.split()]
)
def test_a_link_in_a_folder_that_is_written_to(kind: str, name: str, tmp_path: Path, theirs: Path) -> None:
    make, open_it, _ = OPENING[kind]
    folder = tmp_path / kind
    make(folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(theirs)
    with pytest.raises(InputError, match=r"is a link|restore it"):
        open_it(folder)
    assert theirs.read_text() == THEIRS


def test_a_lock_that_is_a_link(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "held").symlink_to(theirs)
    with pytest.raises(InputError, match="is a link"), hold_lock(tmp_path / "held", "server"):
        pass
    assert theirs.read_text() == THEIRS


def test_a_folder_may_be_reached_by_a_link(tmp_path: Path) -> None:
    a_run(tmp_path / "run")
    (tmp_path / "other").symlink_to(tmp_path / "run")
    with open_on_ranks(tmp_path / "other") as run:
        assert run.latest("main") is not None
