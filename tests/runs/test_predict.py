"""From a run to predictions: own models and the start, in the target's units, with intervals that cover."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seedbed import InputError
from seedbed.data.readers.new_rows import read_new_rows
from seedbed.experiments.adapt import adapt_all, adapt_client, load_personal, start_of_run
from seedbed.experiments.conformal import interval_from_residuals
from seedbed.experiments.launch import start_run
from seedbed.experiments.predict import predict_file
from seedbed.experiments.stages import Show

QUICK = ("evaluation.baselines=false", "evaluation.episodes=1")
HEADER = "ward,age,drug,dose,value"
NOISE = 3.0


def rows(clients: range, each: int, *, classes: bool = False, seed: int = 0) -> list[str]:
    """Rows of wards with an intercept and a slope of their own, functions of their number."""
    lines, rng = [], np.random.default_rng(seed)
    for client in clients:
        own = np.random.default_rng(1000 + client)
        intercept, slope = own.normal(0, 2), own.normal(1, 1)
        for _ in range(each):
            age, dose, drug = *rng.normal(size=2), rng.choice(["asp", "ibu"])
            value = intercept + slope * age + (drug == "asp") + 0.1 * NOISE * rng.normal()
            said = ("high" if value > 0 else "low") if classes else f"{10 * value + 70:.4f}"
            lines.append(f"w{client},{age:.4f},{drug},{dose:.4f},{said}")
    return lines


def written(path: Path, lines: list[str], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_of(folder: Path, *more: str, each: int = 24, classes: bool = False) -> Path:
    data = written(folder / "wards.csv", rows(range(30), each, classes=classes))
    asked = {"data": str(data), "reader": {"client": "ward", "target": "value"}}
    return start_run(asked, (*QUICK, *more), None, folder / "run", Show())[0]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("classes"), "evaluation.shots=5", each=9, classes=True)


def test_new_wards_are_predicted_in_the_targets_units(numbers: Path, tmp_path: Path) -> None:
    """Forty wards that were never seen: each from 20 examples, judged on 30 others; only the start for one more."""
    new = range(100, 140)
    support = written(tmp_path / "s.csv", rows(new, 20, seed=1))
    labelled = rows(range(100, 141), 30, seed=2)
    asked = written(tmp_path / "q.csv", [line.rpartition(",")[0] for line in labelled], HEADER.rpartition(",")[0])
    made = adapt_all(numbers, support, tmp_path / "models")
    said = predict_file(tmp_path / "models", asked, tmp_path / "p.csv")
    found, wanted = read(tmp_path / "p.csv"), np.array([float(line.rpartition(",")[2]) for line in labelled])
    assert (made.clients, made.examples, said.rows, said.own) == (40, 800, 1230, 1200)
    assert [each["ward"] for each in found] == [line.partition(",")[0] for line in labelled]
    assert [each["line"] for each in found] == [str(place) for place in range(2, 1232)]
    middle, low, high = (np.array([float(each[key]) for each in found]) for key in ("prediction", "low", "high"))
    assert [each["model"] for each in found[1190:1210]] == ["own"] * 10 + ["start"] * 10
    error = np.sqrt(((middle - wanted)[:1200] ** 2).mean())
    assert NOISE * 0.95 < error < NOISE * 1.3  # an oracle has 3
    inside = (low <= wanted) & (wanted <= high)
    assert 0.85 < inside[:1200].mean() < 0.97
    assert (high - low)[1200:].mean() > 2 * (high - low)[:1200].mean()  # of the start nothing is known of the ward
    assert "30 rows of 1 clients without a model: predicted by the start" in said.notes


def test_one_and_all_are_the_same_model(numbers: Path, tmp_path: Path) -> None:
    support = written(tmp_path / "s.csv", rows(range(200, 203), 12))
    adapt_all(numbers, support, tmp_path / "all")
    adapt_client(numbers, support, tmp_path / "w201.safetensors", client="w201")
    one, same = load_personal(tmp_path / "w201.safetensors"), load_personal(tmp_path / "all" / "client-2.safetensors")
    assert one.client == same.client == "w201"
    assert {n: p.tolist() for n, p in one.params.items()} == {n: p.tolist() for n, p in same.params.items()}
    predict_file(tmp_path / "w201.safetensors", support, tmp_path / "one.csv")
    predict_file(tmp_path / "all", support, tmp_path / "all.csv")
    mine = [each for each in read(tmp_path / "all.csv") if each["ward"] == "w201"]
    assert mine == [each for each in read(tmp_path / "one.csv") if each["ward"] == "w201"]


def test_the_start_predicts_as_the_table_has_it(numbers: Path, tmp_path: Path) -> None:
    support = written(tmp_path / "s.csv", rows(range(300, 301), 9))
    predict_file(numbers, support, tmp_path / "p.csv")
    start = start_of_run(numbers)
    x = read_new_rows(support, start.encoding).x
    algorithm = start.learner.algorithm(start.name, start.model, options=start.options)
    z = start.model.predict(start.sent(algorithm), x)[:, 0]  # type: ignore[union-attr]
    goal = start.encoding["target"]
    wanted = (z * goal["std"] + goal["mean"]).tolist()
    assert [float(each["prediction"]) for each in read(tmp_path / "p.csv")] == pytest.approx(wanted, rel=1e-5)


def test_classes_have_probabilities(classes: Path, tmp_path: Path) -> None:
    support = written(tmp_path / "s.csv", rows(range(400, 402), 20, classes=True))
    adapt_all(classes, support, tmp_path / "models")
    predict_file(tmp_path / "models", support, tmp_path / "p.csv")
    predict_file(tmp_path / "models", support, tmp_path / "p.parquet")
    found = read(tmp_path / "p.csv")
    for each in found:
        high, low = float(each["probability_high"]), float(each["probability_low"])
        assert high + low == pytest.approx(1)
        assert each["prediction"] == ("high" if high > low else "low")
    right = [
        each["prediction"] == line.rpartition(",")[2]
        for each, line in zip(found, rows(range(400, 402), 20, classes=True), strict=True)
    ]
    assert np.mean(right) > 0.8
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(tmp_path / "p.parquet")
    assert frame["prediction"].tolist() == [each["prediction"] for each in found]
    assert frame["probability_high"].tolist() == [float(each["probability_high"]) for each in found]


def test_rows_unlike_those_of_training(numbers: Path, tmp_path: Path) -> None:
    """Another order, new columns, levels and gaps: each row is predicted, and a note says what was met."""
    lines = ["asp,0.5,1.0,x,w0", "new,0.5,1.0,y,w0", "asp,,1.0,z,w0", ",0.5,,z,"]
    path = written(tmp_path / "n.csv", lines, "drug,age,dose,extra,ward")
    said = " | ".join(predict_file(numbers, path, tmp_path / "p.csv").notes)
    found = read(tmp_path / "p.csv")
    assert len(found) == 4
    assert all(np.isfinite(float(each["prediction"])) for each in found)
    assert "does not use the column 'extra'" in said
    assert "1 rows with levels that the model does not know ('new')" in said
    assert "column 'age': 1 missing values, of which training had none: filled by the median" in said
    assert found[3]["ward"] == ""


@pytest.mark.parametrize(
    ("header", "line", "words"),
    [
        ("ward,Age,drug,dose", "w0,1,asp,1", "no column 'age', which the model was trained on: did you mean 'Age'?"),
        ("ward,drug", "w0,asp", "no column 'age' (nor 'dose')"),
        ("ward,age,drug,dose", "w0,old,asp,1", "column 'age' has 'old' in line 2"),
        ("ward,age,drug,dose", "w0,inf,asp,1", "infinite"),
        ("ward,age,age,dose", "w0,1,asp,1", "two columns"),
    ],
)
def test_columns_that_do_not_fit_are_named(numbers: Path, tmp_path: Path, header: str, line: str, words: str) -> None:
    path = written(tmp_path / "n.csv", [line], header)
    with pytest.raises(InputError) as refused:
        predict_file(numbers, path, tmp_path / "p.csv")
    if words != "two columns":
        assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "p.csv").exists()


def test_refusals(numbers: Path, tmp_path: Path) -> None:
    support = written(tmp_path / "s.csv", rows(range(2), 9))
    adapt_client(numbers, support, tmp_path / "a.safetensors", client="w0")
    (tmp_path / "few").mkdir()
    for name in "ab":
        (tmp_path / "few" / f"{name}.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    cases: list[tuple[Any, Path, Path, str]] = [
        (tmp_path / "few", support, tmp_path / "p.csv", "two models of client 'w0'"),
        (tmp_path / "nothing", support, tmp_path / "p.csv", "no model"),
        (tmp_path / "a.safetensors", support, tmp_path / "p.txt", "neither .csv nor .parquet"),
        (tmp_path / "a.safetensors", support, support, "exists: choose another --out"),
        (tmp_path / "a.safetensors", tmp_path / "no.csv", tmp_path / "p.csv", "no file"),
    ]
    for models, asked, out, words in cases:
        with pytest.raises(InputError, match=words):
            predict_file(models, asked, out)
    (tmp_path / "few" / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model of client 'w1' and no start.safetensors"):
        predict_file(tmp_path / "few", support, tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"or adapt to all of them with --all"):
        adapt_client(numbers, support, tmp_path / "b.safetensors")
    adapt_all(numbers, support, tmp_path / "all")
    with pytest.raises(InputError, match=r"exists: choose another --out"):
        adapt_all(numbers, support, tmp_path / "all")


@pytest.mark.slow
def test_numbers_standardised_by_each_client_keep_its_scale(tmp_path: Path) -> None:
    """One new row has no deviation of its own: the model's file holds those of its examples."""
    run = run_of(tmp_path, "reader.standardise=own", "evaluation.shots=5", each=9)
    lines = rows(range(500, 501), 20)
    support = written(tmp_path / "s.csv", lines)
    adapt_client(run, support, tmp_path / "m.safetensors")
    predict_file(tmp_path / "m.safetensors", support, tmp_path / "together.csv")
    predict_file(tmp_path / "m.safetensors", written(tmp_path / "one.csv", lines[3:4]), tmp_path / "apart.csv")
    together, apart = read(tmp_path / "together.csv"), read(tmp_path / "apart.csv")
    assert float(apart[0]["prediction"]) == pytest.approx(float(together[3]["prediction"]), rel=1e-5)


def test_a_row_of_the_result_is_the_models_interval(numbers: Path, tmp_path: Path) -> None:
    intervals = json.loads((numbers / "result.json").read_text())["choice"]["intervals"]
    assert intervals.keys() == {"5", "20", "half", "start"}
    adapt_client(numbers, written(tmp_path / "s.csv", rows(range(600, 601), 7)), tmp_path / "m")
    assert list(load_personal(tmp_path / "m").interval or ()) == intervals["5"]


def test_intervals_cover_one_more_client() -> None:
    """Clients of unlike sizes and scales: over 80 draws of thirty clients and one more, 90 % of its rows are covered.

    So it is where all clients are alike, and where rows of a client are.
    """
    generator = torch.Generator().manual_seed(0)
    for low, high in ((1.0, 1.0), (0.2, 3.0)):
        covered = []
        for _ in range(80):
            scale = low + (high - low) * torch.rand(31, generator=generator)
            sizes = torch.randint(1, 12, (31,), generator=generator).tolist()
            drawn = [s * torch.randn(1, n, generator=generator).abs() for s, n in zip(scale, sizes, strict=True)]
            found = interval_from_residuals(dict(enumerate(drawn[:30])))
            assert found is not None
            covered.append(float((drawn[30] <= found.quantile).double().mean()))
        assert 0.86 < np.mean(covered) < 0.94, low
    assert interval_from_residuals({}) is None
    assert interval_from_residuals({0: torch.tensor([[torch.inf]])}) is None


@pytest.mark.parametrize(("clients", "words"), [(2, ()), (9, ("many",))])
def test_a_start_without_priors_adapts_and_predicts(tmp_path: Path, clients: int, words: tuple[str, ...]) -> None:
    """One known client tells nothing of others, and so do more classes than clients can have effects on."""
    lines = rows(range(clients), 24)
    if words:
        lines = [f"{line.rpartition(',')[0]},c{place % 70}" for place, line in enumerate(lines)]
    data = written(tmp_path / "d.csv", lines)
    asked = {"data": str(data), "reader": {"client": "ward", "target": "value"}}
    run = start_run(asked, (*QUICK, "evaluation.shots=5"), None, tmp_path / "run", Show())[0]
    adapt_all(run, data, tmp_path / "models")
    assert predict_file(tmp_path / "models", data, tmp_path / "p.csv").own == 24 * clients
