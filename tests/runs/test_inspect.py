"""What `data inspect` says before training: every column, what is done to it, and what adapting can gain."""

from pathlib import Path

import numpy as np
import pytest

from seedbed.data import readers
from seedbed.experiments.headroom import headroom, headroom_lines
from seedbed.experiments.launch import start_run
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.stages import Show


def odd(path: Path) -> Path:
    rng, lines = np.random.default_rng(0), ["id,ward,age,income,drug,day,note,empty,same,weight,outcome"]
    own = rng.normal(size=60)
    for row in range(480):
        client = row % 60
        age, income = rng.normal(50, 9), rng.lognormal(3, 1.5)
        value = own[client] + 0.1 * age + rng.normal()
        weight = "" if row % 7 == 0 else f"{rng.normal(70, 9):.1f}"
        drug = rng.choice(["asp", "ibu", "par"])
        day = f"2020-0{rng.integers(1, 10)}-11"
        lines.append(f"{row},w{client},{age:.2f},{income:.2f},{drug},{day},t{row}x,,7,{weight},{value:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_column_of_the_file_is_named(tmp_path: Path) -> None:
    path = odd(tmp_path / "o.csv")
    found = {c.name: c for c in readers.inspect(readers.read(str(path), client="ward", target="outcome")).columns}
    assert set(found) == set(path.read_text().splitlines()[0].split(","))
    kinds = {name: column.kind for name, column in found.items()}
    assert kinds == {
        "ward": "client", "outcome": "target", "age": "number", "income": "number", "drug": "words", "day": "dates",
        "weight": "number", "same": "number", "id": "left out", "note": "left out", "empty": "left out",
    }  # fmt: skip
    assert "logarithm" in found["income"].treatment
    assert "logarithm" not in found["age"].treatment
    assert (found["weight"].gaps, found["weight"].features) == (69, 2)
    assert "filled by the median" in found["weight"].treatment
    assert "3 levels" in found["drug"].treatment
    assert "constant" in found["same"].treatment
    assert "numbers the rows" in found["id"].treatment
    assert "480 different texts" in found["note"].treatment


def test_shares_of_classes_and_tiny_clients(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    lines = [f"w{i % 9},{i},{'abb'[i % 3]}" for i in range(60)] + ["x,1,a", "y,2,b", "y,3,b"]
    path.write_text("\n".join(["ward,age,outcome", *lines]) + "\n")
    found = readers.inspect(readers.read(str(path), client="ward", target="outcome"))
    assert found.shares == (("a", 21 / 63), ("b", 42 / 63))
    assert found.tiny == 2


@pytest.mark.slow
def test_headroom_is_what_the_run_finds(tmp_path: Path) -> None:
    """The pooled model and an intercept of its own, on known and on unseen clients: within the intervals."""
    path = str(odd(tmp_path / "o.csv"))
    given = {"data": path, "reader": {"client": "ward", "target": "outcome"}, "evaluation": {"shots": 5}}
    people = readers.read(path, client="ward", target="outcome")
    found = headroom(complete_settings(given, people), people)
    assert found is not None
    _, result = start_run(given, ["evaluation.baselines=false"], None, tmp_path / "run", Show())
    for row, ways in found.rows.items():
        for way, column in (("none", "unadapted"), (result["finetuning"]["adapted"][row]["layers"], "adapted")):
            cell = result["unseen"][row][column]
            assert abs(ways[way].mean - cell["mean"]) < ways[way].ci95 + cell["ci95"], (row, way)
        assert ways["bias"].mean < ways["none"].mean
        assert ways["local"].clients == ways["none"].clients
    assert "an intercept of its own gains" in headroom_lines(found)[0]
