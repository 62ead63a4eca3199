"""Reptile: the outer step, its schedule, its relatives."""

from typing import Any

import pytest
import torch

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.reptile import reptile
from seedbed.federated import uniform
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.optimizers import linear, sgd

from .bench import (
    ENGINES,
    D,
    apart,
    batch,
    bowl,
    bowls,
    final,
    loss,
    network,
    power,
    rounds,
    sent_by,
    start,
    task,
)

STEPS, EXAMPLES = [2, 5, 3], [3.0, 1.0, 20.0]


def clients() -> list[Any]:
    return [task(*[i] * k, examples=n) for i, k, n in zip(bowls(3), STEPS, EXAMPLES, strict=True)]


@pytest.mark.parametrize("engine", ENGINES)
def test_outer_steps_on_quadratics(engine: Any) -> None:
    """W_i − θ = −M_i(θ − c_i) with M_i = I − (I − αA_i)^k_i, so θ ← θ − (ε_t/m)Σ_i M_i(θ − c_i), the *plain*
    mean although clients hold unequal data; ε_t goes linearly from ε to 0 over four rounds and stays
    there.

    A published defect (pfl-research): a Reptile whose class body is empty, that is ε = 1 and weights n_i.
    """
    alpha, w = 0.2, start()["w"]
    m = [torch.eye(D) - power(torch.eye(D) - alpha * i["A"], k) for i, k in zip(bowls(3), STEPS, strict=True)]
    made = reptile(bowl, epsilon=0.6, schedule=linear(4), local=sgd(alpha))
    for t, got in enumerate(rounds(made, clients(), start(), 6, engine)):
        epsilon = 0.6 * max(0.0, 1 - t / 4)
        w = w - epsilon * sum(x @ (w - i["c"]) for x, i in zip(m, bowls(3), strict=True)) / 3
        assert apart(got.state.params["w"], w) < 1e-14


def test_one_step_is_joint_sgd() -> None:
    """k = 1: W_i − θ = −α∇L_i(θ), so θ ← θ − εα·mean ∇L_i: joint SGD of rate εα."""
    tasks = [task(batch(c), examples=c + 1) for c in range(4)]
    a = final(reptile(loss, epsilon=0.3, local=sgd(0.5)), tasks, network(), 4)
    b = final(uniform(fedsgd(loss, outer=sgd(0.3 * 0.5))), tasks, network(), 4)
    assert apart(a.params, b.params) < 1e-14


def test_it_is_uniform_fedavg_with_a_server_rate() -> None:
    """θ + ε·mean(W_i − θ) is a server step of SGD(ε) on the plain mean of θ − W_i; ε = 1 is the mean of the
    models: the mission's "distributed MAML"."""
    for epsilon in (0.25, 1.0):
        a = final(reptile(bowl, epsilon=epsilon, local=sgd(0.2)), clients(), start(), 4)
        b = final(uniform(fedavg(bowl, local=sgd(0.2), outer=sgd(epsilon))), clients(), start(), 4)
        assert apart(a.params, b.params) < 1e-15
    moved = [sent_by(fedavg(bowl, local=sgd(0.2)), t, start()) for t in clients()]
    models = tree.stack([tree.sub(start(), x) for x in moved])
    mean = tree.map(lambda x: x.mean(0), models)
    assert apart(final(reptile(bowl, local=sgd(0.2)), clients(), start()).params, mean) < 1e-15


def test_a_rate_for_the_sum_is_that_for_the_mean_over_the_cohort() -> None:
    """θ + ε_sum·Σ_i(W_i − θ) = θ + ε_mean·mean_i(W_i − θ) with ε_mean = m·ε_sum."""
    moved = [sent_by(fedavg(bowl, local=sgd(0.2)), t, start()) for t in clients()]
    by_sum = start()["w"] - 0.1 * sum(x["w"] for x in moved)
    got = final(reptile(bowl, epsilon=3 * 0.1, local=sgd(0.2)), clients(), start()).params["w"]
    assert apart(got, by_sum) < 1e-15


def test_the_direction_is_avggrad_and_avggradinner() -> None:
    """Nichol et al. 2018, eq. 34–36: (θ − W)/α = k·g̅ − (α k(k−1)/2)·ḡ' + O(α²), where the same batch in each
    step gives g̅ = A(θ − c) and ḡ' = A²(θ − c). The remainder falls a hundredfold when α falls tenfold.
    """
    item, k = bowls(1)[0], 4
    g = item["A"] @ (start()["w"] - item["c"])

    def remainder(alpha: float) -> float:
        sent = sent_by(reptile(bowl, local=sgd(alpha)), task(*[item] * k), start())["w"]
        return apart(sent / alpha, k * g - alpha * k * (k - 1) / 2 * item["A"] @ g)

    assert 90 < remainder(1e-2) / remainder(1e-3) < 110


def test_no_outer_step_is_no_movement() -> None:
    """ε = 0."""
    assert apart(final(reptile(bowl, epsilon=0.0), clients(), start(), 3).params, start()) == 0


def test_a_client_adapts_by_what_it_was_given() -> None:
    """The product is adapt(θ, support): gradient steps here, c + (I − αA)²(θ − c) on a quadratic."""
    item = bowls(1)[0]
    got = reptile(bowl, adapt=gradient_steps(bowl, lr=0.3, steps=2)).personalise(start(), {}, item)["w"]  # type: ignore[arg-type]
    shrink = power(torch.eye(D) - 0.3 * item["A"], 2)
    assert apart(got, item["c"] + shrink @ (start()["w"] - item["c"])) < 1e-14
