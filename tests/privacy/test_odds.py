"""The odds of plans: tails against exact fractions, bounds against graphs that are drawn."""

import math
import runpy
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from seedbed.privacy.secure import odds
from seedbed.privacy.secure.odds import Assumed, cheapest, in_words
from seedbed.privacy.secure.secagg_protocol import neighbourhoods

from .bench import plan

DOCS = Path(__file__).parents[2] / "docs"


def exact(clients: int, marked: int, drawn: int, least: int) -> Fraction:
    """P[HG(clients − 1, marked, drawn) ≥ least]."""
    others = clients - 1
    ways = sum(math.comb(marked, x) * math.comb(others - marked, drawn - x) for x in range(max(0, least), drawn + 1))
    return Fraction(ways, math.comb(others, drawn))


def log2(fraction: Fraction) -> float:
    return math.log2(fraction.numerator) - math.log2(fraction.denominator) if fraction else -math.inf


def test_tails_are_exact() -> None:
    """To 1e-9 of the logarithm, however small they are: 150 random ones, of up to 600 clients."""
    rng = np.random.default_rng(0)
    for _ in range(150):
        n = int(rng.integers(3, 600))
        marked, drawn = (int(x) for x in rng.integers(0, n, 2))
        least = int(rng.integers(0, drawn + 2))
        assert odds._tail(n, marked, drawn, least) == pytest.approx(log2(exact(n, marked, drawn, least)), abs=1e-9)


def test_odds_by_hand() -> None:
    """By exact fractions. 100 clients of which 20 collude, with k = 14 and t = 8, as was the default: in one round of
    twelve, holders that collude have one of an honest client's secrets."""
    found = odds.odds(Assumed(100, 20, 0), 14, 8)
    assert 2**found.exposed == pytest.approx(float(80 * exact(100, 20, 14, 8)), rel=1e-3)
    assert 0.07 < 2**found.exposed < 0.09
    found = odds.odds(Assumed(100, 20, 30), 48, 21)
    assert 2**found.given_up == pytest.approx(float(100 * exact(100, 30, 48, 28)), rel=1e-9)
    found = odds.odds(Assumed(100, 20, 5, malicious=True), 31, 26)
    sets = sum(math.comb(80, a) * exact(95, 19 + a, 31, 21) ** a for a in range(1, 20))
    assert found.exposed == pytest.approx(log2(sets), abs=1e-9)
    assert found.hold


def test_the_bound_on_colluding_holders_is_what_graphs_show() -> None:
    """Clients with t of their holders colluding, in 1,500 graphs: as many as the tail says, ± 4 standard errors."""
    n, c, k, t, graphs = 30, 6, 6, 3, 800
    agreed, colluding = plan(neighbours=k, threshold=t), set(range(6))
    found = [
        sum(len(others & colluding) >= t for i, others in neighbourhoods(agreed, range(n)).items() if i >= c)
        for _ in range(graphs)
    ]
    expected = (n - c) * float(exact(n, c, k, t))
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / math.sqrt(graphs))


def test_the_bound_on_closed_sets_is_what_graphs_show() -> None:
    """Sets of a honest clients, each with `need` of its holders in the set or colluding: the mean number in 300 graphs
    is C(h, a)·Pᵃ, for each a."""
    n, c, k, need, graphs = 9, 2, 4, 3, 300
    agreed = plan(neighbours=k, threshold=4)
    found = np.zeros((graphs, 5))
    for graph in range(graphs):
        around = neighbourhoods(agreed, range(n))
        for a in range(1, 5):
            for some in combinations(range(c, n), a):
                inside = {*range(c), *some}
                found[graph, a] += all(len(around[i] & inside) >= need for i in some)
    for a in range(1, 5):
        expected = math.comb(n - c, a) * float(exact(n, c + a - 1, k, need)) ** a
        assert found[:, a].mean() == pytest.approx(expected, abs=4 * found[:, a].std() / math.sqrt(graphs) + 1e-9)


def test_the_bound_on_parts_is_what_graphs_show() -> None:
    """Honest clients that are left, as a graph of who draws whom: in parts as often as the sum says at most, and at
    least half as often (parts of one are nearly all of it)."""
    n, left, k, graphs = 24, 10, 5, 1500
    agreed = plan(neighbours=k, threshold=2)
    fell = sum(not is_whole(neighbourhoods(agreed, range(n)), left) for _ in range(graphs)) / graphs
    bound = 2 ** odds._falls_apart(n, left, k)
    assert bound / 2 < fell < bound + 4 * math.sqrt(bound / graphs)


def is_whole(around: dict[int, frozenset[int]], left: int) -> bool:
    reached, edge = {0}, {0}
    while edge:
        edge = {j for j in range(left) if j not in reached and any(j in around[i] or i in around[j] for i in edge)}
        reached |= edge
    return len(reached) == left


def test_cheapest_is_the_fewest_that_holds() -> None:
    for malicious in (False, True):
        for n in (41, 60, 120):
            assumed = Assumed(n, n // 5, n // 10, malicious)
            k, t = cheapest(assumed)
            assert odds.odds(assumed, k, t).hold
            assert not any(odds.odds(assumed, k - 1, other).hold for other in range(2, k))
            assert not odds.odds(assumed, k, t + 1).hold
    assert cheapest(Assumed(40, 8, 12)) == (39, 27)


def test_odds_in_words() -> None:
    assert [in_words(x) for x in (-math.inf, -3.0, -40.0, -2000.0)] == ["none", "1 in 8", "1 in 1.1e+12", "1 in 1e+300"]


def test_the_table_in_the_docs_is_the_one_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(DOCS / "generate_plans.py"), run_name="__main__")
    assert capsys.readouterr().out.strip() in (DOCS / "secure_aggregation.md").read_text()
