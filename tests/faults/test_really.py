"""A process really interrupted, a disk really full: said in one line, and gone on with to the same end."""

import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from seedbed.errors import InputError
from seedbed.experiments.launch import resume_run, start_run
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.stages import Show

from .killing import COMMAND

SETTINGS = [
    *("model.name=mlp", "model.hidden=200", "checkpoint_seconds=0"),
    *("evaluation.episodes=1", "evaluation.baselines=false", "evaluation.curve=false"),
]
ROUNDS = 8
RUN = [*COMMAND, "run", *(word for setting in SETTINGS for word in ("--set", setting)), "--rounds"]
KEPT = ("model.safetensors", "metrics.jsonl", "result.json")
CHECKPOINT = 160_000  # bytes of one, about


def kept(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in KEPT}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    run, _ = start_run({"rounds": ROUNDS}, SETTINGS, None, tmp_path / "whole", Show())
    return kept(run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no small disk: mount -t tmpfs is not allowed here ({made.stderr.decode().strip()})")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_of_a_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*RUN, "100000", "--out", str(run)]
    hears = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # of a background job it would be ignored
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears)
    deadline = time.monotonic() + 60
    journal = run / "journal.jsonl"  # its first line says what makes the run, the next ones are checkpoints
    while time.monotonic() < deadline and not (journal.exists() and "stage" in journal.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1] == f"seedbed: stopped; `seedbed resume {run}` goes on from the last checkpoint"
    assert not list(run.rglob("*.part"))


def test_a_full_disk(small_disk: Path, undisturbed: dict[str, bytes]) -> None:
    """Room for the first checkpoint, not for the second beside it; then the filler goes, and the run goes on."""
    run, filler = small_disk / "run", small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - int(1.7 * CHECKPOINT)))
    said = subprocess.run([*RUN, str(ROUNDS), "--out", str(run)], capture_output=True, text=True)
    assert said.returncode == 2
    assert "Traceback" not in said.stderr
    line = said.stderr.strip().splitlines()[-1]
    for words in ("seedbed: cannot write", "No space left", "free some space", "`seedbed resume`"):
        assert words in line
    filler.unlink()
    assert not list(run.rglob("*.part"))
    resume_run(run, Show())
    assert kept(run) == undisturbed


def test_a_disk_too_full_to_begin_leaves_nothing(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1 << 20))
    with pytest.raises(InputError, match=r"(manifest.json|journal.jsonl): No space left"):
        RunDirectory.create(small_disk / "run", {"settings": {}})
    assert not (small_disk / "run").exists()


@pytest.mark.slow
def test_a_limit_on_file_sizes(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Checkpoints larger than the process may write: needs no mount."""
    limit = CHECKPOINT // 2
    said = subprocess.run(
        [*RUN, str(ROUNDS), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert said.returncode == 2
    assert "cannot write" in said.stderr.strip().splitlines()[-1]
    assert "File too large" in said.stderr
    resume_run(tmp_path / "run", Show())
    assert kept(tmp_path / "run") == undisturbed
