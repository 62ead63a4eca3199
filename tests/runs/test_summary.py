"""What a table's numbers mean: means over clients, Student's interval, the worst tenth."""

import math

import pytest

from seedbed.evaluation import summarise


def test_the_interval_by_hand() -> None:
    """Scores 1, 2, 3, 6: mean 3, deviations −2, −1, 0, 3, variance 14/3, t(3; .975) = 3.182446: 3.182446·√(14/3)/2."""
    summary = summarise([1.0, 2.0, 3.0, 6.0])
    assert summary.mean == 3.0
    assert abs(summary.ci95 - 3.182446305284263 * math.sqrt(14 / 3) / 2) < 1e-9
    assert summary.clients == 4
    assert summary.scores == (1.0, 2.0, 3.0, 6.0)
    assert repr(summary) == "3 ± 3.4 (worst tenth 1, 4 clients)"


@pytest.mark.parametrize(("clients", "worst"), [(9, [0]), (10, [0]), (11, [0, 1]), (20, [0, 1]), (21, [0, 1, 2])])
def test_the_worst_tenth_is_rounded_up(clients: int, worst: list[int]) -> None:
    scores = [float(i) for i in reversed(range(clients))]
    assert summarise(scores).worst_tenth == sum(worst) / len(worst)


def test_where_less_is_better_the_worst_are_the_largest() -> None:
    assert summarise([0.1, 0.9, 0.5], higher_is_better=False).worst_tenth == 0.9


def test_one_client_has_no_interval() -> None:
    summary = summarise([0.75])
    assert (summary.mean, summary.worst_tenth, summary.clients) == (0.75, 0.75, 1)
    assert math.isnan(summary.ci95)


def test_equal_scores_have_an_interval_of_nothing() -> None:
    assert summarise([0.3] * 5).ci95 == pytest.approx(0)


def test_two_clients_have_an_interval() -> None:
    """Scores 0 and 1: variance 1/2, t(1; .975) = 12.7062: 12.7062·√(1/2)/√2."""
    assert summarise([0.0, 1.0]).ci95 == pytest.approx(12.706204736174694 / 2)


def test_notebooks_show_the_same_numbers() -> None:
    shown = summarise([0.25, 0.75])._repr_html_()
    assert "<td>0.5 ± 3.2</td><td>0.25</td><td>2</td>" in shown
