"""FedSGD, FedAvg, FedOpt's server optimisers, and the two baselines: local and centralised."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.centralised import centralised
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.local import local
from seedbed.data.types import Batch, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.federated import uniform
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.optimizers import Optimizer, adam, sgd
from seedbed.rounds import synchronous

from .bench import (
    ENGINES,
    D,
    Given,
    apart,
    batch,
    bowl,
    bowls,
    final,
    loss,
    network,
    plain_loss,
    power,
    rounds,
    sent_by,
    start,
    task,
)

ITEMS = 3
EXAMPLES = [2.0, 5.0, 1.0]
STEPS = [1, 4, 9]


def unequal(steps: list[int] = STEPS) -> list[Task]:
    """One quadratic a client, worked on for unequal numbers of steps, with unequal numbers of examples."""
    found = zip(bowls(ITEMS), steps, EXAMPLES, strict=True)
    return [task(*[item] * k, examples=n) for item, k, n in found]


@pytest.mark.parametrize("engine", ENGINES)
def test_fedsgd_is_gradient_descent_on_the_weighted_loss(engine: Any) -> None:
    """∇Σp_iL_i = Σp_iA_i(w − c_i) with p_i = n_i/Σn, so w ← w − η(Āw − b), Ā = Σp_iA_i, b = Σp_iA_ic_i, and
    after t rounds w_t = w* + (I − ηĀ)ᵗ(w_0 − w*), w* = Ā⁻¹b."""
    items, p = bowls(ITEMS), torch.tensor(EXAMPLES) / sum(EXAMPLES)
    mean = sum(q * i["A"] for q, i in zip(p, items, strict=True))
    best = torch.linalg.solve(mean, sum(q * i["A"] @ i["c"] for q, i in zip(p, items, strict=True)))
    got = final(fedsgd(bowl, outer=sgd(0.3)), unequal([1, 1, 1]), start(), 6, engine).params["w"]
    assert apart(got, best + power(torch.eye(D) - 0.3 * mean, 6) @ (start()["w"] - best)) < 1e-14


def test_fedsgd_takes_the_mean_over_a_clients_items() -> None:
    """Items k = 1..K of a client give (1/K)Σ_k A_k(w − c_k), whatever the number of items of others."""
    items = bowls(5)
    got = sent_by(fedsgd(bowl), task(*items), start())["w"]
    assert apart(got, sum(i["A"] @ (start()["w"] - i["c"]) for i in items) / 5) < 1e-14


def test_fedavg_of_one_full_step_is_fedsgd() -> None:
    """θ − η∇L_i averaged with p_i is θ − ηΣp_i∇L_i: FedAvg(τ=1, full batch) = FedSGD = joint descent."""
    fa = final(fedavg(bowl, local=sgd(0.3)), unequal([1, 1, 1]), start(), 5)
    fs = final(fedsgd(bowl, outer=sgd(0.3)), unequal([1, 1, 1]), start(), 5)
    assert apart(fa.params, fs.params) < 1e-14


def trained_by_torch(
    params: dict[str, Tensor], batches: list[Batch], optimizer: Callable[..., Any]
) -> dict[str, Tensor]:
    """Ordinary PyTorch training, one step per batch."""
    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    step = optimizer(list(leaves.values()))
    for b in batches:
        step.zero_grad()
        plain_loss(leaves, b).backward()
        step.step()
    return {n: p.detach() for n, p in leaves.items()}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sgd(0.2), lambda p: torch.optim.SGD(p, 0.2)),
        (sgd(0.2, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.2, 0.9, nesterov=True)),
        (adam(0.02), lambda p: torch.optim.Adam(p, 0.02)),
    ],
    ids=["sgd", "nesterov", "adam"],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_fedavg_is_the_weighted_mean_of_models_that_torch_trains(
    engine: Any, ours: Optimizer, theirs: Callable[..., Any]
) -> None:
    """McMahan et al., Algorithm 1, in ordinary PyTorch: each client trains a copy with a new optimiser, the
    server takes Σ n_i θ_i / Σ n_i; three rounds, unequal steps and examples."""
    clients = [[batch(10 * c + k) for k in range(2 + c)] for c in range(3)]
    want = network()
    for _ in range(3):
        models = [trained_by_torch(want, b, theirs) for b in clients]
        want = {n: sum(e * m[n] for e, m in zip(EXAMPLES, models, strict=True)) / sum(EXAMPLES) for n in want}
    tasks = [task(*b, examples=e) for b, e in zip(clients, EXAMPLES, strict=True)]
    assert apart(final(fedavg(loss, local=ours), tasks, network(), 3, engine).params, want) < 1e-12


def test_fedavg_fixed_point_with_unequal_steps() -> None:
    """τ_i gradient steps from w give w_i − c_i = (I − ηA_i)^τ_i (w − c_i), a displacement of −M_i(w − c_i)
    with M_i = I − (I − ηA_i)^τ_i. The mean displacement is zero at w = (Σp_iM_i)⁻¹ Σp_iM_ic_i: not the
    optimum, which is FedAvg's objective inconsistency (Wang et al. 2020, Theorem 1)."""
    eta, items, p = 0.3, bowls(ITEMS), torch.tensor(EXAMPLES) / sum(EXAMPLES)
    m = [torch.eye(D) - power(torch.eye(D) - eta * i["A"], k) for i, k in zip(items, STEPS, strict=True)]
    pulls = sum(q * x @ i["c"] for q, x, i in zip(p, m, items, strict=True))
    fixed = torch.linalg.solve(sum(q * x for q, x in zip(p, m, strict=True)), pulls)
    got = final(fedavg(bowl, local=sgd(eta)), unequal(), start(), 60, Vectorised).params["w"]
    assert apart(got, fixed) < 1e-12
    optimum = torch.linalg.solve(
        sum(q * i["A"] for q, i in zip(p, items, strict=True)),
        sum(q * i["A"] @ i["c"] for q, i in zip(p, items, strict=True)),
    )
    assert apart(got, optimum) > 1e-3


def test_the_mean_is_over_those_that_took_part() -> None:
    """With clients that do not move (η = 0) the model stays where it is, whatever the cohort: dividing by the
    whole population's examples would shrink it."""
    got = final(fedavg(bowl, local=sgd(0.0)), unequal(), start(), 5, cohort=2)
    assert apart(got.params, start()) == 0


def test_a_client_left_out_is_a_client_not_asked() -> None:
    """Σ n_i θ_i / Σ n_i over clients 0 and 2 alone."""
    algorithm, tasks = fedavg(bowl, local=sgd(0.2)), unequal()
    moved = {c: sent_by(algorithm, tasks[c], start())["w"] for c in (0, 2)}
    want = start()["w"] - (EXAMPLES[0] * moved[0] + EXAMPLES[2] * moved[2]) / (EXAMPLES[0] + EXAMPLES[2])
    assert apart(final(algorithm, [tasks[0], tasks[2]], start()).params["w"], want) < 1e-14


# ---- FedOpt: server optimisers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outer", "theirs"),
    [
        (adam(0.05), lambda p: torch.optim.Adam(p, 0.05)),
        (sgd(0.5, momentum=0.9), lambda p: torch.optim.SGD(p, 0.5, 0.9)),
    ],
    ids=["adam", "momentum"],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_servers_moments_survive_rounds(engine: Any, outer: Optimizer, theirs: Callable[..., Any]) -> None:
    """One torch optimiser over the pseudo-gradients g_t = Σp_iM_i(w_t − c_i) of 8 rounds gives the same path.

    A published defect (Flower's fedmeta baseline): an Adam made anew each round, whose steps are ±lr.
    """
    eta, items, p = 0.2, bowls(ITEMS), torch.tensor(EXAMPLES) / sum(EXAMPLES)
    m = [torch.eye(D) - power(torch.eye(D) - eta * i["A"], k) for i, k in zip(items, STEPS, strict=True)]
    w = torch.nn.Parameter(start()["w"].clone())
    reference = theirs([w])
    for got in rounds(fedavg(bowl, local=sgd(eta), outer=outer), unequal(), start(), 8, engine):
        w.grad = sum(q * x @ (w.detach() - i["c"]) for q, x, i in zip(p, m, items, strict=True))
        reference.step()
        assert apart(got.state.params["w"], w.detach()) < 1e-13


def test_fedadam_without_bias_correction_is_algorithm_2() -> None:
    """Reddi et al. 2021, Algorithm 2: m ← β1m + (1−β1)Δ, v ← β2v + (1−β2)Δ², θ ← θ + ηm/(√v + τ), no
    correction; so the first step is η(1−β1)Δ/(√(1−β2)|Δ| + τ), and with β1 = β2 = 0, τ → 0 each step is
    η·sign Δ.

    A published defect (Flower's FedAdam): correction by β^(round+1) from a round counted from 1; with
    correction the first step must be ηΔ/(|Δ| + τ).
    """
    one = [task(bowls(1)[0])]
    delta = -0.2 * bowls(1)[0]["A"] @ (start()["w"] - bowls(1)[0]["c"])
    for outer, step in (
        (
            adam(0.1, beta2=0.99, epsilon=1e-3, bias_correction=False),
            0.1 * 0.1 * delta / (0.1 * delta.abs() + 1e-3),
        ),
        (adam(0.1, epsilon=1e-3), 0.1 * delta / (delta.abs() + 1e-3)),
        (adam(0.1, beta1=0.0, beta2=0.0, epsilon=1e-30, bias_correction=False), 0.1 * delta.sign()),
    ):
        got = final(fedavg(bowl, local=sgd(0.2), outer=outer), one, start())
        assert apart(got.params["w"], start()["w"] + step) < 1e-14


def test_fedopt_with_sgd_of_rate_one_is_fedavg() -> None:
    """θ − 1·Σp_i(θ − θ_i) = Σp_iθ_i, and momentum 0 is no momentum."""
    plain = final(fedavg(bowl, local=sgd(0.2)), unequal(), start(), 4)
    same = final(fedavg(bowl, local=sgd(0.2), outer=sgd(1.0, momentum=0.0)), unequal(), start(), 4)
    assert apart(plain.params, same.params) == 0


# ---- baselines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_local_trains_each_client_alone(engine: Any) -> None:
    """τ_i steps a round for r rounds on client i's own quadratic: θ_i = c_i + (I − ηA_i)^(rτ_i)(θ_0 − c_i);
    the server's start never moves, and a client is its own after r rounds even if it was asked in only
    some of them."""
    algorithm, where = local(bowl, local=sgd(0.2)), engine(Given(unequal()))
    schedule, asked = synchronous(algorithm, where, algorithm.init(start()), cohort=2, seed=3), []
    for _ in range(5):
        found = next(schedule)
        asked += found.clients
        assert apart(found.state.params, start()) == 0
    assert len(set(map(asked.count, range(3)))) > 1, "the seed should ask clients unequally often"
    for c, item in enumerate(bowls(ITEMS)):
        shrink = power(torch.eye(D) - 0.2 * item["A"], asked.count(c) * STEPS[c])
        own = algorithm.personalise(start(), where.memory()[c], None)["w"]  # type: ignore[arg-type]
        assert apart(own, item["c"] + shrink @ (start()["w"] - item["c"])) < 1e-13


def test_local_adapts_from_its_own_model() -> None:
    """personalise(sent, own, support) = adapt(own, support): the shared start plays no part."""
    adapt = gradient_steps(bowl, lr=0.3)
    own, item = {"w": torch.ones(D)}, bowls(1)[0]
    got = local(bowl, adapt=adapt).personalise(start(), own, item)["w"]  # type: ignore[arg-type]
    assert apart(got, own["w"] - 0.3 * item["A"] @ (own["w"] - item["c"])) < 1e-15


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sgd(0.2, momentum=0.9), lambda p: torch.optim.SGD(p, 0.2, 0.9)),
        (adam(0.02), lambda p: torch.optim.Adam(p, 0.02)),
    ],
    ids=["momentum", "adam"],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_centralised_is_one_torch_run(engine: Any, ours: Optimizer, theirs: Callable[..., Any]) -> None:
    """Rounds of a population of one, the optimiser's state going on, are one uninterrupted run of torch."""
    batches = [batch(k) for k in range(9)]
    want = trained_by_torch(network(), batches, theirs)
    tasks = [lambda r: task(*batches[3 * r : 3 * r + 3])]
    got = final(centralised(loss, local=ours), tasks, network(), 3, engine)
    assert apart(got.params, want) < 1e-12


def test_one_client_of_fedavg_is_plain_training() -> None:
    """With plain SGD (no state to lose) FedAvg of one client is centralised training."""
    tasks = [task(*[batch(k) for k in range(4)])]
    a = final(fedavg(loss, local=sgd(0.2)), tasks, network(), 3, OneByOne)
    b = final(centralised(loss, local=sgd(0.2)), tasks, network(), 3, OneByOne)
    assert apart(a.params, b.params) < 1e-14


def test_uniform_counts_every_client_the_same() -> None:
    """uniform(FedAvg) is the plain mean (1/m)Σθ_i."""
    algorithm = fedavg(bowl, local=sgd(0.2))
    moved = [sent_by(algorithm, t, start()) for t in unequal()]
    want = tree.sub(start(), tree.weighted_sum(tree.stack(moved), torch.full((ITEMS,), 1 / ITEMS)))
    assert apart(final(uniform(algorithm), unequal(), start()).params, want) < 1e-15
