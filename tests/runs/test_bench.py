"""The race is run on a small workload: rows are whole, and all contestants end at the same weights."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seedbed.bench import race
from seedbed.bench.plain_loop import plain_loop
from seedbed.bench.workloads import WORKLOADS, Workload, count_parameters
from seedbed.errors import InputError
from seedbed.models import mlp

SMALL = replace(
    WORKLOADS["mlp"],
    module=lambda: mlp((6,), 3, hidden=(8,)),
    example=count_parameters(6),
    classes=3,
    clients=3,
    steps=2,
)


def test_rows_are_whole_and_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(WORKLOADS, "mlp", SMALL)
    rows = race.run_bench(["mlp"], repeat=1, threads=1)
    assert [row.executor for row in rows] == ["plain", "loop", "stacked", "batched", "fused", "auto"]
    assert rows[0].ratio_to_loop == 1
    assert all(row.steps_per_s > 0 and 0 < row.percent_of_gemm < 100 for row in rows)
    race.write_json(tmp_path / "rows.json", rows)
    found: Any = json.loads((tmp_path / "rows.json").read_text())
    wanted = {"workload", "executor", "steps_per_s", "ratio_to_loop", "percent_of_gemm", "peak_memory", "chosen"}
    assert all(set(row) == wanted for row in found)
    assert found[-1]["chosen"].split(":")[0] in (*WORKLOADS["mlp"].executors, "factored")


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")
def test_processes_have_rows_and_their_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKLOADS, "mlp", replace(SMALL, executors=("loop", "loop in processes")))
    rows = {row.executor: row for row in race.run_bench(["mlp"], repeat=1, threads=2)}
    assert list(rows) == ["plain", "loop", "loop in processes", "auto"]
    taken = rows["loop in processes"].peak_memory
    assert taken is not None
    assert taken > 1


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(InputError, match="unknown workload 'mpl': did you mean 'mlp'"):
        race.run_bench(["mpl"])


@pytest.mark.parametrize("name", ["mlp", "maml"])
def test_the_plain_loop_computes_what_the_algorithm_does(name: str) -> None:
    """Two rounds of each: what is raced against is the same work."""
    workload: Workload = replace(WORKLOADS[name], clients=2, steps=1)
    ours, theirs = (
        race._rounds(workload, "loop", 1, torch.device("cpu"), {}, print, {}),
        plain_loop(workload),
    )
    next(theirs)
    for _ in range(2):
        found, (want, _) = next(ours), next(theirs)
        assert all(torch.allclose(found[n], want[n], atol=2e-5) for n in want)


def test_operations_of_a_step_are_counted() -> None:
    """A perceptron 60-64-10 at batch 10: forward, weights' gradients, and the gradient between the layers."""
    assert race.operations(WORKLOADS["mlp"]) == 2 * 10 * (2 * 60 * 64 + 3 * 64 * 10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_said() -> None:
    assert race.gpus("cpu") == "of the CPU: there is no GPU here"
    with pytest.raises(InputError, match="device='cuda' cannot be used here"):
        race.run_bench(["mlp"], device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_rows_are_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKLOADS, "mlp", SMALL)
    rows = race.run_bench(["mlp"], repeat=1, device="cuda")
    assert [row.executor for row in rows] == ["plain", "loop", "stacked", "batched", "auto"]
