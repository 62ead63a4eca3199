"""One process at a time: who holds a lock is named, a dead holder frees it, and file systems without locks are seen."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seedbed import locks
from seedbed.errors import InputError
from seedbed.locks import hold_lock, holds_everywhere, lock_file

HOLD = """
import sys, time
from pathlib import Path
from seedbed.locks import lock_file
lock_file(Path(sys.argv[1]), 'run')
"""
MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
36 22 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2,local_lock=none
37 22 0:41 / /old rw,relatime - nfs server:/old rw,vers=3,nolock,local_lock=all
38 22 0:42 / /scratch rw - lustre mgs:/fs rw,flock,lazystatfs
39 22 0:43 / /lustre rw - lustre mgs:/fs rw,localflock
40 22 0:44 / /my\\040disk rw - fuse.sshfs host: rw,user_id=0
41 37 0:45 / /old/inner rw - ext4 /dev/sdb rw
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path/lock."""
    words = [sys.executable, "-c", f"{HOLD}\nprint('held', flush=True); time.sleep(600)", str(tmp_path / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_holder_is_named_and_its_death_frees_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    who = f"process {holder.pid} on {platform.node()}"
    with pytest.raises(InputError, match=rf"is held by another run \({who}\): stop that one"):
        lock_file(tmp_path / "lock", "run")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold_lock(tmp_path / "lock", "run"):
        assert (tmp_path / "lock").read_text() == f"process {os.getpid()} on {platform.node()}\n"
    assert (tmp_path / "lock").read_text() == ""


def test_a_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "lock", "run"), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        lock_file(tmp_path / "lock", "run")
    os.close(lock_file(tmp_path / "lock", "run"))


def test_a_look_at_who_holds_it_does_not_stop_who_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`seedbed federation status` locks for a moment: that is waited for."""
    look = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(look, fcntl.LOCK_SH)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: os.close(look))
    os.close(lock_file(tmp_path / "lock", "run"))


@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ("/tmp/lock", True),
        ("/home/me/run/lock", True),
        ("/homes/lock", True),
        ("/old/run/lock", False),
        ("/old/inner/run/lock", True),
        ("/scratch/lock", True),
        ("/lustre/lock", False),
        ("/my disk/lock", False),
    ],
)
def test_mounts_tell_whether_locks_hold_on_other_machines(path: str, holds: bool) -> None:
    assert holds_everywhere(Path(path), MOUNTS) == holds


@pytest.mark.parametrize("without", ["locks on one machine", "no locks"])
def test_where_locks_do_not_reach_the_name_in_the_file_must_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    def none(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if without == "no locks":
        monkeypatch.setattr(fcntl, "flock", none)
    else:
        monkeypatch.setattr(locks, "holds_everywhere", lambda path: False)
    lock, here = tmp_path / "lock", platform.node()
    for name in ("process 12 on another-machine", f"process {os.getppid()} on {here}"):
        lock.write_text(name + "\n")
        with pytest.raises(InputError, match=rf"was last held by another run \({name}\).*remove {lock}"):
            lock_file(lock, "run")
        assert lock.read_text() == name + "\n"
    for name in ("", f"process 99999999 on {here}"):  # ended as it should, or dead
        lock.write_text(name)
        with hold_lock(lock, "run"):
            assert f"process {os.getpid()} on {here}" in lock.read_text()
        assert lock.read_text() == ""


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*lock: Is a directory; choose a directory"):
        lock_file(tmp_path / "lock", "run")


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not begin removes its directory, the lock too: who waited for that file holds nothing."""
    flock = fcntl.flock

    def removed(file: int, how: int) -> None:
        flock(file, how)
        (tmp_path / "lock").unlink()

    monkeypatch.setattr(fcntl, "flock", removed)
    with pytest.raises(InputError, match=r"lock was removed by another run just now: start again"):
        lock_file(tmp_path / "lock", "run")


def test_a_disk_that_fails_is_no_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(InputError, match=r"cannot write .*lock: Input/output error"):
        lock_file(tmp_path / "lock", "run")
