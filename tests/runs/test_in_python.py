"""Runs from Python: what the command line does; the same rows in any form are one model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import seedbed as sb
from seedbed import InputError
from seedbed.data.readers.frames import read_memory
from seedbed.experiments.launch import start_run
from seedbed.experiments.stages import Show

pandas = pytest.importorskip("pandas")
QUICK = ("evaluation.baselines=false", "evaluation.episodes=1", "evaluation.shots=5")


def frame(clients: int = 16, rows: int = 9) -> Any:
    rng = np.random.default_rng(0)
    whose = np.repeat([f"w{i}" for i in range(clients)], rows)
    own = np.repeat(rng.normal(size=clients), rows)
    age, dose = rng.normal(50, 9, clients * rows), rng.integers(1, 9, clients * rows)
    drug = rng.choice(["asp", "ibu"], clients * rows)
    value = own + age / 10 + (drug == "asp") + rng.normal(size=clients * rows)
    return pandas.DataFrame({"ward": whose, "age": age, "dose": dose, "drug": drug, "value": value})


def as_polars(data: Any) -> Any:
    return pytest.importorskip("polars").DataFrame({name: data[name].tolist() for name in data})


def as_arrow(data: Any) -> Any:
    return pytest.importorskip("pyarrow").Table.from_pandas(data, preserve_index=False)


class Stream:
    """Any library's frame, known by Arrow's C stream only."""

    def __init__(self, data: Any):
        self._table = as_arrow(data)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


def as_columns(data: Any) -> Any:
    return {name: data[name].to_numpy() for name in data}


@pytest.mark.parametrize(
    "form", [as_polars, as_arrow, Stream, as_columns, lambda data: data.set_index("age").reset_index()[[*data]]]
)
def test_frames_of_any_kind_are_one_population(form: Callable[[Any], Any]) -> None:
    data = frame()
    wanted = read_memory(data, client="ward", target="value")
    found = read_memory(form(data), client="ward", target="value")
    assert found.fingerprint() == wanted.fingerprint()
    assert found.encoding == wanted.encoding
    apart = read_memory(form(data.drop(columns="value")), client="ward", target=data["value"])
    assert apart.fingerprint() == wanted.fingerprint()


class Pairs(torch.utils.data.Dataset[tuple[torch.Tensor, float]]):
    def __init__(self, x: Any, y: Any):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        return self.x[place], self.y[place]


def test_arrays_and_datasets_are_the_same_population() -> None:
    data = frame()
    x, y, ids = (
        data[["age", "dose"]].to_numpy(float, copy=True),
        data["value"].to_numpy(copy=True),
        data["ward"].to_numpy(),
    )
    named = pandas.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "client": ids, "target": y})
    wanted = read_memory(named).fingerprint()
    assert read_memory(x, client=ids, target=y).fingerprint() == wanted
    assert read_memory(torch.as_tensor(x), client=ids.tolist(), target=torch.as_tensor(y)).fingerprint() == wanted
    assert read_memory(Pairs(x, y), client=ids).fingerprint() == wanted
    images = np.arange(16 * 9 * 16, dtype=np.uint8).reshape(-1, 1, 4, 4)
    labels = np.array(["a", "b"])[data["dose"] % 2]
    seen = read_memory(Pairs(images, labels), client=ids)
    assert (tuple(seen.x.shape), seen.classes) == ((144, 1, 4, 4), ("a", "b"))


def test_a_run_from_python_is_that_of_the_command_line(tmp_path: Path) -> None:
    data = frame()
    data.to_csv(tmp_path / "wards.csv", index=False)
    asked = {"data": str(tmp_path / "wards.csv"), "reader": {"client": "ward", "target": "value"}}
    start_run(asked, QUICK, None, tmp_path / "line", Show())
    made = sb.run(data, client="ward", target="value", settings=QUICK, out=tmp_path / "frame")
    for name in ("model.safetensors", "result.json"):
        assert (tmp_path / "frame" / name).read_bytes() == (tmp_path / "line" / name).read_bytes()
    assert (tmp_path / "frame" / "report.html").exists()
    unseen = json.loads(json.dumps(made.result["unseen"]))
    assert json.loads((tmp_path / "frame" / "result.json").read_text())["unseen"] == unseen
    one = data[data["ward"] == "w3"]
    predicted = made.adapt(one).predict(one.drop(columns="value"))
    assert list(predicted) == ["prediction", "low", "high"]
    assert np.abs(predicted["prediction"] - one["value"].to_numpy()).mean() < 2
    assert len(made.start.predict(one)) == 9
    (tmp_path / "frame" / "result.json").unlink()
    with pytest.raises(InputError, match=r"was a DataFrame in Python's memory: go on in Python"):
        sb.resume(tmp_path / "frame")
    again = sb.resume(tmp_path / "frame", data, client="ward", target="value")
    assert json.loads(json.dumps(again.result["unseen"])) == unseen
    (tmp_path / "frame" / "result.json").unlink()
    with pytest.raises(InputError, match="no longer the data"):
        sb.resume(tmp_path / "frame", frame(15), client="ward", target="value")


def test_refusals(tmp_path: Path) -> None:
    data = frame()
    for given, words in (
        ({"data": data, "client": ["a"], "target": "value"}, "client has 1 values, the data 144 rows"),
        ({"data": data, "client": "Ward", "target": "value"}, "did you mean 'ward'"),
        ({"data": [1, 2], "client": "a", "target": "b"}, "list is no data that can be read"),
        ({"data": np.zeros((3, 2, 2)), "client": "a", "target": "b"}, "an array has no columns"),
        ({"data": "digits", "client": ["a"]}, "names of columns"),
        ({"data": data.rename(columns={"age": "client"}), "client": data["ward"], "target": "value"}, "already"),
    ):
        with pytest.raises(InputError, match=words):
            sb.run(**given, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
