"""FedDyn: Algorithm 1 in plain loops."""

import pytest
import torch

from seedbed.algorithms.feddyn import feddyn
from seedbed.errors import InputError

from .bench import D, apart, bowl, bowls, rounds, start, task


def test_rounds_are_algorithm_1() -> None:
    """Eight rounds of two of three clients, 4 steps of rate .1 each, α = .5."""
    items, theta, h, g = bowls(3), start()["w"], torch.zeros(D), [torch.zeros(D)] * 3
    for got in rounds(feddyn(bowl, alpha=0.5), [task(*[i] * 4) for i in items], start(), 8, cohort=2, seed=1):
        ends = dict.fromkeys(got.clients, theta)
        for i in [*got.clients] * 4:
            ends[i] = ends[i] - 0.1 * (items[i]["A"] @ (ends[i] - items[i]["c"]) - g[i] + 0.5 * (ends[i] - theta))
        g = [g[i] - 0.5 * (ends[i] - theta) if i in ends else g[i] for i in range(3)]
        h = h - 0.5 * sum((end - theta for end in ends.values()), torch.zeros(D)) / 3
        theta = sum(ends.values(), torch.zeros(D)) / 2 - h / 0.5
        assert apart(got.state.params["w"], theta) < 1e-12


def test_it_ends_at_the_joint_optimum() -> None:
    """With few local steps on unlike clients, where FedAvg ends elsewhere: Theorem 1."""
    items = bowls(3)
    optimum = torch.linalg.solve(sum(i["A"] for i in items), sum(i["A"] @ i["c"] for i in items))
    [*_, last] = rounds(feddyn(bowl, alpha=0.5), [task(*[i] * 40) for i in items], start(), 150)
    assert apart(last.state.params["w"], optimum) < 1e-6


def test_alpha_is_above_0() -> None:
    with pytest.raises(InputError, match="alpha=0: it must be above 0"):
        feddyn(bowl, alpha=0.0)
