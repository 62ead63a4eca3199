"""Optimisers against torch.optim, step by step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from seedbed.learning import optimizers
from seedbed.learning.optimizers import Optimizer

from .bench import apart

CASES: list[tuple[Optimizer, Callable[..., torch.optim.Optimizer], dict[str, Any]]] = [
    (optimizers.sgd(0.1), torch.optim.SGD, {"lr": 0.1}),
    (optimizers.sgd(0.1, weight_decay=0.3), torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3}),
    (optimizers.sgd(0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (
        optimizers.sgd(0.1, momentum=0.8, nesterov=True, weight_decay=0.05),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
    ),
    (optimizers.adam(0.01), torch.optim.Adam, {"lr": 0.01}),
    (
        optimizers.adam(0.02, beta1=0.5, beta2=0.9, epsilon=1e-3),
        torch.optim.Adam,
        {"lr": 0.02, "betas": (0.5, 0.9), "eps": 1e-3},
    ),
    (
        optimizers.adam(0.01, weight_decay=0.2),
        torch.optim.AdamW,
        {"lr": 0.01, "weight_decay": 0.2},
    ),
    (
        optimizers.adam(0.01, beta1=0.0, weight_decay=0.2),
        torch.optim.AdamW,
        {"lr": 0.01, "betas": (0.0, 0.999), "weight_decay": 0.2},
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "settings"), CASES, ids=[repr(c[0]) for c in CASES])
def test_every_step_is_that_of_torch(
    ours: Optimizer, theirs: Callable[..., torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    """The same gradients give the same path, over 20 steps; torch's is the reference.

    Gradients change sign and size from step to step, so that momentum, second moments and decay all count.
    """
    g = torch.Generator().manual_seed(0)
    params = {"a": torch.randn(3, generator=g), "b": torch.randn(2, 2, generator=g)}
    twins = {n: torch.nn.Parameter(p.clone()) for n, p in params.items()}
    reference, state = theirs(list(twins.values()), **settings), ours.init(params)
    for step in range(20):
        grads = {n: (1 + step % 3) * torch.randn(p.shape, generator=g) for n, p in params.items()}
        for n, twin in twins.items():
            twin.grad = grads[n].clone()
        reference.step()
        params, state = ours.update(grads, state, params)
        assert apart(params, {n: p.detach() for n, p in twins.items()}) < 1e-13


@pytest.mark.parametrize("make", [optimizers.sgd, optimizers.adam])
def test_schedules_multiply_the_rate(make: Callable[..., Optimizer]) -> None:
    """linear(4): 1, ¾, ½, ¼, 0, 0 …; cosine(4): ½(1 + cos(πt/4)). The t-th step of a scheduled optimiser is
    that of torch's with lr·schedule(t), t counted from 0."""
    names = {optimizers.sgd: torch.optim.SGD, optimizers.adam: torch.optim.Adam}
    for schedule, factors in (
        (optimizers.linear(4), [1, 0.75, 0.5, 0.25, 0, 0]),
        (optimizers.cosine(2), [1, 0.5, 0, 0]),
        (optimizers.linear(2, end=0.2), [1, 0.6, 0.2, 0.2]),
        (optimizers.constant(), [1, 1, 1]),
    ):
        ours, params, twin = (
            make(0.1, schedule=schedule),
            {"w": torch.ones(2)},
            torch.nn.Parameter(torch.ones(2)),
        )
        reference, state = names[make]([twin], lr=0.1), ours.init(params)
        for factor in factors:
            reference.param_groups[0]["lr"] = 0.1 * factor
            twin.grad = twin.detach() * torch.tensor([1.0, -2.0])
            params, state = ours.update({"w": params["w"] * torch.tensor([1.0, -2.0])}, state, params)
            reference.step()
            assert apart(params["w"], twin.detach()) < 1e-14


def test_settings_say_how_it_was_built() -> None:
    """A setting that differs from its default must be written down, also where it is zero or False: a
    manifest from which `bias_correction=False` is missing rebuilds another optimiser."""
    for build, settings in (
        (optimizers.adam, {"lr": 0.1, "bias_correction": False, "beta1": 0.0}),
        (optimizers.adam, {"lr": 0.0, "epsilon": 0.0}),
        (optimizers.sgd, {"lr": 0.0}),
        (optimizers.sgd, {"lr": 0.3, "momentum": 0.9, "nesterov": True}),
    ):
        made = build(**settings)  # type: ignore[operator]
        assert settings.items() <= made.settings.items()
        assert build(**made.settings).settings == made.settings  # type: ignore[operator]
