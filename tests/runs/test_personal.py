"""A client's own model: made, loaded, and the same as what was adapted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from seedbed import InputError
from seedbed.data.types import Batch
from seedbed.experiments.adapt import adapt_client, load_personal
from seedbed.experiments.builder import Learner, Shape
from seedbed.experiments.config import settings_from
from seedbed.experiments.launch import start_run, trained_start
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.stages import Show

TINY = ["model.hidden=4", "evaluation.episodes=1", "evaluation.baselines=false", "evaluation.curve=false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    y = rng.choice(["cat", "dog", "eel"], 100)
    x = rng.normal(size=(100, 3)).astype(np.float32) + (y == "dog")[:, None] - (y == "eel")[:, None]
    np.savez(folder / "all.npz", x=x, y=y, client=np.repeat(list("abcde"), 20))
    np.savez(folder / "mine.npz", x=x[:12], y=y[:12])
    np.savez(folder / "other.npz", x=x[12:20], y=y[12:20])
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = {"data": str(data / "all.npz"), "rounds": 2, "algorithm": "per_fedavg"}
    return start_run(asked, TINY, None, tmp_path_factory.mktemp("run") / "r", Show())[0]


def test_what_is_loaded_is_what_was_adapted(data: Path, run: Path, tmp_path: Path) -> None:
    made = adapt_client(run, data / "mine.npz", tmp_path / "m.safetensors", query=data / "other.npz", steps=3)
    manifest = RunDirectory.open(run).manifest
    learner = Learner(settings_from(manifest["settings"]), Shape.of(manifest["shape"]))
    trained = trained_start(RunDirectory.open(run), learner)
    with np.load(data / "mine.npz") as mine, np.load(data / "other.npz") as other:
        y = torch.as_tensor(np.searchsorted(["cat", "dog", "eel"], mine["y"]))
        support = Batch(torch.as_tensor(mine["x"]), y, torch.ones(12))
        x, wanted = torch.as_tensor(other["x"]), np.searchsorted(["cat", "dog", "eel"], other["y"])
    how = trained.finetuning[min(trained.finetuning, key=lambda shots: abs(shots - 12))]
    algorithm = learner.algorithm(trained.name, trained.model, finetuning=how, ways=3, test_steps=3)
    params = algorithm.personalise(algorithm.send(trained.state, 0), {}, support)
    loaded = load_personal(tmp_path / "m.safetensors")
    assert torch.allclose(loaded.predict(x), trained.model.predict(params, x), atol=1e-6)
    right = float((loaded.predict(x).argmax(1).numpy() == wanted).mean())
    assert made.scores == {"the query set": pytest.approx(right)}
    assert (made.examples, made.classes, loaded.classes) == (12, ("cat", "dog", "eel"), ("cat", "dog", "eel"))
    assert "grown from 12 examples of 3 classes (cat, dog, eel)" in made.lines()[0]


def test_metadata_tells_anybody_what_it_is(data: Path, run: Path, tmp_path: Path) -> None:
    adapt_client(run, data / "mine.npz", tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        told = file.metadata()
        names = set(file.keys())
    assert told["kind"] == "seedbed personal model"
    assert json.loads(told["classes"]) == ["cat", "dog", "eel"]
    assert json.loads(told["inputs"]) == [3]
    assert json.loads(told["model"])["hidden"] == [4]
    assert (told["algorithm"], told["targets"]) == ("per_fedavg", "1")
    assert names == {"body.1.weight", "body.1.bias", "head.weight", "head.bias"}


def test_no_steps_is_the_start_and_more_steps_are_further(data: Path, run: Path, tmp_path: Path) -> None:
    far = []
    start_params = load_params(run)
    for steps in (0, 1, 10):
        adapt_client(run, data / "mine.npz", tmp_path / f"{steps}.safetensors", steps=steps)
        moved = load_personal(tmp_path / f"{steps}.safetensors").params
        far.append(sum(float((moved[n] - p).abs().sum()) for n, p in start_params.items()))
    assert far[0] == 0
    assert 0 < far[1] < far[2]


def load_params(run: Path) -> dict[str, torch.Tensor]:
    with safe_open(run / "model.safetensors", "pt") as file:
        return {name.removeprefix("params."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_refusals(data: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(InputError, match=r"exists: choose another --out"):
        adapt_client(run, data / "mine.npz", out)
    assert out.read_bytes() == b"precious"
    with pytest.raises(InputError, match=r"m.safetensors cannot be read as safetensors"):
        load_personal(out)
    with pytest.raises(InputError, match=r"nothing cannot be read"):
        load_personal(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"was not written by `seedbed adapt`"):
        load_personal(run / "model.safetensors")
    with pytest.raises(InputError, match=r"no file"):
        adapt_client(run, data / "mine.npz", tmp_path / "n", query=data / "absent.npz")
    assert not (tmp_path / "n").exists()
