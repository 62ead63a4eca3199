"""Temporary files and folders: a fresh name each, only one's own removed, and what a killed process left goes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from seedbed import serialization, temporary
from seedbed.data.readers import packed_writer
from seedbed.errors import InputError
from seedbed.privacy.differential.noise import key_file

WRITERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda place: serialization.write_atomically(place, b"whole"),
    "a folder": lambda place: _folder(place),
    "a population": lambda place: _population(place),
    "a key": key_file,
}


def _folder(place: Path) -> None:
    with serialization.atomic_folder(place) as beside:
        (beside / "a").write_bytes(b"whole")


def _population(place: Path) -> None:
    with packed_writer(place) as add:
        add("a", torch.ones(1, 2), torch.ones(1))


@pytest.mark.parametrize("writer", WRITERS)
def test_what_lies_there_already_stays(writer: str, tmp_path: Path) -> None:
    """A stranger's files and folders under the names that were once fixed, or like ours but in use."""
    for name in ("m.part", ".m.part", ".n.0123456789abcdef.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    WRITERS[writer](tmp_path / "m")
    assert (tmp_path / "m").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".m.part", ".n.0123456789abcdef.part", "m", "m.part"]
    assert all((tmp_path / name / "mine.txt").exists() for name in ("m.part", ".m.part"))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_is_not_followed(writer: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.txt").write_text("theirs")
    for name in ("m.part", ".m.part", f".m.{'0' * 16}.part"):
        (tmp_path / name).symlink_to(tmp_path / "theirs")
        os.utime(tmp_path / name, (0, 0), follow_symlinks=False)
    WRITERS[writer](tmp_path / "m")
    assert (tmp_path / "theirs" / "a.txt").read_text() == "theirs"


def test_two_writers_of_one_place_do_not_meet(tmp_path: Path) -> None:
    with temporary.fresh_name(tmp_path / "m") as one, temporary.fresh_name(tmp_path / "m") as other:
        assert one != other
        one.write_bytes(b"one")
        assert other.read_bytes() == b""
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_put_in_its_place_stays(tmp_path: Path) -> None:
    with temporary.fresh_name(tmp_path / "m") as beside:
        beside.unlink()
        beside.write_bytes(b"theirs")
    assert beside.read_bytes() == b"theirs"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        serialization.write_atomically(tmp_path / "gone" / "m", b"")
    with suppress(KeyboardInterrupt), serialization.atomic_folder(tmp_path / "m") as beside:
        (beside / "a").write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, pathlib, time
sys.path.append(sys.argv[3])  # this one file, without PyTorch
import temporary
with temporary.fresh_name(pathlib.Path(sys.argv[1]), is_folder=sys.argv[2] == "folder"):
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(kind: str, tmp_path: Path) -> None:
    """Told apart by a lock, which the system releases."""
    words = [sys.executable, "-c", KILLED, str(tmp_path / "m"), kind, str(Path(temporary.__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        [left] = tmp_path.iterdir()
        long_ago = time.time() - 3600
        os.utime(left, (long_ago, long_ago))
        temporary.clear(tmp_path)
        assert left.exists(), "it is being written"
        process.send_signal(signal.SIGKILL)
    assert left.exists()
    temporary._tidy.cache_clear()
    serialization.write_atomically(tmp_path / "other", b"")  # the first write into a folder looks for leftovers
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_modes_are_those_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    serialization.write_atomically(tmp_path / "m", b"")
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "usual").stat().st_mode
    key_file(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
