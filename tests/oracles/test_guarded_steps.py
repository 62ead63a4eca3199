"""A client's gradient steps never raise its loss on the support set: closed forms, and algorithms that take them."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from seedbed.algorithms.anil import anil
from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.fedrep import fedrep
from seedbed.algorithms.lg_fedavg import lg_fedavg
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.data.types import Batch
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import gradient_steps, guarded_steps
from seedbed.learning.finetuning import FineTuning, Tunable, finetune
from seedbed.learning.guarding import HALVINGS, guarded_path, kept_start
from seedbed.learning.objectives import cross_entropy
from seedbed.learning.parameter_subsets import inside_part

from .bench import CLASSES, apart, batch, features, loss, network, predict


def valley(curvature: Tensor, start: Tensor, *, lr: float, steps: int) -> list[Tensor]:
    """The path down ½a·w²."""
    found: list[Tensor] = guarded_path(
        lambda w: (curvature * w, curvature * w * w / 2), lambda w: curvature * w * w / 2, start, lr=lr, steps=steps
    )
    return found


def test_a_step_that_overshoots_is_taken_back_and_halved() -> None:
    """½a·w² with a = 4: a step of rate α multiplies w by 1 − 4α. At α = .8 w² rises; at .4 it is times −.6."""
    path = valley(torch.tensor(4.0), torch.tensor(1.0), lr=0.8, steps=4)
    assert torch.allclose(torch.stack(path), torch.tensor([1.0, 1.0, -0.6, 0.36, -0.216]), atol=1e-12)


def test_the_rate_is_halved_six_times_and_no_more() -> None:
    """At α = 2⁷·(.6) each step of a = 4 overshoots until seven halvings: it stays. At half of it, it moves last."""
    stays = valley(torch.tensor(4.0), torch.tensor(1.0), lr=2.0 ** (HALVINGS + 1) * 0.6, steps=12)
    assert torch.equal(torch.stack(stays), torch.ones(13))
    moves = valley(torch.tensor(4.0), torch.tensor(1.0), lr=2.0**HALVINGS * 0.4, steps=HALVINGS + 1)
    assert moves[HALVINGS] == 1
    assert abs(moves[-1] + 0.6) < 1e-12


def test_every_client_of_a_stack_has_a_rate_of_its_own() -> None:
    """Under vmap, flat and steep valleys together are each as it is by itself."""
    curvatures, starts = torch.tensor([0.5, 4.0, 40.0, 1e6]), torch.tensor([1.0, 2.0, -3.0, 1.0])
    together = vmap(lambda a, w: torch.stack(valley(a, w, lr=0.8, steps=9)))(curvatures, starts)
    for a, w, path in zip(curvatures, starts, together, strict=True):
        assert torch.allclose(path, torch.stack(valley(a, w, lr=0.8, steps=9)), atol=1e-12)
        assert (path.diff().sign() * 0 == 0).all()
        assert (path.square().diff() <= 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_the_start_and_can_be_named(bad: float) -> None:
    def broken(params: Mapping[str, Tensor], item: Batch) -> Tensor:
        w = params["w"]
        return torch.where(w == 1.0, (w * w).sum(), bad * w.sum())

    start = {"w": torch.tensor(1.0)}
    found = guarded_steps(broken, lr=0.1, steps=5)(start, batch(0))
    assert found["w"] == 1
    assert kept_start(start, found)
    fine = guarded_steps(lambda p, item: (p["w"] ** 2).sum(), lr=0.1, steps=5)(start, batch(0))
    assert not kept_start(start, fine)


@pytest.mark.parametrize("head_only", [False, True])
def test_where_the_loss_falls_it_is_plain_gradient_steps(head_only: bool) -> None:
    moves: Any = {"moves": inside_part("head")} if head_only else {}
    plain = gradient_steps(loss, lr=0.1, steps=6, **moves)(network(), batch(0, padding=2))
    assert apart(plain, guarded_steps(loss, lr=0.1, steps=6, **moves)(network(), batch(0, padding=2))) < 1e-12


def test_the_head_by_its_outputs_is_the_head_by_its_parameters() -> None:
    """At a rate at which steps are taken back: `guarded_head_steps`, and the same through a loss that it cannot look
    into."""
    quick, slow = (
        guarded_steps(one, lr=30.0, steps=9, moves=inside_part("head"))(network(), batch(0, padding=2))
        for one in (loss, lambda params, item: loss(params, item))
    )
    assert apart(quick, slow) < 1e-10
    assert apart(quick, network()) > 0.01


LARGE = 1e4
ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "anil": lambda: anil(loss, lr=LARGE, steps=5),
    "ditto": lambda: ditto(loss, lam=0.1, test_lr=LARGE, test_steps=5),
    "fedbabu": lambda: fedbabu(loss, test_lr=LARGE, test_steps=5),
    "fedmeta": lambda: fedmeta(loss, lr=LARGE, steps=5),
    "fedper": lambda: fedper(loss, test_lr=LARGE, test_steps=5),
    "fedrep": lambda: fedrep(loss, test_lr=LARGE, test_steps=5),
    "lg_fedavg": lambda: lg_fedavg(loss, test_lr=LARGE, test_steps=5),
    "per_fedavg": lambda: per_fedavg(loss, alpha=LARGE, test_steps=5),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_absurd_rate_leaves_every_algorithm_at_its_start_or_better(name: str) -> None:
    algorithm, support = ALGORITHMS[name](), batch(3)
    sent = algorithm.send(algorithm.init(network()), 0)
    before = algorithm.remember(sent)
    start = {**network(), **{n: p for n, p in (before.items() if isinstance(before, dict) else ()) if n in network()}}
    adapted = algorithm.personalise(sent, before, support)
    assert loss(adapted, support) <= loss(start, support) + 1e-12


def test_an_absurd_rate_leaves_a_solved_head_as_it_is_or_better() -> None:
    support = batch(3)
    solved, adapted = (
        algorithm.personalise(algorithm.send(algorithm.init(network()), 0), {}, support)
        for algorithm in (fed_proto(loss, features, ways=CLASSES, test_steps=k, test_lr=LARGE) for k in (0, 5))
    )
    assert loss(adapted, support) <= loss(solved, support)


@pytest.mark.parametrize("layers", ["all", "head", "head_then_all"])
def test_fine_tuning_never_ends_worse_than_it_began(layers: Any) -> None:
    """At rates up to 1e6; and the loss falls along the path."""
    model, support = Tunable(predict, features, cross_entropy, "head"), batch(5)
    for lr in (0.1, 10.0, 1e6):
        how = FineTuning(layers, steps=9, lr=lr, head_steps=9, head_lr=lr)
        path = finetune(model, how, at=range(10))(network(), support)
        losses = [loss({n: p[k] for n, p in path.items()}, support) for k in range(10)]
        assert losses[0] <= loss(network(), support) + 1e-12
        assert all(b <= a + 1e-12 for a, b in pairwise(losses))
