"""`seedbed audit`: what a tiny run leaks is found, a broken mechanism is refuted, the report has pictures."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seedbed import tree
from seedbed.privacy.differential import Independent, distributed_noise
from seedbed.tree import Tree

from .bench import TINY, seedbed, table

QUICK = (
    *("--set", "audit.steps=20", "--set", "audit.starts=1", "--set", "audit.shadows=4", "--set", "audit.rounds=2"),
    *("--set", "audit.canaries=400", "--set", "audit.sets=16", "--set", "audit.clients=4"),
)
DIGITS = ("--algorithm", "fedavg", "--set", "reader.episodic=false", "--set", "cohort=4")


def findings(folder: Path) -> dict[str, Any]:
    return {f["probe"]: f for f in json.loads((folder / "audit.json").read_text())["findings"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audited") / "run"
    said = seedbed("run", *TINY, *DIGITS, "--out", out)
    assert said.code == 0, said.err
    return out


@pytest.fixture(scope="module")
def audited(run: Path) -> tuple[Path, str]:
    said = seedbed("audit", run, *QUICK)
    assert said.code == 0, said.err
    return run, re.sub(r"\s+", " ", said.out)


@pytest.mark.slow
def test_a_run_without_a_claim_cannot_be_refuted_and_says_what_it_leaks(audited: tuple[Path, str]) -> None:
    run, said = audited
    assert "claims no privacy, so nothing can be refuted" in said
    found = findings(run)
    assert {name for name, f in found.items() if f["does_not_apply"] is None} == set(found)
    assert all(f["claim"] is None for f in found.values())
    first = found["inversion"]["rows"][0]
    assert first["plain"]["value"] > 80 > 30 > first["private"]["value"]
    assert first["private"]["value"] < first["guess"]["value"] + 1
    assert found["labels"]["rows"][0]["plain"]["value"] == 1
    assert found["property"]["rows"][0]["plain"]["value"] > 0.9
    assert found["canaries"]["rows"][0]["plain"]["value"] > 4


def test_the_report_has_pictures_and_needs_nothing_else(audited: tuple[Path, str]) -> None:
    page = (audited[0] / "audit.html").read_text()
    assert page.count("data:image/png;base64,") >= 8
    for words in ("<figcaption>original</figcaption>", "undefended", "secure sum of 4", "reference ε = 8", "guess"):
        assert words in page
    assert not re.search(r"(src|href)='?http", page)


def test_a_claim_that_holds_is_not_refuted(tmp_path: Path) -> None:
    """A table of hospitals, and a settings file: what does not apply is named, the claims are checked."""
    (tmp_path / "wards.csv").write_text(table())
    (tmp_path / "run.toml").write_text(
        f'data = "{tmp_path}/wards.csv"\nalgorithm = "fedavg"\nrounds = 3\n[privacy]\nepsilon = 2\n'
        "[reader]\nclient = 'hospital'\ntarget = 'label'\n"
    )
    said = seedbed("audit", tmp_path / "run.toml", *QUICK, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    found = findings(tmp_path / "out")
    assert "are not images" in found["matching"]["does_not_apply"]
    assert not any(found[name]["claim"]["refuted"] for name in ("canaries", "noise"))
    assert 0 <= found["canaries"]["rows"][0]["private"]["value"] <= 2
    assert "matching" in found
    assert "does not apply: inputs of shape" in re.sub(r"\s+", " ", said.out)


def test_a_private_run_is_audited_with_its_ledger(tmp_path: Path) -> None:
    """As it is: nothing refuted. Without its ledger nothing shows what was spent: refuted."""
    (tmp_path / "wards.csv").write_text(table())
    data = ("--data", tmp_path / "wards.csv", "--set", "reader.client=hospital", "--set", "reader.target=label")
    made = seedbed("run", *data, *TINY, "--algorithm", "fedavg", "--epsilon", "2", "--out", tmp_path / "run")
    assert made.code == 0, made.err
    said = seedbed("audit", tmp_path / "run", *QUICK)
    assert said.code == 0, said.err
    counted = findings(tmp_path / "run")["ledger"]["rows"][0]
    assert counted["private"]["value"] == pytest.approx(2, rel=1e-3)
    (tmp_path / "run" / "ledger.jsonl").unlink()
    said = seedbed("audit", tmp_path / "run", *QUICK)
    assert said.code == 1
    assert "is missing" in re.sub(r"\s+", " ", said.out)


@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_a_mechanism_whose_noise_is_broken_is_refuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """The same code but for its noise, ten times too small or none: exit code 1, the claim named."""
    real = Independent.noise

    def broken(self: Independent, like: Tree, round: int) -> Tree:
        return tree.scale(factor, real(self, like, round))

    monkeypatch.setattr(Independent, "noise", broken)
    (tmp_path / "wards.csv").write_text(table())
    words = ("--data", tmp_path / "wards.csv", "--set", "reader.client=hospital", "--set", "reader.target=label")
    more = ("--algorithm", "fedavg", "--rounds", "3", "--epsilon", "2", "--out", tmp_path / "out")
    said = seedbed("audit", *words, *more, *QUICK)
    assert said.code == 1, said.err
    found = findings(tmp_path / "out")
    assert found["canaries"]["claim"]["refuted"]
    assert found["noise"]["claim"]["refuted"]
    assert "A claim of this run is refuted" in re.sub(r"\s+", " ", said.out)


@pytest.mark.slow
def test_a_secure_private_run_is_refuted_where_each_share_of_noise_is_a_constant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--secure --epsilon`, noise in shares: exit code 0 as it is, 1 if every draw of a client is the same number."""
    private = ("--secure", "--epsilon", "1", "--set", "privacy.clip=0.5")
    made = seedbed("run", *TINY, "--algorithm", "fedavg", *private, "--out", tmp_path / "run")
    assert made.code == 0, made.err
    said = seedbed("audit", tmp_path / "run", *QUICK)
    assert said.code == 0, said.err
    assert findings(tmp_path / "run")["noise"]["claim"]["refuted"] is False
    monkeypatch.setattr(distributed_noise, "skellam", lambda count, *_: np.full(count, 1 << 20, np.int64))
    said = seedbed("audit", tmp_path / "run", *QUICK)
    assert said.code == 1, said.err
    assert findings(tmp_path / "run")["noise"]["claim"]["refuted"]
    assert "A claim of this run is refuted" in re.sub(r"\s+", " ", said.out)


@pytest.mark.slow
def test_episodes_and_a_conv_say_what_does_not_apply(tmp_path: Path) -> None:
    words = ("--algorithm", "fed_proto", "--rounds", "2", "--set", "model.channels=8", "--set", "task.distortions=1")
    said = seedbed("audit", *words, "--set", "cohort=3", *QUICK, "--set", "audit.steps=3", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    found = findings(tmp_path / "out")
    assert "no dense layer" in found["inversion"]["does_not_apply"]
    assert "drawn afresh" in found["labels"]["does_not_apply"]
    assert found["matching"]["rows"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere does not exist"),
        (("--algorithm", "centralised"), "it pools the data of all clients"),
        (("--algorithm", "fedavgg"), "fedavgg"),
        (("--set", "audit.canaries=3"), "audit.canaries"),
    ],
)
def test_what_cannot_be_audited_is_one_line(words: tuple[str, ...], said: str) -> None:
    assert said in seedbed("audit", *words).line


def test_what_training_settled_cannot_be_set(run: Path) -> None:
    assert "rounds was fixed" in seedbed("audit", run, "--set", "rounds=3").line
    assert "privacy was fixed" in seedbed("audit", run, "--epsilon", "3").line


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path, run: Path) -> None:
    for name in ("manifest.json", "metrics.jsonl", "journal.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert "is not finished" in seedbed("audit", tmp_path).line
