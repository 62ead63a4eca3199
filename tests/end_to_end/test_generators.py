"""Algorithms that generate parameters, from the first command to the last: their params are not the model's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seedbed.experiments.adapt import load_personal

from .bench import ONCE, PLAIN, kept, seedbed

GENERATORS = {
    "pfedhn": ["width=8", "test_steps=5"],
    "autoregressive": ["width=8", "size=8"],
    "autoregressive, drawn": ["width=8", "gaussian=true", "steps=1"],
}


@pytest.mark.parametrize("name", GENERATORS)
def test_run_resume_evaluate_adapt(name: str, csv: Path, tmp_path: Path, stopping: Callable[[int], None]) -> None:
    """On a client as task. A run that is stopped in the middle and gone on with is bit for bit one never stopped; its
    table comes again; a client's model is written, and predicts as scored. Known clients are not unseen ones."""
    words = ["run", "--data", csv, "--algorithm", name.partition(",")[0], "--rounds", 4, *ONCE, *PLAIN]
    for setting in (
        "reader.client=hospital",
        "reader.target=label",
        "model.hidden=4",
        "checkpoint_seconds=0",
        *GENERATORS[name],
    ):
        words += ["--set", setting]
    whole = seedbed(*words, "--out", tmp_path / "whole")
    assert whole.code == 0, whole
    stopping(2)
    assert "seedbed resume" in seedbed(*words, "--out", tmp_path / "r").err
    stopping(0)
    assert seedbed("resume", tmp_path / "r").code == 0
    assert kept(tmp_path / "r") == kept(tmp_path / "whole")
    again = seedbed("evaluate", tmp_path / "r")
    rows = [line for line in again.out.splitlines() if line.startswith("│")]
    assert rows
    assert all(row in whole.out for row in rows)
    said = seedbed(
        "adapt", tmp_path / "r", "--support", csv, "--client", "a", "--query", csv, "--out", tmp_path / "m.st"
    )
    assert said.code == 0, said
    personal = load_personal(tmp_path / "m.st")
    assert set(personal.params) == set(personal.model.params)
    assert torch.isfinite(personal.predict(torch.randn(3, 2))).all()
    assert json.loads((tmp_path / "r" / "result.json").read_text())["seen"]


@pytest.mark.parametrize("name", ["pfedhn", "autoregressive"])
def test_numbers_to_predict(name: str, tmp_path: Path) -> None:
    from .bench import table

    (tmp_path / "n.csv").write_text(table(numbers=True))
    said = seedbed(
        "run", "--data", tmp_path / "n.csv", "--algorithm", name, "--rounds", 2, *ONCE, *PLAIN, "--set", "width=8",
        "--set", "reader.client=hospital", "--set", "reader.target=label", "--set", "model.hidden=4",
        "--out", tmp_path / "r",
    )  # fmt: skip
    assert said.code == 0, said
    assert "squared error" in said.out
