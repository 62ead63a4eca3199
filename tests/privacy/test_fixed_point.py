"""Numbers as integers: the sum is exact, the same in any order, and no lie about a weight or a NaN gets in."""

import numpy as np
import pytest

from seedbed.errors import InputError
from seedbed.privacy.secure import FixedPointGrid
from seedbed.privacy.secure.fixed_point import add_modular


def summed(grid: FixedPointGrid, encoded: list[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(encoded[0])
    for words in encoded:
        add_modular(total, words)
    return total


@pytest.mark.parametrize(("bits", "clients"), [(20, 4096), (32, 10), (40, 2**20), (12, 2**20)])
def test_the_mean_is_right_to_a_step(bits: int, clients: int) -> None:
    """Each of n rounded products w·x is off by half a step, and so is each weight: |error of the mean| ≤
    (n·step/2)·(1 + |mean|/C)/Σw, with step = C/(2ᵇ⁻¹ − 1)."""
    rng, grid = np.random.default_rng(bits), FixedPointGrid(clip=2.0, bits=bits, clients=clients)
    x, w = rng.uniform(-2, 2, (10, 500)), rng.uniform(0.1, 1, 10)
    mean, total = grid.decode(summed(grid, [grid.encode(*pair) for pair in zip(x, w, strict=True)]))
    exact = w @ x / w.sum()
    bound = 10 * grid.step / 2 * (1 + abs(exact).max() / grid.clip) / w.sum()
    assert abs(mean - exact).max() <= bound
    assert total == pytest.approx(w.sum(), abs=10 / grid.largest)


def test_any_order_gives_the_same_bits() -> None:
    """100 orders of arrival of 50 clients' words; the floats' own sum differs between orders."""
    rng, grid = np.random.default_rng(0), FixedPointGrid()
    updates = rng.normal(size=(50, 200)) * 10.0 ** rng.integers(-6, 1, (50, 1))
    encoded = [grid.encode(u) for u in updates]
    orders = [rng.permutation(50) for _ in range(100)]
    sums = {summed(grid, [encoded[i] for i in order]).tobytes() for order in orders}
    floats = {sum(updates[i] for i in order).tobytes() for order in orders}
    assert len(sums) == 1
    assert len(floats) > 1


def test_all_at_the_ends_do_not_overflow() -> None:
    """As many clients as the grid is for, each as far out as it can be, on both sides."""
    for clients, bits in ((4096, 20), (16, 28), (3, 30)):
        grid = FixedPointGrid(clip=1.0, bits=bits, clients=clients)
        assert grid.dtype is np.uint32
        for end in (1.0, -1.0):
            total = grid.encode(np.array([end])).astype(np.uint64) * clients
            mean, weight = grid.decode(total.astype(np.uint32))
            assert mean[0] == end
            assert weight == clients


def test_a_word_is_as_small_as_it_can_be() -> None:
    assert FixedPointGrid(bits=20, clients=4096).dtype is np.uint32
    assert FixedPointGrid(bits=20, clients=4097).dtype is np.uint64


def test_far_numbers_and_weights_are_cut() -> None:
    """A weight of 1e18 counts as 1, a negative one not at all, and the cut comes before the product."""
    grid = FixedPointGrid(clip=1.0, cap=100)
    honest = grid.encode(np.array([0.5]), 100)
    assert (grid.encode(np.array([0.5]), 1e18) == honest).all()
    assert not grid.encode(np.array([0.5]), -40).any()
    assert (grid.encode(np.array([1e30])) == grid.encode(np.array([1.0]))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_sent(bad: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        FixedPointGrid().encode(np.array([0.0, bad]))
    with pytest.raises(InputError, match="NaN or infinite"):
        FixedPointGrid(cap=1.0).encode(np.array([0.0]), bad)


@pytest.mark.parametrize(
    "wrong", [{"clip": 0}, {"clip": np.inf}, {"bits": 1}, {"bits": 60}, {"clients": 0}, {"cap": 0}]
)
def test_grids_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        FixedPointGrid(**wrong)  # type: ignore[arg-type]


def test_nobody_is_a_mean_of_zero() -> None:
    mean, weight = FixedPointGrid().decode(FixedPointGrid().encode(np.ones(3), 0.0))
    assert weight == 0
    assert not mean.any()
