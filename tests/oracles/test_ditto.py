"""Ditto: the personal model's fixed point and path, its two limits, and a global model that does not feel it."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.local import local
from seedbed.data.types import Batch, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.learning.optimizers import adam, sgd
from seedbed.rounds.synchronous import gather

from .bench import D, Given, apart, batch, bowl, bowls, final, loss, network, power, sent_by, start, task

EXAMPLES = (4.0, 1.0, 2.0)


@functools.cache
def work() -> list[list[Batch]]:
    """Three clients' batches."""
    return [[batch(0), batch(1)], [batch(2)], [batch(3), batch(4), batch(5)]]


@functools.cache
def clients() -> list[Task]:
    return [task(*mine, examples=n) for mine, n in zip(work(), EXAMPLES, strict=True)]


def memory_of(algorithm: Any, count: int = 3, kind: Any = OneByOne, **settings: Any) -> Any:
    """What clients keep after so many rounds on the network."""
    engine = kind(Given(clients()))
    final(algorithm, clients(), network(), count, lambda _: engine, **settings)
    return dict(engine.memory())


def best(item: Any, theta: Tensor, lam: float) -> Tensor:
    """argmin ½(v − c)ᵀA(v − c) + (λ/2)‖v − θ‖² = (A + λI)⁻¹(Ac + λθ)."""
    return torch.linalg.solve(item["A"] + lam * torch.eye(D), item["A"] @ item["c"] + lam * theta)


def test_the_personal_path_and_its_end() -> None:
    """s steps from v: v_s − v* = (I − η(A + λI))^s (v − v*) with v* = (A + λI)⁻¹(Ac + λθ), θ being the round's, as
    it was sent: not what the same client makes of it (which the order of the two trainings could confuse)."""
    lam, eta = 0.8, 0.2
    for item, steps in zip(bowls(3), (1, 4, 150), strict=True):
        algorithm = ditto(bowl, lam=lam, local=sgd(0.3), personal=sgd(eta))
        v, theta = start(8)["w"], start()["w"]
        _, kept = algorithm.client(start(), start(8), task(*[item] * steps))
        shrink = power(torch.eye(D) - eta * (item["A"] + lam * torch.eye(D)), steps)
        assert apart(kept["w"], best(item, theta, lam) + shrink @ (v - best(item, theta, lam))) < 1e-14
    assert apart(kept["w"], best(item, theta, lam)) < 1e-12  # 150 steps


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
def test_the_global_model_is_fedavgs(kind: Any) -> None:
    """Whatever λ and the personal optimiser: bit for bit; so is the message, whatever v."""
    plain = final(fedavg(loss, local=sgd(0.3), outer=adam(0.1)), clients(), network(), 3, kind)
    for lam in (0.0, 0.7, 3.0):
        algorithm = ditto(loss, lam=lam, local=sgd(0.3), outer=adam(0.1))
        assert apart(final(algorithm, clients(), network(), 3, kind), plain) == 0
        message = algorithm.client(network(), network(5), clients()[0])[0]
        assert apart(message.value, sent_by(fedavg(loss, local=sgd(0.3)), clients()[0], network())) == 0
        assert message.info.keys() == {"loss"}


@pytest.mark.parametrize("personal", [sgd(0.1), sgd(0.1, momentum=0.9), adam(0.02)], ids=repr)
def test_lambda_of_zero_is_local_training(personal: Any) -> None:
    """v_i never feels θ."""
    a, b = memory_of(ditto(loss, lam=0.0, personal=personal)), memory_of(local(loss, local=personal))
    assert apart(a, b) < 1e-15


def test_a_large_lambda_holds_v_at_the_rounds_model() -> None:
    """η = 1/λ: v ← v − ∇L(v)/λ − (v − θ) = θ − ∇L(v)/λ, within ‖∇L‖/λ of θ after every step, wherever v was."""
    for lam in (1e2, 1e4, 1e6):
        _, v = ditto(loss, lam=lam, personal=sgd(1 / lam)).client(network(), network(5), clients()[0])
        assert apart(v, network()) < 10 / lam


def test_a_client_first_seen_late_begins_at_what_it_is_sent() -> None:
    """Zero personal steps leave v where it began: at the θ of the client's first round."""
    engine = OneByOne(Given(clients()))
    algorithm = ditto(loss, personal=sgd(0.0))
    states = [algorithm.init(network())]
    for number, cohort in enumerate(([0], [0, 1], [0, 1, 2])):
        groups = list(engine.ask(algorithm, dict.fromkeys(cohort, states[-1].params), number))
        states.append(algorithm.server(states[-1], gather(algorithm, groups, 3)))
    for c in range(3):
        assert apart(engine.memory()[c], states[c].params) == 0
    assert apart(states[0].params, states[1].params) > 1e-2


def test_adapting_is_proximal_steps() -> None:
    """s steps on the support set around θ, from θ for a newcomer and from v for a known client; none is v itself.
    Many are v*."""
    item, lam, eta = bowls(1)[0], 0.8, 0.2
    for begun in (ditto(bowl).remember(start()), start(8)):
        for steps in (0, 3, 150):
            adapt = ditto(bowl, lam=lam, test_lr=eta, test_steps=steps).personalise
            shrink = power(torch.eye(D) - eta * (item["A"] + lam * torch.eye(D)), steps)
            want = best(item, start()["w"], lam) + shrink @ (begun["w"] - best(item, start()["w"], lam))
            assert apart(adapt(start(), begun, item)["w"], want) < 1e-14
