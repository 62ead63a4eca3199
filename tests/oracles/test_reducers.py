"""Robust reducers: closed forms, slow twins, what must not change them, and how many liars they bear.

Shapes: n messages, P numbers of a message.
"""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seedbed import aggregation
from seedbed.aggregation import make_rule, nnm
from seedbed.aggregation.robust import TooFewMessages
from seedbed.aggregation.root_trust import fltrust_rule
from seedbed.errors import InputError
from seedbed.tree import Tree

SAME = torch.ones(99)
F = {"bulyan": 2}  # of 11 messages; the others bear 3
NAMES = [
    *aggregation.RULES,
    "nnm+median",
    "nnm+trimmed_mean",
    "nnm+krum",
    "norm_bounding+trimmed_mean",
    "norm_bounding+nnm+trimmed_mean",
]
every_rule = pytest.mark.parametrize("name", NAMES)


def rule(name: str, f: int = 3) -> Any:
    """The rule for 11 messages of which f are hostile, where it takes an f."""
    takes_f = {"trimmed_mean", "krum", "multi_krum", "bulyan", "nnm"} & set(name.split("+"))
    return make_rule(name, **({"f": min(f, F.get(name, f))} if takes_f else {}))


def messages(n: int = 11, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"weight": (n, 3, 2), "bias": (n, 4)}
    return {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()} | {
        "scale": [torch.rand(n, generator=g)]
    }


def rows(stacked: Tree) -> Tensor:
    return torch.cat(
        [leaf.reshape(len(leaf), -1) for leaf in (stacked["weight"], stacked["bias"], stacked["scale"][0])], 1
    )


def row(value: Tree) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in (value["weight"], value["bias"], value["scale"][0])])


def reduced(of: Any, x: Tensor, weights: Tensor | None = None) -> Tensor:
    found = of({"x": x}, SAME[: len(x)] if weights is None else weights)["x"]
    assert isinstance(found, Tensor)
    return found


# ---- closed forms -----------------------------------------------------------------------------------------


def test_median_and_trimmed_mean_of_numbers() -> None:
    """1, 2, 3, 5, 100: the median is 3, the mean without one on either side (2 + 3 + 5)/3; without the last, the
    median is (2 + 3)/2."""
    x = torch.tensor([[5.0], [100.0], [1.0], [3.0], [2.0]])
    assert reduced(make_rule("median"), x) == 3
    assert reduced(make_rule("median"), x[[0, 2, 3, 4]]) == 2.5
    assert reduced(make_rule("trimmed_mean", f=1), x) == pytest.approx(10 / 3, abs=1e-12)
    assert reduced(make_rule("trimmed_mean", f=0.2), x) == pytest.approx(10 / 3, abs=1e-12)


def test_weighted_median_is_the_median_of_repeated_values() -> None:
    """A value of weight k counts as k values of weight 1, also where a half falls between two."""
    x = torch.tensor([[4.0], [1.0], [9.0], [2.0]])
    for k in itertools.product((1, 2, 3), repeat=4):
        many = torch.repeat_interleave(x, torch.tensor(k), 0)
        got = reduced(make_rule("median", weighted=True), x, 0.3 * torch.tensor(k).double())
        assert got == pytest.approx(float(reduced(make_rule("median"), many)), abs=1e-12), k


def test_trimmed_by_nothing_is_the_mean() -> None:
    """f = 0, weighted: Σ w x / Σ w."""
    x, w = rows(messages()), torch.rand(11) + 0.1
    assert torch.allclose(reduced(make_rule("trimmed_mean", f=0, weighted=True), x, w), w @ x / w.sum(), atol=1e-12)
    assert torch.allclose(
        reduced(make_rule("norm_bounding", bound=1e9, weighted=True), x, w), w @ x / w.sum(), atol=1e-12
    )


def test_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    """Where no angle is above 120°, unit vectors to the corners sum to zero: Σ (x_i − v)/‖x_i − v‖ = 0. On a line it
    is the median; and where one point has half of the weight, it is that point."""
    x = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]])
    away = x - reduced(make_rule("geometric_median", iterations=200), x)
    assert float((away / away.norm(dim=1, keepdim=True)).sum(0).norm()) < 1e-10
    line = torch.tensor([[0.0], [1.0], [7.0]])
    assert float(reduced(make_rule("geometric_median", iterations=200), line)) == pytest.approx(1, abs=1e-5)
    heavy = make_rule("geometric_median", iterations=2000, weighted=True)
    assert torch.allclose(reduced(heavy, x, torch.tensor([0.5, 0.2, 0.2])), x[0], atol=1e-3)


def slow_scores(x: Tensor, f: int) -> list[float]:
    """Krum's scores in plain Python: sums of squared distances to the n − f − 2 nearest others."""
    n = len(x)
    apart = [[float(((x[i] - x[j]) ** 2).sum()) for j in range(n)] for i in range(n)]
    return [sum(sorted(apart[i][:i] + apart[i][i + 1 :])[: n - f - 2]) for i in range(n)]


def test_krum_and_multi_krum_are_their_slow_twins() -> None:
    x = rows(messages(seed=3))
    scores = slow_scores(x, 3)
    order = sorted(range(11), key=scores.__getitem__)
    assert torch.equal(reduced(make_rule("krum", f=3), x), x[order[0]])
    assert torch.allclose(reduced(make_rule("multi_krum", f=3), x), x[order[:8]].mean(0), atol=1e-14)
    assert torch.allclose(reduced(make_rule("multi_krum", f=3, keep=1), x), x[order[0]], atol=1e-14)


def test_bulyan_is_its_slow_twin() -> None:
    """θ = 7 of 11 chosen one after another by Krum, f = 2; of each coordinate the θ − 2f = 3 values nearest to the
    median of the seven."""
    x = rows(messages(seed=4))
    left, chosen = list(range(11)), []
    for _ in range(7):
        scores = slow_scores(x[left], 2) if len(left) > 4 else None
        assert scores is not None
        chosen.append(left.pop(min(range(len(left)), key=scores.__getitem__)))
    want = []
    for column in x[chosen].T.tolist():
        middle = sorted(column)[3]
        want.append(sum(sorted(column, key=lambda v, m=middle: abs(v - m))[:3]) / 3)  # type: ignore[misc]
    assert torch.allclose(reduced(make_rule("bulyan", f=2), x), torch.tensor(want), atol=1e-14)


def test_nearest_neighbour_mixing_by_hand() -> None:
    """0, 1, 2 and 10 with f = 1: each becomes the mean of its three nearest, 1, 1, 1 and 13/3."""
    x = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    assert reduced(nnm(f=1), x) == pytest.approx((3 + 13 / 3) / 4, abs=1e-14)
    assert reduced(make_rule("nnm+median", f=1), x) == pytest.approx(1, abs=1e-14)


def test_clipping_by_hand() -> None:
    """(3, 4) bounded by 1 is (.6, .8), (0, 0) stays: the mean is (.3, .4). Centered clipping from zero, once, is the
    same; begun at a fixed point it stays there; with τ above all distances it is the mean."""
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert torch.allclose(reduced(make_rule("norm_bounding", bound=1.0), x), torch.tensor([0.3, 0.4]), atol=1e-14)
    once = make_rule("centered_clipping", tau=1.0, start="zero", iterations=1)
    assert torch.allclose(reduced(once, x), torch.tensor([0.3, 0.4]), atol=1e-14)
    many = rows(messages())
    assert torch.allclose(reduced(make_rule("centered_clipping", tau=1e6), many), many.mean(0), atol=1e-12)
    line = torch.tensor([[0.0], [0.0], [1.0], [50.0], [60.0]])
    fixed = reduced(make_rule("centered_clipping", tau=1.0, iterations=100), line)
    assert float((line - fixed).clamp(-1, 1).sum()) == pytest.approx(0, abs=1e-9)


def test_norms_of_a_round_bound_themselves() -> None:
    """With bound=None nobody is longer than the median norm: 1, 2, 100 along one axis give (1 + 2 + 2)/3."""
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [100.0, 0.0]])
    assert reduced(make_rule("norm_bounding"), x)[0] == pytest.approx(5 / 3, abs=1e-14)


def test_fltrust_by_hand() -> None:
    """Root (2, 0). (1, 0): cosine 1, stretched to (2, 0). (1, 1): cosine 1/√2, (√2, √2). (−9, 0): trust 0. So
    ((2, 0) + (1, 1))/(1 + 1/√2)."""
    x = {"x": torch.tensor([[1.0, 0.0], [1.0, 1.0], [-9.0, 0.0]])}
    got = fltrust_rule(x, {"x": torch.tensor([2.0, 0.0])})["x"]
    assert torch.allclose(got, torch.tensor([3.0, 1.0]) / (1 + 0.5**0.5), atol=1e-14)
    assert torch.equal(fltrust_rule(x, {"x": torch.tensor([0.0, -1.0])})["x"], torch.zeros(2))


# ---- what holds for all ----------------------------------------------------------------------------------------


@every_rule
def test_a_trees_leaves_are_one_vector(name: str) -> None:
    """Distances and norms are over all leaves: a tree's result is that of its rows laid side by side."""
    stacked = messages()
    assert torch.allclose(row(rule(name)(stacked, SAME[:11])), reduced(rule(name), rows(stacked)), atol=1e-14)


@every_rule
def test_order_changes_nothing(name: str) -> None:
    x = rows(messages(seed=1))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(reduced(rule(name), x), reduced(rule(name), x[order]), atol=1e-12)


@every_rule
def test_scale_and_translation(name: str) -> None:
    """r(s·x) = s·r(x), s > 0; and r(x + c) = r(x) + c, but for rules whose norms are measured from zero."""
    x, c = rows(messages(seed=2)), torch.linspace(-1, 1, 11)
    assert torch.allclose(reduced(rule(name), 7 * x), 7 * reduced(rule(name), x), atol=1e-5)
    if "norm_bounding" not in name:
        assert torch.allclose(reduced(rule(name), x + c), reduced(rule(name), x) + c, atol=1e-6)


@every_rule
def test_of_equal_messages_it_is_that_message(name: str) -> None:
    x = rows(messages())[:1].expand(11, -1)
    assert torch.allclose(reduced(rule(name), x), x[0], atol=1e-12)


@every_rule
def test_breakdown(name: str) -> None:
    """Three of eleven (bulyan: two) say 10⁶: the result stays near the honest, and what the mean says does not."""
    honest = rows(messages(seed=5))
    bad = honest.clone()
    liars = 2 if name == "bulyan" else 3
    bad[:liars] = 1e6
    assert float(bad.mean(0).norm()) > 1e5
    far = float((reduced(rule(name), bad) - honest[liars:].mean(0)).norm())
    spread = float((honest - honest.mean(0)).norm(dim=1).max())
    # norm_bounding and centered clipping bound what a liar can do: each by one bound of eleven
    assert far < 2 * spread, far


@every_rule
def test_float32_is_reduced_in_double_precision_and_given_back_as_it_came(name: str) -> None:
    stacked = messages()
    single = {"x": rows(stacked).float()}
    found = rule(name)(single, SAME[:11].float())["x"]
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), reduced(rule(name), single["x"].double()), atol=1e-6)


@every_rule
def test_weights_count_only_where_asked(name: str) -> None:
    x, w = rows(messages()), torch.rand(11) + 0.1
    assert torch.equal(reduced(rule(name), x), reduced(rule(name), x, w))


@every_rule
def test_messages_without_numbers_and_with_whole_ones(name: str) -> None:
    assert rule(name)({}, SAME[:11]) == {}
    counts = {"x": torch.arange(11)[:, None] * 0 + 4}
    assert rule(name)(counts, SAME[:11])["x"].tolist() == [4]


bad_numbers = st.sampled_from(
    [float("nan"), float("inf"), -float("inf"), 1.7e308, -1.7e308, 1e200, -1e30, -0.0, 5e-324]
)


@every_rule
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_never_a_non_finite_value_where_finite_honest_clients_are_a_majority(name: str, data: st.DataObject) -> None:
    """Of eleven, up to five send NaN, infinity, or what overflows when squared or subtracted."""
    count = data.draw(st.integers(0, 5))
    x = rows(messages(seed=data.draw(st.integers(0, 20))))
    for liar in range(count):
        where = data.draw(st.lists(st.integers(0, x.shape[1] - 1), min_size=1, max_size=x.shape[1]))
        x[liar, where] = torch.tensor(data.draw(st.lists(bad_numbers, min_size=len(where), max_size=len(where))))
    x = x[torch.randperm(11, generator=torch.Generator().manual_seed(count))]
    single = data.draw(st.booleans())
    of = rule(name, f=0 if name == "bulyan" else 1)  # six may be left, of which bulyan bears none
    found = of({"x": x.float() if single else x}, SAME[:11])["x"]
    assert bool(torch.isfinite(found).all())


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "f", "least"),
    [("trimmed_mean", 2, 5), ("krum", 2, 7), ("multi_krum", 2, 7), ("bulyan", 2, 11), ("nnm+median", 2, 5)],
)
def test_too_few_clients_are_refused_with_the_number_needed(name: str, f: int, least: int) -> None:
    assert reduced(make_rule(name, f=f), torch.zeros(least, 2)).shape == (2,)
    with pytest.raises(
        TooFewMessages, match=f"{name.split('+')[0]} with f=2 needs at least {least} messages .* but has {least - 1}"
    ):
        reduced(make_rule(name, f=f), torch.zeros(least - 1, 2))


def test_settings_are_refused_in_words() -> None:
    for wrong, words in (
        ("medain", "did you mean 'median'"),
        ("median+krum", "'median' before a rule"),
        ("nnm", "'nnm' as the rule"),
    ):
        with pytest.raises(InputError, match=words):
            make_rule(wrong)
    with pytest.raises(InputError, match="'g' of the rule krum"):
        make_rule("krum", g=3)
    for f in (0.5, -1, -0.1):
        with pytest.raises(InputError, match="give a count from 0 up, or a fraction"):
            reduced(make_rule("trimmed_mean", f=f), torch.zeros(9, 1))
