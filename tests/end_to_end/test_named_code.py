"""Losses, metrics and models of the user's: imported from the command line, never because a file names them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from seedbed.errors import InputError
from seedbed.experiments import named_code
from seedbed.experiments.adapt import load_personal

from .bench import seedbed

SOURCE = '''
import os
from pathlib import Path

import torch
from torch import nn

Path(os.environ["IMPORTED"]).write_text("yes")


def focal(predictions, y):
    """Cross-entropy of hard examples."""
    p = torch.log_softmax(predictions, -1).gather(-1, y[..., None].long()).squeeze(-1)
    return -((1 - p.exp()) ** 2) * p


def brier(predictions, y):
    return ((torch.softmax(predictions, -1) - nn.functional.one_hot(y.long(), predictions.shape[-1])) ** 2).sum(-1)


brier.higher_is_better = False


def net(inputs, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs[0], 5), nn.ReLU(), nn.Linear(5, outputs))


def summed(predictions, y):
    return focal(predictions, y).sum()


def text(inputs, outputs):
    return "no module"


number = 3
'''
MODULE = "mine_of_the_test"
TINY = ("--algorithm", "fedavg", "--rounds", "1", "--set", "executor=loop", "--set", "evaluation.baselines=false",
        "--set", "evaluation.episodes=1", "--set", "evaluation.shots=2", "--set", "evaluation.curve=false",
        "--set", "start=rounds", "--client", "hospital", "--target", "label")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module and a table; forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPORTED", str(tmp_path / "imported"))
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    draws = torch.Generator().manual_seed(0)
    rows = ["hospital,age,weight,label"]
    for i in range(120):
        age, weight = (float(x) for x in torch.randn(2, generator=draws))
        rows.append(f"h{i // 12},{age + i % 2:.3f},{weight:.3f},{'ill' if i % 2 else 'well'}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "one.csv").write_text("\n".join(["age,weight,label", *(r.partition(",")[2] for r in rows[1:9])]) + "\n")
    yield tmp_path
    forget()


def forget() -> None:
    """What another process would not know."""
    sys.modules.pop(MODULE, None)
    for known in (named_code.LOSSES, named_code.METRICS, named_code.MODELS, named_code.SOURCES):
        for name in [name for name in known if name.startswith(MODULE)]:
            del known[name]
    Path("imported").unlink(missing_ok=True)


CODE = ("--loss", f"{MODULE}:focal", "--metric", f"{MODULE}:brier", "--model", f"{MODULE}:net")


def test_from_run_to_personal_model(place: Path) -> None:
    """A run by code of the command line; then no file makes another process import it, and each says what to repeat."""
    said = seedbed("run", "--data", "t.csv", *TINY, *CODE, "--out", "r")
    assert said.code == 0, said.err
    manifest, result = (json.loads(Path("r", name).read_text()) for name in ("manifest.json", "result.json"))
    assert manifest["settings"]["loss"] == f"{MODULE}:focal"
    assert manifest["code"].keys() == {f"{MODULE}:{name}" for name in ("focal", "brier", "net")}
    assert (result["metric"], result["higher_is_better"]) == ("brier", False)
    adapt = ("adapt", "r", "--support", "one.csv", "--out", "m.safetensors")
    assert seedbed(*adapt, *CODE).code == 0
    Path("r", "result.json").unlink()
    Path("r", "report.html").unlink()
    for words in (
        ("resume", "r"),
        ("run", "--config", "r/manifest.json", "--out", "again"),
        ("audit", "r/manifest.json"),
    ):
        forget()
        line = seedbed(*words).line
        assert "repeat --" in line, line
        assert MODULE in line
        assert MODULE not in sys.modules
        assert not Path("imported").exists()
    forget()
    with pytest.raises(InputError, match=f"repeat --model {MODULE}:net"):
        load_personal("m.safetensors")
    assert not Path("imported").exists()
    assert seedbed("resume", "r", *CODE).code == 0
    forget()
    assert "repeat --" in seedbed("evaluate", "r").line
    assert not Path("imported").exists()
    assert seedbed("evaluate", "r", *CODE).code == 0


def test_changed_code_does_not_go_on_with_a_run(place: Path) -> None:
    assert seedbed("run", "--data", "t.csv", *TINY, "--loss", f"{MODULE}:focal", "--out", "r").code == 0
    forget()
    Path(f"{MODULE}.py").write_text(SOURCE + "\n")
    assert "has changed since r" in seedbed("evaluate", "r", "--loss", f"{MODULE}:focal").line
    Path("r", "result.json").unlink()
    forget()
    line = seedbed("resume", "r", "--loss", f"{MODULE}:focal").line
    assert "focal" in line
    assert "restore its source" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--loss", f"{MODULE}:nothing"), "cannot be imported"),
        (("--loss", "no_such_module_here:f"), "cannot be imported (ModuleNotFoundError"),
        (("--loss", f"{MODULE}:number"), "is not a function"),
        (("--loss", f"{MODULE}:summed"), "one finite number for each"),
        (("--model", f"{MODULE}:text"), "must return an nn.Module"),
        (("--loss", "crossentropy"), "did you mean 'cross_entropy'?; or --loss MODULE:FUNCTION"),
        (("--model", "mpl"), "did you mean 'mlp'?"),
        (("--loss", "squared_error"), "loss=squared_error does not work with a target of classes"),
    ],
)
def test_what_is_wrong_is_one_line(place: Path, words: tuple[str, ...], said: str) -> None:
    line = seedbed("run", "--data", "t.csv", *TINY, *words, "--out", "r").line
    assert said in line, line
    assert not Path("r").exists()


def test_a_set_word_is_of_the_command_line_too(place: Path) -> None:
    words = ("--set", f"loss={MODULE}:focal", "--set", f"model.name={MODULE}:net")
    assert seedbed("run", "--data", "t.csv", *TINY, *words, "--out", "r").code == 0


def test_the_names_of_this_package(place: Path) -> None:
    assert (
        seedbed("run", "--data", "t.csv", *TINY, "--metric", "log_loss", "--loss", "cross_entropy", "--out", "r").code
        == 0
    )
    assert json.loads(Path("r/result.json").read_text())["metric"] == "log loss"
