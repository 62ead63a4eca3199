"""Folds: every client is judged as unseen once, by a start that never saw it; the table is over all of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seedbed.data import readers
from seedbed.errors import InputError
from seedbed.evaluation import summarise
from seedbed.experiments.config import settings_from, table_from
from seedbed.experiments.folds import suggestion
from seedbed.experiments.launch import resume_run, start_run
from seedbed.experiments.planning import split_population
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.stages import Show

QUICK = ("evaluation.baselines=false", "evaluation.episodes=1", "evaluation.shots=5")


def wards(path: Path, clients: int = 14) -> Path:
    rng, lines = np.random.default_rng(0), ["ward,age,value"]
    for client in range(clients):
        own = rng.normal()
        for age in rng.normal(size=9):
            lines.append(f"w{client},{age:.4f},{own + age + 0.1 * rng.normal():.4f}")
    path.write_text("\n".join(lines) + "\n")
    return path


def folded(data: Path, out: Path, *words: str) -> dict[str, Any]:
    asked = {"data": str(data), "reader": {"client": "ward", "target": "value"}}
    return start_run(asked, (*QUICK, *words), None, out, Show())[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    folded(wards(folder / "w.csv"), folder / "run", "folds=3")
    return folder / "run"


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def test_every_client_is_judged_once(run: Path) -> None:
    result = result_of(run)
    cell = result["unseen"]["5"]["adapted"]
    assert sorted(cell["names"]) == sorted(f"w{i}" for i in range(14))
    parts = [run / "folds" / str(fold) for fold in (1, 2, 3)]
    known = [set(json.loads((part / "manifest.json").read_text())["clients"]["train"]) for part in parts]
    tables = [result_of(part)["unseen"]["5"] for part in parts]
    for people, table in zip(known, tables, strict=True):
        assert not people & set(table["adapted"]["names"])
    scores = [score for table in tables for score in table["adapted"]["scores"]]
    summary = summarise(scores, higher_is_better=False)
    assert cell["scores"] == scores
    assert (cell["mean"], cell["ci95"], cell["worst_tenth"]) == (summary.mean, summary.ci95, summary.worst_tenth)
    squares = [table["adapted"]["also"]["RMSE"] ** 2 * table["adapted"]["clients"] for table in tables]
    assert cell["also"]["RMSE"] == pytest.approx(np.sqrt(sum(squares) / 14))
    assert cell["also"]["R²"] == pytest.approx(1 - cell["mean"] / result["unseen"]["5"]["trivial"]["mean"])
    assert cell["harm"]["tested"] == sum(table["adapted"]["harm"]["tested"] for table in tables)
    assert (run / "model.safetensors").read_bytes() == (parts[0] / "model.safetensors").read_bytes()


def test_a_folded_run_is_gone_on_with(run: Path) -> None:
    before = result_of(run)
    for name in ("result.json", "folds/3/result.json", "folds/3/model.safetensors"):
        (run / name).unlink()
    resume_run(run, Show())
    assert result_of(run) == before


def test_each_in_turn(tmp_path: Path) -> None:
    people = readers.read(str(wards(tmp_path / "w.csv", 4)), client="ward", target="value")
    settings = complete_settings(table_from({"data": "w.csv"}, assignments=["unseen=each"]), people)
    assert (settings.unseen, settings.folds) == (None, 4)
    unseen = [split_population(people, settings.model_copy(update={"fold": fold}))[1].names for fold in range(1, 5)]
    assert sorted(unseen) == [("w0",), ("w1",), ("w2",), ("w3",)]


def test_what_folds_cannot_do_is_refused(tmp_path: Path) -> None:
    data = wards(tmp_path / "w.csv", 4)
    for words, reason in {
        ("folds=5",): "there are 4 clients",
        ("folds=2", "unseen=1"): "leave one out",
        ("folds=2", "privacy.epsilon=4"): "the budget of one training",
    }.items():
        with pytest.raises(InputError, match=reason):
            folded(data, tmp_path / "run", *words)
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="unseen"):
        settings_from({"unseen": "some"})


def test_few_clients_are_told_of_folds(tmp_path: Path) -> None:
    for clients, way in ((4, "--unseen each"), (14, "--folds 5"), (80, None)):
        people = readers.read(str(wards(tmp_path / f"{clients}.csv", clients)), client="ward", target="value")
        said = suggestion(people)
        assert (said is None) == (way is None)
        assert way is None or way in str(said)
