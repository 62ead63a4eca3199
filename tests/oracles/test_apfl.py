"""APFL: the mixture's gradients, its two ends, the rate of mixing."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.apfl import APFLState, apfl
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.local import local
from seedbed.data.types import Batch, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.federated import uniform
from seedbed.learning.optimizers import adam, sgd

from .bench import D, Given, apart, batch, bowl, bowls, final, loss, network, plain_loss, power, start, task

EXAMPLES = (4.0, 1.0, 2.0)


@functools.cache
def work() -> list[list[Batch]]:
    """Three clients' batches."""
    return [[batch(0), batch(1)], [batch(2)], [batch(3), batch(4), batch(5)]]


@functools.cache
def clients() -> list[Task]:
    return [task(*mine, examples=n) for mine, n in zip(work(), EXAMPLES, strict=True)]


def memory_of(algorithm: Any, count: int = 3, kind: Any = OneByOne) -> Any:
    """What clients keep after so many rounds on the network."""
    engine = kind(Given(clients()))
    final(algorithm, clients(), network(), count, lambda _: engine)
    return dict(engine.memory())


def plain_step(w: Any, v: Any, a: Tensor, b: Any, *, lr: float, a_lr: float) -> tuple[Any, Any, Tensor]:
    """One step of Algorithm 1 by autograd: the loss at v̄ = αv + (1−α)w, differentiated for v and for α with w
    constant; the loss at w for w. All from where they were."""
    w_at, v_at = ({n: p.clone().requires_grad_() for n, p in tree_.items()} for tree_ in (w, v))
    a_at = a.clone().requires_grad_()
    g_w = torch.autograd.grad(plain_loss(w_at, b), list(w_at.values()))
    mixture = {n: a_at * v_at[n] + (1 - a_at) * w[n] for n in v}
    *g_v, g_a = torch.autograd.grad(plain_loss(mixture, b), [*v_at.values(), a_at])
    return (
        {n: w[n] - lr * g for n, g in zip(w, g_w, strict=True)},
        {n: v[n] - lr * g for n, g in zip(v, g_v, strict=True)},
        (a - a_lr * g_a).clamp(0, 1),
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_one_step_against_autograd(alpha: float) -> None:
    """∂L(v̄)/∂v = α∇L(v̄) and ∂L(v̄)/∂α = ⟨v − w, ∇L(v̄)⟩. (The authors' code takes for the latter
    ⟨v − w, (α² + (1−α)²)∇L(v̄)⟩ + .02α.)"""
    w, v, a = network(), network(5), torch.tensor(alpha)
    after_w, after_v, after_a = plain_step(w, v, a, batch(0), lr=0.2, a_lr=1e-3)
    algorithm = apfl(loss, alpha_lr=1e-3, local=sgd(0.2), personal=sgd(0.2))
    message, own = algorithm.client(w, APFLState(v, a), task(batch(0)))
    assert apart(tree.sub(w, message.value), after_w) < 1e-14
    assert apart(own, APFLState(after_v, after_a)) < 1e-14
    if 0 < alpha < 1:
        assert abs(float(after_a - a)) > 1e-5


def test_rounds_as_in_plain_pytorch() -> None:
    """Three rounds, three clients, the plain mean of their w, on both engines."""
    w, own = network(), {i: (network(), torch.tensor(0.4)) for i in range(3)}
    for _ in range(3):
        ends = []
        for i, mine in enumerate(work()):
            local_w, (v, a) = w, own[i]
            for b in mine:
                local_w, v, a = plain_step(local_w, v, a, b, lr=0.3, a_lr=0.5)
            own[i] = v, a
            ends.append(local_w)
        w = {n: sum(e[n] for e in ends) / 3 for n in w}
    algorithm = apfl(loss, alpha=0.4, alpha_lr=0.5, local=sgd(0.3), personal=sgd(0.3))
    assert len({float(a) for _, a in own.values()}) == 3
    for kind in (OneByOne, Vectorised):
        assert apart(final(algorithm, clients(), network(), 3, kind).params, w) < 1e-13
        assert apart(memory_of(algorithm, 3, kind), {i: APFLState(*pair) for i, pair in own.items()}) < 1e-13


def test_alpha_of_zero_is_the_global_model() -> None:
    """v̄ = w: v never moves, its gradient being α∇L(v̄) = 0, and the client's model is the server's."""
    algorithm = apfl(loss, alpha=0.0, alpha_lr=0.0)
    state = final(algorithm, clients(), network(), 3)
    assert apart(state, final(uniform(fedavg(loss)), clients(), network(), 3)) < 1e-15
    for own in memory_of(algorithm).values():
        assert apart(own, APFLState(network(), torch.zeros(()))) == 0
        assert apart(algorithm.personalise(state.params, own, batch(7)), state.params) == 0


@pytest.mark.parametrize("personal", [sgd(0.1), sgd(0.1, momentum=0.9), adam(0.02)], ids=repr)
def test_alpha_of_one_is_local_training(personal: Any) -> None:
    """v̄ = v: w is no part of it. To 1e-13: w + 1·(v − w) is v up to rounding."""
    kept = memory_of(apfl(loss, alpha=1.0, alpha_lr=0.0, personal=personal))
    assert apart({c: own.v for c, own in kept.items()}, memory_of(local(loss, local=personal))) < 1e-13


def test_the_global_model_is_fedavgs_whatever_the_mixture() -> None:
    """And nothing of v and α is in the message."""
    plain = final(uniform(fedavg(loss, local=sgd(0.3), outer=adam(0.1))), clients(), network(), 3)
    for alpha in (0.2, 0.9):
        algorithm = apfl(loss, alpha=alpha, local=sgd(0.3), outer=adam(0.1))
        assert apart(final(algorithm, clients(), network(), 3), plain) < 1e-15
    a, b = (algorithm.client(network(), APFLState(network(k), torch.tensor(0.1 * k)), clients()[0])[0] for k in (3, 4))
    assert apart(a, b) == 0
    assert a.info.keys() == {"loss"}


def test_alpha_stays_a_weight() -> None:
    """It ends at 0 or 1 where the step would go beyond; where v = w it has no slope and stays, for nothing pulls it
    but the loss."""
    w, v = network(), network(5)
    moved = [apfl(loss, alpha_lr=lr).client(w, APFLState(v, torch.tensor(0.5)), task(batch(0)))[1] for lr in (1e6, 0.0)]
    assert float(moved[0].alpha) in (0.0, 1.0)
    assert float(moved[1].alpha) == 0.5
    assert float(apfl(loss).client(w, APFLState(w, torch.tensor(0.5)), task(batch(0)))[1].alpha) == 0.5
    with pytest.raises(InputError, match="between 0"):
        apfl(loss, alpha=1.5)


def test_adapting_trains_the_own_model_under_the_mixture() -> None:
    """On a quadratic, with w = θ fixed: v̄ ← v̄ − ηα²A(v̄ − c), so v̄_s − c = (I − ηα²A)^s (v̄ − c), from v̄ = θ for a
    newcomer and from the mixture with its v for a known client."""
    item, alpha, eta = bowls(1)[0], 0.7, 0.5
    for begun in (apfl(bowl, alpha=alpha).remember(start()), APFLState(start(8), torch.tensor(0.7))):
        mixed = alpha * begun.v["w"] + (1 - alpha) * start()["w"]
        for steps in (0, 4):
            got = apfl(bowl, alpha=alpha, test_lr=eta, test_steps=steps).personalise(start(), begun, item)["w"]
            shrink = power(torch.eye(D) - eta * alpha**2 * item["A"], steps)
            assert apart(got, item["c"] + shrink @ (mixed - item["c"])) < 1e-14
