"""Distillation from the command line: public sets, several architectures, a teacher trained first, models in two."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from seedbed.data.readers import read
from seedbed.experiments.adapt import load_personal

from .bench import ONCE, PLAIN, files, kept, seedbed

SMALL = ("--rounds", 3, *ONCE, *PLAIN, "--set", "checkpoint_seconds=0", "--set", "model.name=mlp")
OF = {
    "distill": ("--set", "model.hidden=4", "--set", "model.teacher=mlp:16"),
    "feddf": ("--set", 'model.several=["mlp:8", "mlp:6-6", "linear"]'),
    "fedmd": ("--set", 'model.several=["mlp:8", "linear"]'),
    "fd": ("--set", 'model.several=["mlp:8", "linear"]'),
    "fedgkt": ("--set", "model.hidden=6", "--set", "model.server=mlp:9"),
}


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    """Six examples of one writer's 3s and 8s."""
    population = read("digits")
    rows = population.rows_of(12)
    rows = np.concatenate([rows[population.labels[rows] == digit][:3] for digit in (3, 8)])
    path = tmp_path / "writer.npz"
    np.savez(path, x=population.x[rows].numpy(), y=population.labels[rows])
    return path


@pytest.mark.usefixtures("few_tunings")
@pytest.mark.parametrize("name", OF)
def test_stopped_twice_and_resumed_it_ends_the_same(
    name: str, tmp_path: Path, stopping: Callable[[int], None], writer: Path
) -> None:
    """Bit for bit; distill is stopped within its teacher's training too. The model that a client then grows is of one
    architecture, and is loaded by its file alone."""
    words = ("run", "--algorithm", name, *SMALL, *OF[name], "--out")
    assert seedbed(*words, tmp_path / "r").code == 0
    stopping(2)
    assert seedbed(*words, tmp_path / "s").code == 130
    stopping(1)
    assert seedbed("resume", tmp_path / "s").code == 130
    stopping(0)
    assert seedbed("resume", tmp_path / "s").code == 0
    assert kept(tmp_path / "r") == kept(tmp_path / "s")
    said = seedbed("adapt", tmp_path / "r", "--support", writer, "--query", writer, "--out", tmp_path / "m")
    assert said.code == 0, said
    own = load_personal(tmp_path / "m")
    assert own.classes == (("0", "1", "2", "3", "4", "5", "6", "7", "8", "9") if name == "fd" else ("3", "8"))
    assert own.predict(torch.ones(2, 1, 8, 8)).shape == (2, len(own.classes))


def test_public_rows_are_nobody_s(tmp_path: Path) -> None:
    """A count of them; clients keep the others; the manifest's settings say how many."""
    known, unseen = read("digits").split_clients()
    rest, public = known.set_apart(200, seed=3)
    assert len(public.rows) == 200
    assert sorted([*rest.rows, *public.rows]) == sorted(known.rows)
    assert (np.diff(public.rows) < 0).any()
    assert min(rest.sizes) > 0
    assert not set(public.rows) & set(unseen.rows)
    assert sorted(known.set_apart(200, seed=4)[1].rows) != sorted(public.rows)
    assert seedbed("run", "--algorithm", "fedavg", *SMALL, "--set", "public=30", "--out", tmp_path / "r").code == 0
    assert json.loads((tmp_path / "r" / "manifest.json").read_text())["settings"]["public"] == 30


@pytest.mark.usefixtures("few_tunings")
def test_a_teacher_of_the_public_set(tmp_path: Path) -> None:
    """With a public set the teacher learns from it, pooled and labelled, instead of from the clients."""
    made = []
    for public in (0, 0.3):
        out = tmp_path / str(public)
        words = ("run", "--algorithm", "distill", *SMALL, *OF["distill"], "--set", f"public={public}", "--out", out)
        assert seedbed(*words).code == 0
        stages = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        made.append([line["clients"] for line in stages if line["stage"] == "teacher"])
    assert made == [[10, 10, 10], [1, 1, 1]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fedavg", 'model.several=["mlp", "linear"]'], ["it trains one architecture", "feddf", "Drop model.several"]),
        (["feddf", 'model.several=["mlp:8", "mlp:8"]'], ["twice"]),
        (["feddf", 'model.several=["mlp:8-x"]'], ["mlp:8-x", "mlp:64-32"]),
        (["feddf", 'model.several=["conv:8-8"]'], ["conv takes one"]),
        (["feddf", "public=0"], ["feddf does not work without public rows", "Use public=0.1"]),
        (["feddf", "public=1280"], ["public=1280", "at most"]),
        (["fedmd", "temperature=0"], ["temperature", "above 0"]),
        (["distill", "alpha=1.5"], ["alpha=1.5", "between 0"]),
        (["fedprox", "model.teacher=mlp"], ["it has no teacher; distill has one"]),
        (["fd", "predict=3"], ["'predict'"]),
    ],
)
def test_refusals(words: list[str], said: list[str], tmp_path: Path) -> None:
    name, setting = words
    line = seedbed("run", "--algorithm", name, *SMALL, "--set", setting, "--out", tmp_path / "r").line
    assert all(word in line for word in said), line
    assert not (tmp_path / "r").exists()


def test_labels_of_one_s_own_cannot_be_taught_by_label(tmp_path: Path) -> None:
    """Episodic clients, the unseen ones with labels that nobody else has."""
    y = np.repeat(np.arange(10), 12)
    np.savez(tmp_path / "a.npz", x=np.zeros((120, 3), np.float32), y=y, client=np.array(list("aabbccddee"))[y])
    words = ("run", "--data", tmp_path / "a.npz", "--set", "reader.episodic=true", "--set", "unseen=1", *SMALL)
    line = seedbed(*words, "--algorithm", "fd", "--out", tmp_path / "r").line
    assert "labels of their own" in line
    assert files(tmp_path).keys() == {"a.npz"}


def test_comparing_views_that_are_unlike_is_refused(tmp_path: Path) -> None:
    """fd's clients are tasks, fedavg's make episodes: their scores are of different questions."""
    line = seedbed("compare", "fedavg", "fd", *SMALL, "--out", tmp_path / "c").line
    assert all(word in line for word in ("fd", "fedavg", "a client is a task"))
    assert not (tmp_path / "c").exists()
