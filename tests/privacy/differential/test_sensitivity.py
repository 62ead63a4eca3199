"""One client changes what the server sums by the clip at most, whatever it sends. 10,000 cases: scripts/prove."""

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from seedbed import tree
from seedbed.lowrank.factored_matrix import Factored, OuterProducts
from seedbed.privacy.differential import Adaptive
from seedbed.privacy.differential.contribution_clip import clip_contribution

from .parrots import quiet, summed

FEW, MANY = 300, 10_000
HOSTILE = [0.0, -0.0, 1e-320, 5e-324, 1e308, -1e308, 1e200, math.nan, math.inf, -math.inf]

number = st.one_of(st.floats(-10, 10), st.sampled_from(HOSTILE), st.floats(width=64))
said = st.tuples(
    st.fixed_dictionaries({
        "a": st.lists(number, min_size=3, max_size=3).map(lambda x: torch.tensor(x, dtype=torch.float64)),
        "b": number.map(lambda x: torch.tensor(x, dtype=torch.float64)),
    }),
    st.sampled_from([1.0, 0.0, -40.0, 1e18, math.nan, math.inf]),  # the weight that a client claims
)  # fmt: skip
cases = given(
    others=st.lists(said, min_size=1, max_size=5),
    one=said,
    clip=st.sampled_from([1e-6, 0.1, 1.0, 50.0]),
    groups=st.integers(1, 3),
    adaptive=st.booleans(),
)
LIKE = {"a": torch.zeros(3, dtype=torch.float64), "b": torch.tensor(0.0, dtype=torch.float64)}


def one_client_more(others: Any, one: Any, clip: float, groups: int, adaptive: bool) -> None:
    """‖Σ with − Σ without‖ ≤ C, and where the clip adapts the number within it moves by 1/2. Rounding of sums apart."""
    algorithm = quiet(LIKE, Adaptive(start=clip) if adaptive else clip)
    state = algorithm.init(LIKE)
    sums = []
    for cohort in (others, [*others, one]):
        replies = summed(algorithm, state, cohort, groups)
        assert replies.weights.tolist() == [1.0] * len(cohort)
        assert not replies.info
        sums.append(tree.scale(replies.weights.sum(), replies.value))
    change = tree.sub(sums[1], sums[0])
    assert float(tree.squared_norm(change.value)) ** 0.5 <= clip * (1 + 1e-12)
    if adaptive:
        assert abs(float(change.within)) <= 0.5 + 1e-12
    after = algorithm.server(state, replies)
    assert tree.is_finite(after)


@cases
@settings(max_examples=FEW, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_sensitivity(**case: Any) -> None:
    one_client_more(**case)


@pytest.mark.slow
@cases
@settings(max_examples=MANY, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_sensitivity_ten_thousand_times(**case: Any) -> None:
    one_client_more(**case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rounding_carries_over_the_clip(dtype: torch.dtype) -> None:
    """2,000 random values, in the precision they are sent in, measured in double."""
    g = torch.Generator().manual_seed(0)
    for _ in range(2000):
        scale = 10 ** float(torch.empty(()).uniform_(-3, 3, generator=g))
        value = {"x": (scale * torch.randn(50, generator=g, dtype=torch.float64)).to(dtype)}
        got, within = clip_contribution(value, 0.3)
        assert float((got["x"].double() ** 2).sum().sqrt()) <= 0.3
        if within:
            assert torch.equal(got["x"], value["x"])


def test_direction_and_length() -> None:
    """3-4-5 over two leaves, clip 1: each number a fifth."""
    got, within = clip_contribution({"a": torch.tensor([3.0]), "b": torch.tensor(4.0)}, 1.0)
    assert got["a"].tolist() == pytest.approx([0.6], abs=1e-6)
    assert float(got["b"]) == pytest.approx(0.8, abs=1e-6)
    assert within == 0


def test_the_largest_number_of_all_is_shortened_to_the_clip() -> None:
    """1e-6 / 1.8e308 is less than the smallest number with all its digits: as a factor it would miss C by 1e-10."""
    value = {"x": torch.tensor([torch.finfo(torch.float64).max, 0.0], dtype=torch.float64)}
    kept, within = clip_contribution(value, 1e-6)
    assert 1 - 1e-14 < float(kept["x"][0]) / 1e-6 <= 1
    assert not within


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_contributes_zero(bad: float) -> None:
    got, within = clip_contribution({"a": torch.tensor([3.0, bad]), "b": torch.tensor(4.0)}, 1.0)
    assert got["a"].tolist() == [0, 0]
    assert got["b"] == 0
    assert within == 0


def test_zero_and_large_stay_right() -> None:
    """Zero divides nothing by zero; 1e30 in single precision has a square that overflows there."""
    got, within = clip_contribution({"a": torch.zeros(3)}, 1.0)
    assert got["a"].tolist() == [0, 0, 0]
    assert within == 1
    got, _ = clip_contribution({"a": torch.tensor([1e30, 0.0], dtype=torch.float32)}, 2.0)
    assert got["a"].tolist() == pytest.approx([2.0, 0.0], rel=1e-5)


def test_it_runs_for_many_clients_at_once() -> None:
    values = {"a": torch.tensor([[3.0, 4.0], [0.0, 0.0], [math.nan, 1.0], [0.3, 0.4]])}
    got, within = torch.func.vmap(lambda v: clip_contribution(v, 1.0))(values)
    assert torch.allclose(got["a"], torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0], [0.3, 0.4]]), atol=1e-6)
    assert within.tolist() == [0, 1, 0, 1]


# ---- matrices that are not formed ------------------------------------------------------------------------------


def unformed(g: torch.Generator, dtype: torch.dtype, scale: float, *, cancelling: float = 0.0) -> Factored:
    """Some rows of a 40 × 30 matrix; cancelling: 1 has the second half take back what the first half says."""
    n = 2 * int(torch.randint(1, 20, (), generator=g))
    x, d = (torch.randn(n, k, generator=g, dtype=torch.float64) for k in (30, 40))
    c = torch.randn(n, generator=g, dtype=torch.float64)
    x[n // 2 :] += cancelling * (x[: n // 2] - x[n // 2 :])
    d[n // 2 :] += cancelling * (d[: n // 2] - d[n // 2 :])
    c[n // 2 :] += cancelling * (-c[: n // 2] - c[n // 2 :])
    rows = OuterProducts()
    rows.add(x.to(dtype), (scale * d).to(dtype))
    return Factored((), ((c.to(dtype), rows),), torch.empty(40, 30, dtype=dtype))


def exactly(matrix: Factored) -> Tensor:
    """It in double precision, of the numbers as they are."""
    c, x, d = (part.double() for part in matrix._all_rows())
    return (c[:, None] * d).T @ x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cancelling", [0.0, 0.999, 1.0])
def test_unformed_nothing_carries_over_the_clip_either(dtype: torch.dtype, cancelling: float) -> None:
    """500 random matrices beside a plain leaf, however they are multiplied out: measured in double, they are no longer
    than the clip, and but for a thousandth as long as if they had been formed first."""
    g, stayed = torch.Generator().manual_seed(0), 0
    for _ in range(500):
        scale = 10 ** float(torch.empty(()).uniform_(-12, 8, generator=g))
        matrix, bias = unformed(g, dtype, scale, cancelling=cancelling), scale * torch.randn(40, generator=g).to(dtype)
        got, within = clip_contribution({"w": matrix, "b": bias}, 0.3)
        want, was = clip_contribution({"w": matrix.dense(), "b": bias}, 0.3)
        ways = [tree.form_unformed(got["w"])] + [exactly(x) for x in (got["w"],) if isinstance(x, Factored)]
        for way in ways:
            length = float(tree.squared_norm({"w": way.double(), "b": got["b"].double()}).sqrt())
            assert length <= 0.3
            assert within or length >= 0.299
        assert within <= was
        assert (tree.form_unformed(got["w"]) - want["w"]).abs().max() <= 1e-3 * want["w"].abs().max()
        stayed += isinstance(got["w"], Factored)
    assert {0.0: stayed == 500, 1.0: stayed == 0}.get(cancelling, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38])
def test_unformed_what_is_not_finite_contributes_zero(bad: float) -> None:
    """1e38·1e38 is not finite in single precision; a finite matrix beside what is not contributes zero too."""
    matrix = unformed(torch.Generator().manual_seed(0), torch.float32, 1.0)
    good, _ = clip_contribution({"w": matrix, "b": torch.tensor(3.0)}, 1.0)
    assert isinstance(good["w"], Factored)
    got, within = clip_contribution({"w": matrix, "b": torch.tensor(math.inf)}, 1.0)
    assert not within
    assert not tree.form_unformed(got["w"]).any()
    rows = OuterProducts()
    like = torch.empty(40, 30, dtype=torch.float32)
    rows.add(like.new_full((1, 30), bad), like.new_full((1, 40), bad))
    got, within = clip_contribution({"w": Factored((), ((like.new_ones(1), rows),), like), "b": like.new_ones(2)}, 1.0)
    assert not within
    assert not tree.form_unformed(got["w"]).any()
    assert not got["b"].any()


def test_unformed_extremes_are_formed() -> None:
    """A multiple of a given matrix, lengths that coefficients could not hold: as if they had come dense."""
    matrix = unformed(torch.Generator().manual_seed(1), torch.float32, 1.0)
    more = matrix + torch.ones(40, 30, dtype=torch.float32)
    for hard, bound in ((more, 0.5), (matrix, 1e-25), (matrix * 1e30, 1.0), (matrix * 0, 1.0)):
        got, within = clip_contribution({"w": hard}, bound)
        want, was = clip_contribution({"w": hard.dense()}, bound)
        assert within == was
        assert torch.equal(got["w"], want["w"])
