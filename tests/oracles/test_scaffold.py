"""SCAFFOLD: Algorithm 1 by hand, what the control variates are, and where it ends."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed.algorithms.fed_lbfgs import fed_lbfgs
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.types import Batch, Task
from seedbed.engines import Vectorised
from seedbed.errors import InputError
from seedbed.federated import uniform
from seedbed.learning.objectives import masked_mean
from seedbed.learning.optimizers import Optimizer, adam, linear, sgd
from seedbed.rounds import synchronous

from .bench import ENGINES, D, Given, apart, bowl, bowls, final, rounds, start, task

ETA, STEPS, EXAMPLES = 0.2, [1, 2, 4], [2.0, 5.0, 1.0]

options = pytest.mark.parametrize("option", [1, 2])
every_engine = pytest.mark.parametrize("engine", ENGINES)


def clients(steps: list[int] = STEPS) -> list[Any]:
    """A quadratic each, worked on for unequal numbers of steps, with unequal numbers of examples."""
    return [task(*[i] * k, examples=n) for i, k, n in zip(bowls(len(steps)), steps, EXAMPLES * 2, strict=False)]


def slope(item: Any, w: Tensor) -> Tensor:
    found: Tensor = item["A"] @ (w - item["c"])
    return found


def optimum(decay: float = 0.0) -> Tensor:
    """Of the plain mean of the clients' losses, and (λ/2)‖w‖²: every client counts the same."""
    items = bowls(3)
    curved = sum(i["A"] for i in items) / 3 + decay * torch.eye(D)
    best: Tensor = torch.linalg.solve(curved, sum(i["A"] @ i["c"] for i in items) / 3)
    return best


@options
@every_engine
def test_rounds_are_algorithm_1(engine: Any, option: Any) -> None:
    """Algorithm 1 as it stands, in plain loops: 12 rounds of 2 of 5 clients, so that c moves by |S|/N of the mean
    change and c_i waits, at 0 before the first time. Server rate η_g = .7."""
    steps = [1, 4, 9, 2, 3]
    x, c, own = start()["w"], torch.zeros(D), {i: torch.zeros(D) for i in range(5)}
    algorithm, where = scaffold(bowl, option=option, local=sgd(ETA), outer=sgd(0.7)), engine(Given(clients(steps)))
    schedule, asked = synchronous(algorithm, where, algorithm.init(start()), cohort=2, seed=1), set()
    for _ in range(12):
        got = next(schedule)
        moves, changes = [], []
        for i in got.clients:
            item, y = bowls(5)[i], x
            for _ in range(steps[i]):
                y = y - ETA * (slope(item, y) - own[i] + c)
            plus = slope(item, x) if option == 1 else own[i] - c + (x - y) / (steps[i] * ETA)
            moves, changes = [*moves, y - x], [*changes, plus - own[i]]
            own[i] = plus
        x, c = x + 0.7 * sum(moves) / 2, c + 2 / 5 * sum(changes) / 2
        asked |= set(got.clients)
        assert apart(got.state.params["w"], x) < 1e-13
        assert apart(got.state.extra["c"]["w"], c) < 1e-13
        assert set(where.memory()) == asked
        assert all(apart(kept["w"], own[i]) < 1e-13 for i, kept in where.memory().items())
    assert len(asked) > 2


@options
def test_the_servers_variate_is_the_mean_of_all_clients(option: Any) -> None:
    """c ← c + (|S|/N)·(1/|S|)Σ_S(c_i⁺ − c_i) keeps c = (1/N)Σ_i c_i over all N clients, asked or not.

    Two published defects die here: control variates that stay 0 (FL-bench), and a change that is not scaled by |S|/N.
    """
    where = ENGINES[0](Given(clients([1, 4, 9, 2, 3])))
    algorithm = scaffold(bowl, option=option, local=sgd(ETA))
    schedule = synchronous(algorithm, where, algorithm.init(start()), cohort=2, seed=1)
    for _ in range(8):
        c = next(schedule).state.extra["c"]["w"]
        assert apart(c, sum(kept["w"] for kept in where.memory().values()) / 5) < 1e-14
        assert c.abs().max() > 0.05


LOCALS = [
    sgd(ETA),
    sgd(ETA, momentum=0.5),
    sgd(ETA, momentum=0.5, nesterov=True),
    sgd(ETA, momentum=0.5, schedule=linear(20)),
]


@options
@pytest.mark.parametrize("local", LOCALS, ids=repr)
def test_it_ends_at_the_true_optimum(local: Optimizer, option: Any) -> None:
    """At θ* = argmin Σ L_i with c_i = ∇L_i(θ*), c = Σc_i/N = 0: every corrected gradient ∇L_i(θ*) − c_i + c is 0, so
    that no client moves, however many steps it takes. FedAvg with the same unequal steps ends elsewhere."""
    got = final(scaffold(bowl, option=option, local=local), clients(), start(), 90, Vectorised)
    assert apart(got.params["w"], optimum()) < 1e-12
    assert apart(got.extra["c"]["w"], torch.zeros(D)) < 1e-12
    drifted = final(uniform(fedavg(bowl, local=local)), clients(), start(), 40, Vectorised).params["w"]
    assert apart(drifted, optimum()) > 1e-2


def test_with_weight_decay_it_ends_at_the_optimum_with_the_decay() -> None:
    """θ − y = ηΣa_k(g_k + λθ − c_i + c) with a_k = (1−ηλ)^(τ−1−k), so that option 2 gives c_i⁺ = Σa_k(g_k + λθ)/Σa_k:
    the decay is part of it, and the fixed point c_i = ∇L_i(θ) + λθ, Σc_i = 0 is the optimum of Σ L_i/N + (λ/2)‖w‖²."""
    got = final(scaffold(bowl, local=sgd(ETA, weight_decay=0.3)), clients(), start(), 90, Vectorised)
    assert apart(got.params["w"], optimum(0.3)) < 1e-12


@options
@every_engine
def test_the_first_round_is_uniform_fedavg(engine: Any, option: Any) -> None:
    """c = c_i = 0: no correction yet, and every client counts the same."""
    got = final(scaffold(bowl, option=option, local=sgd(ETA)), clients(), start(), 1, engine)
    assert apart(got.params, final(uniform(fedavg(bowl, local=sgd(ETA))), clients(), start()).params) < 1e-15


@options
def test_with_one_step_it_is_fedsgd(option: Any) -> None:
    """τ = 1, all clients: mean(θ − η(∇L_i − c_i + c)) = θ − η·mean ∇L_i, since c = mean c_i; in every round."""
    ours = rounds(scaffold(bowl, option=option, local=sgd(ETA)), clients([1, 1, 1]), start(), 8)
    theirs = rounds(uniform(fedsgd(bowl, outer=sgd(ETA))), clients([1, 1, 1]), start(), 8)
    for a, b in zip(ours, theirs, strict=True):
        assert apart(a.state.params, b.state.params) < 1e-14


def test_with_one_step_the_options_are_one() -> None:
    """τ = 1: c_i − c + (θ − y)/η = c_i − c + ∇L_i(θ) − c_i + c = ∇L_i(θ); also of some clients at a time."""
    one, two = (
        final(scaffold(bowl, option=option, local=sgd(ETA)), clients([1, 1, 1]), start(), 6, cohort=2)  # type: ignore[arg-type]
        for option in (1, 2)
    )
    assert apart(one, two) < 1e-14


def test_momentum_divides_by_the_length_of_the_path() -> None:
    """A client of momentum ρ and 3 steps goes θ − y = η Σa_k(g_k − c_i + c), a = (1 + ρ + ρ², 1 + ρ, 1), so that its
    next c_i = c_i − c + (θ − y)/(ηΣa_k) = Σa_kg_k/Σa_k is a mean of its gradients. Divided by τη it would be too
    long by Σa_k/τ."""
    rho, [item] = 0.9, bowls(1)
    algorithm = scaffold(bowl, local=sgd(ETA, momentum=rho))
    state, c, c_i = algorithm.init(start()), start(1), start(2)
    sent = state._replace(extra={**state.extra, "c": c})
    y, v, seen = start()["w"], torch.zeros(D), []
    for _ in range(3):
        seen.append(slope(item, y))
        v = rho * v + seen[-1] - c_i["w"] + c["w"]
        y = y - ETA * v
    a = torch.tensor([1 + rho + rho**2, 1 + rho, 1.0])
    message, kept = algorithm.client(sent, c_i, task(*[item] * 3))
    assert apart(message.value["moved"]["w"], start()["w"] - y) < 1e-14
    assert apart(kept["w"], a @ torch.stack(seen) / a.sum()) < 1e-14


def test_what_cannot_be_corrected_is_refused() -> None:
    with pytest.raises(InputError, match=r"scaffold cannot train clients with local=adam: .*sgd"):
        scaffold(bowl, local=adam())
    with pytest.raises(InputError, match=r"option=1 cannot use local.weight_decay: .*option=2"):
        scaffold(bowl, option=1, local=sgd(0.1, weight_decay=0.1))


@pytest.mark.parametrize("sizes", [(5, 5, 3), (1, 7), (4, 4, 4)])
def test_option_1_is_the_gradient_of_all_examples(sizes: tuple[int, ...]) -> None:
    """c_i⁺ = ∇L_i(θ), L_i the mean over the client's examples: of ragged batches each counts by its rows.

    L = Σ_b |b| L_b / Σ_b |b|. The mean of the batches' gradients, each counting the same, is another.
    """
    item = batches_of_rows(sizes)
    algorithm = scaffold(squares, option=1, local=sgd(ETA))
    theta = {"w": torch.tensor([0.3, -1.0])}
    sent = algorithm.send(algorithm.init(theta), 0)
    _, c_plus = algorithm.client(sent, algorithm.remember(sent), item)
    rows, targets = (torch.cat([x[: int(n)] for x, n in zip(part, sizes, strict=True)]) for part in item.items[:2])
    true = 2 * rows.T @ (rows @ theta["w"] - targets) / len(rows)
    assert apart(c_plus["w"], true) < 1e-14


@pytest.mark.parametrize("sizes", [(5, 5, 3), (1, 7)])
def test_one_gradient_of_ragged_batches_is_that_of_all_rows(sizes: tuple[int, ...]) -> None:
    """FedSGD on mini-batches: the message is ∇L_i(θ) too, and so is the value and the curvature of fed_lbfgs."""
    item, theta = batches_of_rows(sizes), {"w": torch.tensor([0.3, -1.0])}
    rows, targets = (torch.cat([x[: int(n)] for x, n in zip(part, sizes, strict=True)]) for part in item.items[:2])
    true = 2 * rows.T @ (rows @ theta["w"] - targets) / len(rows)
    assert apart(fedsgd(squares).client(theta, {}, item)[0].value["w"], true) < 1e-14
    newton = fed_lbfgs(squares, method="newton").client(theta, {}, item)[0].value
    assert apart(newton.slope, true) < 1e-14
    assert apart(newton.value, ((rows @ theta["w"] - targets) ** 2).mean()) < 1e-14
    assert apart(newton.curve[0], 2 * rows.T @ rows / len(rows)) < 1e-13


def squares(params: Any, batch: Batch) -> Tensor:
    return masked_mean((batch.x @ params["w"] - batch.y) ** 2, batch.mask)


def batches_of_rows(sizes: tuple[int, ...]) -> Task:
    """Padded batches of so many real rows; padding holds large numbers."""
    g, most = torch.Generator().manual_seed(0), max(sizes)
    x, y = torch.randn(len(sizes), most, 2, generator=g), torch.randn(len(sizes), most, generator=g)
    mask = (torch.arange(most) < torch.tensor(sizes)[:, None]).to(x.dtype)
    x = torch.where(mask[..., None] > 0, x, 1e3)
    return Task(Batch(x, y, mask), torch.ones(len(sizes)), torch.tensor(float(sum(sizes))))
