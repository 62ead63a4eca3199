"""The start of tables, on made-up ones: what it gives, what it says first, and that a resumed run ends the same."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from seedbed.data import readers
from seedbed.data.encoding.places import slope_places, width_of
from seedbed.data.types import Batch
from seedbed.errors import Diverged, InputError
from seedbed.experiments import tuning
from seedbed.experiments.launch import resume_run, start_run
from seedbed.experiments.planning import divide
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.stages import Pipeline, Show
from seedbed.experiments.table_scores import COVERAGE, WIDE, area_under_curve, diverged, harm, row_scores, wilson
from seedbed.learning.effects import input_effects
from seedbed.learning.objectives import squared_error
from seedbed.reports.concerns import concerns, failures

NO_RIVALS = ("evaluation.baselines=false", "evaluation.episodes=3")


def hospitals(path: Path, *, classes: bool = False) -> Path:
    """Thirty clients of 24 rows with intercepts and slopes of their own, and three of one row."""
    rng, lines = np.random.default_rng(0), ["hospital,age,dose,tag,value"]
    for client in range(33):
        intercept, slope = rng.normal(0, 2), rng.normal(1, 1)
        for _ in range(24 if client < 30 else 1):
            age, dose = rng.normal(size=2)
            value = intercept + slope * age + 0.5 * dose + 0.3 * rng.normal()
            said = ("high" if value > 0 else "low") if classes else f"{10 * value + 70:.4f}"
            lines.append(f"h{client},{age:.4f},{dose:.4f},t{rng.integers(40)},{said}")
    path.write_text("\n".join(lines) + "\n")
    return path


def made(path: Path, out: Path, *more: str) -> dict[str, Any]:
    asked = {"data": str(path), "reader": {"client": "hospital", "target": "value"}}
    _, result = start_run(asked, (*NO_RIVALS, *more), None, out, Show())
    return result


@pytest.mark.parametrize("classes", [False, True])
def test_clients_with_slopes_of_their_own_get_them(tmp_path: Path, classes: bool) -> None:
    result = made(hospitals(tmp_path / "h.csv", classes=classes), tmp_path / "run")
    assert result["metric"] == ("log-loss" if classes else "squared error")
    for row, least in (("5", 0.8), ("20", 0.5), ("half", 0.6)):
        cells = result["unseen"][row]
        assert cells["adapted"]["mean"] < least * cells["unadapted"]["mean"], row
        assert result["finetuning"]["adapted"][row]["layers"] == "slopes"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert any("rows or fewer: they train with what they have" in note for note in manifest["data"]["notes"])
    units = result["unseen"]["20"]["adapted"]["also"]
    assert units.keys() == ({"accuracy", "AUC"} if classes else {"RMSE", "MAE", "R²", COVERAGE, WIDE})
    if not classes:
        assert 3 < units["RMSE"] < 9  # the noise is 3, in the target's units
        assert 0.8 < units[COVERAGE] < 0.99
        assert 9 < units[WIDE] < 24  # 3.3 standard deviations of the noise are 9.9


def test_a_resumed_run_ends_the_same(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made(hospitals(tmp_path / "h.csv"), run)
    before = {name: (run / name).read_bytes() for name in ("result.json", "model.safetensors")}
    for name in before:
        (run / name).unlink()
    resume_run(run, Show())
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("words", "algorithm"),
    [
        ((), "fed_eb"),
        (("start=rounds",), "per_fedavg"),
        (("privacy.epsilon=4",), "per_fedavg"),
        (("secure.form=masks",), "per_fedavg"),
        (("attack.name=alie",), "per_fedavg"),
        (("model.name=mlp",), "per_fedavg"),
        (("schedule.name=asynchronous",), "per_fedavg"),
    ],
)
def test_what_the_exact_start_cannot_do_is_left_to_rounds(
    tmp_path: Path, words: tuple[str, ...], algorithm: str
) -> None:
    from seedbed.experiments.config import table_from

    people = readers.read(str(hospitals(tmp_path / "h.csv")), client="hospital", target="value")
    settings = complete_settings(table_from({"data": "h.csv"}, assignments=words), people)
    assert (settings.algorithm, settings.start) == (algorithm, "exact" if algorithm == "fed_eb" else "rounds")


def test_asking_for_both_is_refused(tmp_path: Path) -> None:
    people = readers.read(str(hospitals(tmp_path / "h.csv")), client="hospital", target="value")
    for given, words in (
        ({"privacy": {"epsilon": 4.0}}, "--epsilon 4"),
        ({"algorithm": "fedavg"}, "fedavg: it is the"),
    ):
        settings = complete_settings({"start": "exact", **given}, people)
        with pytest.raises(InputError, match=f"start=exact does not work with {words}"):
            divide(settings, people)


def test_a_rival_that_diverges_goes_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, said, train = [], [], Pipeline.train

    def diverging(self: Pipeline, name: str, options: Any, plan: Any) -> Any:
        rates.append(options["local"]["lr"])
        if len(rates) < 3:
            raise Diverged("NaN")
        return train(self, name, options, plan)

    for name, values in {"HEAD_RATES": (0.1,), "HEAD_STEPS": (2,), "RATES": (0.1,), "STEPS": (1, 2)}.items():
        monkeypatch.setattr(tuning, name, values)
    monkeypatch.setattr(Pipeline, "train", diverging)
    monkeypatch.setattr(Show, "note", lambda self, text: said.append(text))
    result = made(hospitals(tmp_path / "h.csv"), tmp_path / "run", "evaluation.baselines=true", "rounds=4",
                  "evaluation.shots=5")  # fmt: skip
    assert rates[:3] == pytest.approx([0.05, 0.015, 0.0045])
    assert any("fedavg diverges; its rates are multiplied by 0.09" in line for line in said)
    assert "fedavg_finetuned" in result["unseen"]["5"]


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_area_under_the_curve_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    y, scores, mask = rng.integers(0, 2, 40), rng.integers(0, 9, 40).astype(float), rng.integers(0, 2, 40)
    above = [1.0 if a > b else 0.5 if a == b else 0.0 for a, i, m in zip(scores, y, mask, strict=True) if i and m
             for b, j, k in zip(scores, y, mask, strict=True) if not j and k]  # fmt: skip
    found = area_under_curve(torch.tensor(scores), torch.tensor(y), torch.tensor(mask, dtype=torch.float64))
    assert float(found) == pytest.approx(float(np.mean(above)))


def test_harm_is_a_t_test_over_a_clients_rows() -> None:
    rng, scores, harmed = np.random.default_rng(1), {}, []
    for client in range(40):
        before, after = rng.normal(size=12), rng.normal(1.2, 1, size=12)
        batch = Batch(torch.tensor(after)[:, None], torch.zeros(12), torch.ones(12, dtype=torch.float64))
        start = torch.tensor(before)[:, None]
        metric = row_scores(lambda params, x: x, squared_error, lambda x, start=start: start, classes=0)
        scores[client] = metric({}, batch)[None]
        t = stats.ttest_rel(after**2, before**2, alternative="greater")
        harmed += [f"c{client}"] if t.pvalue < 0.025 else []
    found = harm(scores, [f"c{client}" for client in range(40)])
    assert harmed
    assert found["clients"] == harmed
    assert found["interval"] == pytest.approx(list(wilson(len(harmed), 40)))
    exact = stats.binomtest(len(harmed), 40).proportion_ci(method="wilson")
    assert found["interval"] == pytest.approx([exact.low, exact.high], abs=1e-6)


def result_of(adapted: list[float], trivial: list[float], names: list[str]) -> dict[str, Any]:
    def cell(scores: list[float]) -> dict[str, Any]:
        return {"scores": scores, "mean": float(np.mean(scores)), "clients": len(scores)}

    row = {"adapted": cell(adapted), "trivial": cell(trivial)}
    row["adapted"]["diverged"] = diverged(row, names)
    return {"unseen": {"5": row}}


def test_what_is_said_first() -> None:
    names = [f"c{i}" for i in range(20)]
    rng = np.random.default_rng(0)
    noise = (0.05 * rng.normal(size=20)).tolist()
    fine = result_of([0.2 + e for e in noise], [1.0] * 20, names)
    assert (failures(fine), concerns(fine)) == ([], [])
    worse = result_of([1.5 + e for e in noise], [1.0] * 20, names)
    assert "WORSE than the trivial predictor" in failures(worse)[0]
    near = result_of([1.0 + e for e in noise], [1.0] * 20, names)
    assert failures(near) == []
    assert "cannot be distinguished" in concerns(near)[0]
    one = result_of([*[0.2 + e for e in noise[:19]], 30.0], [1.0] * 20, names)
    assert "diverges" in concerns(one)[0]
    assert "c19" in concerns(one)[0]
    assert "not finite" in failures(result_of([0.2] * 19 + [1e6], [1.0] * 20, names))[0]


# ---- effects ---------------------------------------------------------------------------------------------------------


def test_slopes_are_of_columns_that_vary_within_clients_and_have_few_levels() -> None:
    numeric = {"kind": "numeric", "missing": True}
    few = {"kind": "text", "levels": ["a", "b"], "other": True, "missing": False}
    many = {"kind": "text", "levels": [str(i) for i in range(30)], "other": True, "missing": False}
    assert [width_of(spec) for spec in (numeric, few, many)] == [2, 3, 31]
    rng, owners = np.random.default_rng(0), np.repeat(np.arange(10), 8)
    x = rng.normal(size=(80, 36))
    x[:, 0] = owners  # constant within clients
    x[:, 4] = 0.0
    assert slope_places([numeric, few, many], x, owners) == (1, 2, 3)


def test_effects_on_some_inputs_move_the_linear_model() -> None:
    effects = input_effects((2, 0))
    params = {"head.weight": torch.randn(1, 4), "head.bias": torch.randn(1)}
    x, b = torch.randn(7, 4), torch.randn(3, 1, dtype=torch.float64)
    moved = effects.move(params, b)
    before = x @ params["head.weight"].T + params["head.bias"]
    after = x @ moved["head.weight"].T + moved["head.bias"]
    torch.testing.assert_close(after - before, (effects.columns(params, x) @ b).float())
    assert math.prod(effects.columns(params, x).shape) == 21
