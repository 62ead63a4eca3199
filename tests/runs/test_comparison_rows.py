"""How far an algorithm is behind the best, client by client: the sign, the interval, and what is the best."""

import math
from typing import Any

import pytest

from seedbed.evaluation import summarise
from seedbed.experiments.comparison import ComparisonCell, _rows


def result(unadapted: list[float], adapted: list[float], *, higher: bool) -> dict[str, Any]:
    def cells(scores: list[float]) -> dict[str, Any]:
        summary = summarise(scores, higher_is_better=higher)
        ci95 = None if math.isnan(summary.ci95) else summary.ci95
        return {"mean": summary.mean, "ci95": ci95, "worst_tenth": summary.worst_tenth, "scores": scores}

    return {"unseen": {"1": {"unadapted": cells(unadapted), "adapted": cells(adapted)}}}


@pytest.mark.parametrize(("higher", "best", "other"), [(True, "good", "poor"), (False, "poor", "good")])
def test_the_worse_is_behind_by_the_mean_gap_over_clients(higher: bool, best: str, other: str) -> None:
    """Gaps of .1, .2 and .6 client by client: mean .3, variance .07, t(2; .975) = 4.302653."""
    made = {
        "good": [result([0.1, 0.2, 0.3], [0.8, 0.7, 0.9], higher=higher)],
        "poor": [result([0.3, 0.2, 0.1], [0.7, 0.5, 0.3], higher=higher)],
    }
    rows = _rows(made, "1", higher_is_better=higher)
    assert rows[best].behind is None
    gap, interval = rows[other].behind or (math.nan, math.nan)
    assert gap == pytest.approx(0.3)
    assert interval == pytest.approx(4.302652729911275 * math.sqrt(0.07 / 3))
    assert rows["good"].unadapted.mean == pytest.approx(0.2)
    assert rows["good"].adapted.mean == pytest.approx(0.8)
    assert rows["poor"].worst_tenth.mean == pytest.approx(0.3 if higher else 0.7)
    assert rows["poor"].worst_tenth.spread is None


def test_of_one_seed_the_spread_is_the_interval_and_of_several_the_deviation() -> None:
    one, two = (result([0.1, 0.2], adapted, higher=True) for adapted in ([0.4, 0.6], [0.6, 0.8]))
    interval = one["unseen"]["1"]["adapted"]["ci95"]
    assert _rows({"a": [one]}, "1", higher_is_better=True)["a"].adapted == ComparisonCell(0.5, interval)
    both = _rows({"a": [one, two]}, "1", higher_is_better=True)["a"]
    assert both.adapted.mean == pytest.approx(0.6)
    assert both.adapted.spread == pytest.approx(math.sqrt(0.02))
    assert both.unadapted.spread == 0


def test_scores_of_all_seeds_are_paired() -> None:
    """Two seeds of one client each are two pairs: an interval; one pair has none, and nothing is behind by it."""
    seeds = {name: [result([0.1], [score], higher=True) for score in (first, second)]
             for name, first, second in (("a", 0.5, 0.9), ("b", 0.4, 0.6))}  # fmt: skip
    gap, interval = _rows(seeds, "1", higher_is_better=True)["b"].behind or (math.nan, math.nan)
    assert gap == pytest.approx(0.2)
    assert interval == pytest.approx(12.706204736174694 * math.sqrt(0.02 / 2))
    first = {name: made[:1] for name, made in seeds.items()}
    assert _rows(first, "1", higher_is_better=True)["b"].behind is None


def test_the_first_of_equals_is_the_best() -> None:
    made = {name: [result([0.1, 0.2], [0.5, 0.7], higher=True)] for name in ("a", "b")}
    rows = _rows(made, "1", higher_is_better=True)
    assert rows["a"].behind is None
    assert rows["b"].behind == (0.0, 0.0)
