"""Comparisons: numbers over seeds, runs that are there gone on with, others refused."""

import json
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from seedbed import InputError
from seedbed.runs.comparison import Cell, Comparison, compare
from seedbed.runs.pipeline import Show

TINY = ["model.name=mlp", "model.hidden=4", "evaluation.episodes=2", "evaluation.shots=1"]


def compared(out: Path, names: list[str], seeds: list[int], **asked: Any) -> Comparison:
    return compare(names, {"rounds": 2, **asked}, TINY, None, out, seeds, Show())[0]


def test_cells() -> None:
    assert Cell.of([0.5]) == Cell(0.5, None)
    assert Cell.of([1.0, 2.0, 6.0]) == Cell(3.0, stdev([1, 2, 6]))


def test_rows_are_means_of_the_runs_results(tmp_path: Path) -> None:
    found = compared(tmp_path, ["fed_proto", "per_fedavg", "fed_proto"], [3, 4])
    assert list(found.rows) == ["fed_proto", "per_fedavg"]
    assert (found.metric, found.shots) == ("accuracy", ("1",))
    for name, cells in found.rows.items():
        results = [json.loads((tmp_path / f"{name}-{seed}" / "result.json").read_text()) for seed in (3, 4)]
        wanted = [("unadapted", "mean"), ("adapted", "mean"), ("adapted", "worst_tenth")]
        for cell, (column, number) in zip(cells, wanted, strict=True):
            assert cell == Cell.of([result["unseen"]["1"][column][number] for result in results])
    again = compared(tmp_path, ["fed_proto"], [3])
    assert again.rows["fed_proto"][1].mean == json.loads((tmp_path / "fed_proto-3" / "result.json").read_text())[
        "unseen"
    ]["1"]["adapted"]["mean"]  # fmt: skip
    with pytest.raises(InputError, match=r"fed_proto-3 holds a run with rounds=2, but 5 is asked for.*another --out"):
        compared(tmp_path, ["fed_proto"], [3], rounds=5)


def test_an_unknown_name_stops_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'fedavg'"):
        compared(tmp_path / "c", ["fed_proto", "fedavgg"], [0])
    assert not (tmp_path / "c").exists()
