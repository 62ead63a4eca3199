"""Attacks and defences from the command line: what is said, written, refused, and gone on with."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .bench import TINY, kept, seedbed

pytestmark = pytest.mark.usefixtures("few_tunings")
FEDAVG = ("run", "--algorithm", "fedavg", *TINY)


def result_of(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "result.json").read_text())
    return found


def test_an_attacked_run_says_so_and_is_gone_on_with(tmp_path: Path, stopping: Callable[[int], None]) -> None:
    """Stopped after two checkpoints and resumed, it ends bit for bit like one never stopped."""
    words = (*FEDAVG, "--attack", "alie", "--attackers", 0.2, "--reduce", "nnm+trimmed_mean")
    words += ("--set", "reduce.momentum=0.9", "--set", "attack.scale=2")
    whole = seedbed(*words, "--out", tmp_path / "whole")
    assert whole.code == 0, whole
    assert "attacked: alie by 2 of 10 known clients" in whole.out
    assert result_of(tmp_path / "whole")["attack"] == {
        "name": "alie",
        "clients": 10,
        "attackers": result_of(tmp_path / "whole")["attack"]["attackers"],  # type: ignore[index]
    }
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "alie by 2 of 10 known clients" in report
    assert "reduced by nnm+trimmed_mean" in report
    stopping(2)
    assert seedbed(*words, "--out", tmp_path / "torn").code != 0
    stopping(0)
    assert seedbed("resume", tmp_path / "torn").code == 0
    assert kept(tmp_path / "torn") == kept(tmp_path / "whole")
    honest = seedbed(*FEDAVG, "--out", tmp_path / "honest")
    assert "attacked:" not in honest.out
    assert kept(tmp_path / "honest")["model.safetensors"] != kept(tmp_path / "whole")["model.safetensors"]


@pytest.mark.parametrize("name", ["tailored", "min_max", "min_sum", "after_adaptation"])
def test_attacks_that_know_the_rule_run_from_the_command_line(name: str, tmp_path: Path) -> None:
    """In training and in the rival's; another model comes of it than of the same run without them."""
    rule = ("--reduce", "norm_bounding+nnm+trimmed_mean", "--set", "evaluation.episodes=2")
    said = seedbed(*FEDAVG, "--attack", name, *rule, "--out", tmp_path / "hostile")
    assert said.code == 0, said
    assert f"attacked: {name} by 2 of 10 known clients" in said.out


def test_refused_messages_are_counted_named_and_noted(tmp_path: Path) -> None:
    said = seedbed(*FEDAVG, "--attack", "not_a_number", "--attackers", 3, "--out", tmp_path / "r")
    assert said.code == 0, said
    assert "was refused in 3 rounds: not finite" in said.err
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    whole = [line for line in lines if line["stage"] == "fedavg"]
    assert all(line["refused"] == 3 and set(line["reasons"].values()) == {"not finite"} for line in whole)


def test_a_backdoor_s_success_stands_beside_the_accuracy(tmp_path: Path) -> None:
    """Images of clients whose labels mean the same everywhere: without a defence it opens, and the report says so."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    x = (rng.random((240, 6, 6)) / 4 + (y / 4)[:, None, None]).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=y, client=np.repeat(list("abcdefgh"), 30))
    words = ("run", "--data", tmp_path / "a.npz", "--algorithm", "fedavg", *TINY, "--rounds", 15, "--attackers", 2)
    opened = {}
    for rule in ("mean", "trimmed_mean", "fltrust"):
        said = seedbed(
            *words, "--attack", "backdoor", "--reduce", rule, "--set", "reduce.root=30", "--out", tmp_path / rule
        )
        assert said.code == 0, said
        assert "backdoor opens on unseen clients, 1 shots: unadapted" in said.out
        assert "success" in (tmp_path / rule / "report.html").read_text()
        success = result_of(tmp_path / rule)["attack"]["success"]["1"]  # type: ignore[index]
        assert set(success) == {"unadapted", "adapted"}
        opened[rule] = success["unadapted"]["mean"]
        assert 0 <= opened[rule] <= 1
    assert opened["mean"] > opened["trimmed_mean"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--reduce", "trimmed_men"), ["trimmed_men", "did you mean 'trimmed_mean'"]),
        (("--reduce", "median+krum"), ["'median' before a rule"]),
        (("--reduce", "krum", "--set", "reduce.f=4"), ["krum with f=4 needs at least 11", "has 10", "cohort"]),
        (("--reduce", "median", "--set", "reduce.f=1"), ["'reduce.f'"]),
        (("--reduce", "trimmed_mean", "--set", "reduce.f=0.7"), ["f=0.7", "below 0.5"]),
        (("--reduce", "trimmed_mean", "--set", "reduce.f=some"), ["reduce.f='some'"]),
        (("--reduce", "fltrust", "--set", "reduce.root=99999"), ["reduce.root=99999 of", "name fewer"]),
        (("--reduce", "fltrust", "--set", "reduce.f=1"), ["'reduce.f' of fltrust"]),
        (("--attack", "ali"), ["unknown attack 'ali'", "did you mean 'alie'"]),
        (("--attack", "alie", "--set", "attack.scal=2"), ["'attack.scal'", "did you mean 'attack.scale'"]),
        (("--attack", "alie", "--set", "attack.scale=x"), ["attack.scale='x'", "number"]),
        (("--attack", "alie", "--attackers", "1.5"), ["attack.fraction=1.5", "fraction"]),
        (("--attack", "tailored", "--reduce", "fltrust"), ["attack=tailored", "reduce=fltrust", "Use attack=min_max"]),
        (("--attack", "tailored", "--set", "attack.harm=x"), ["attack.harm='x'", "against"]),
        (("--attack", "min_max", "--set", "attack.perturbation=x"), ["attack.perturbation='x'", "sign"]),
        (("--attack", "backdoor"), ["attack=backdoor does not work with N-way episodes", "labels are drawn anew"]),
        (("--attack", "alie", "--algorithm", "centralised"), ["it trains on pooled data, which no client can attack"]),
        (("--set", "gate.norm=0"), ["gate.norm=0", "greater than 0"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    options: tuple[str, ...], words: list[str], tmp_path: Path
) -> None:
    line = seedbed(*FEDAVG, *options, "--out", tmp_path / "r").line
    assert all(word in line for word in words), line
    assert not (tmp_path / "r").exists()
