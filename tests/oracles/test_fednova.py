"""FedNova: the length of a client's path, the mean of normalised directions, fixed points."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fednova import fednova
from seedbed.algorithms.fedprox import fedprox
from seedbed.engines import Vectorised
from seedbed.errors import InputError
from seedbed.learning.optimizers import Optimizer, adagrad, adam, cosine, linear, sgd, yogi
from seedbed.learning.path_length import train_measured

from .bench import ENGINES, D, apart, batch, bowl, bowls, final, loss, network, plain_loss, power, sent_by, start, task

ETA, STEPS, EXAMPLES = 0.1, [1, 4, 9], [2.0, 5.0, 1.0]


def slope(params: Any, item: Any) -> Tensor:
    """⟨g, w⟩: a loss whose gradient is the item's g [D], wherever."""
    total: Tensor = (item["g"] * params["w"]).sum()
    return total


def slopes(gradients: Tensor) -> Any:
    """A task of these gradients [K, D]."""
    return task(*({"g": g} for g in gradients))


KINDS: list[dict[str, Any]] = [
    {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay, "schedule": schedule}
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True))
    for decay in (0.0, 0.3)
    for schedule in (None, linear(12), cosine(8))
]
named = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: repr(sgd(**kind)))


def walked(gradients: Tensor, w: Tensor, kind: dict[str, Any], mu: float) -> Tensor:
    """Where torch's SGD ends from w on these gradients [K, ...] with μ(w − w_0) added to each."""
    settings = {name: value for name, value in kind.items() if name != "schedule"}
    moving, schedule = torch.nn.Parameter(w.clone()), kind["schedule"] or torch.ones_like
    optimizer = torch.optim.SGD([moving], ETA, **settings)
    for k, g in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = ETA * float(schedule(torch.tensor(float(k))))
        moving.grad = g + mu * (moving.detach() - w)
        optimizer.step()
    return moving.detach()


def brute_force(steps: int, kind: dict[str, Any], mu: float) -> Tensor:
    """a [K]: a_k is where torch's SGD ends, over −η, when the k-th gradient is 1 and the others are 0."""
    return -torch.stack([walked(pulse, torch.zeros(()), kind, mu) for pulse in torch.eye(steps)]) / ETA


@pytest.mark.parametrize("mu", [0.0, 0.4])
@named
def test_the_probe_measures_the_length(kind: dict[str, Any], mu: float) -> None:
    """Momentum, Nesterov, decay, pull, schedule and all their combinations are linear in the gradients, so that

        θ − w_τ = η Σ_k a_k (g_k + λθ)   and   probe = −η Σ_k a_k,

    with a_k found by torch's SGD one gradient at a time. The pull is towards θ, hence no part of g; the decay is
    towards 0: its part at θ is.
    """
    g = torch.randn(9, D, generator=torch.Generator().manual_seed(3))
    for steps in (1, 2, 7, 9):
        a = brute_force(steps, kind, mu)
        trained, length = train_measured(slope, sgd(ETA, **kind), start(), slopes(g[:steps]), mu=mu)
        assert abs(float(length / ETA - a.sum())) < 1e-13
        path = ETA * a @ (g[:steps] + kind["weight_decay"] * start()["w"])
        assert apart(start()["w"] - trained.params["w"], path) < 1e-14
        assert apart(trained.params["w"], walked(g[:steps], start()["w"], kind, mu)) < 1e-14


def test_the_lengths_of_the_paper() -> None:
    """Wang et al., section 3: τ for SGD; [τ − ρ(1−ρ^τ)/(1−ρ)]/(1−ρ) for momentum ρ; (1 − (1−ημ)^τ)/(ημ) for the pull.

    The loss that is reported does not feel the probe.
    """
    rho, mu = 0.9, 0.7
    for steps in (1, 5, 8):
        work = slopes(torch.ones(steps, D))

        def measured(optimizer: Optimizer, mu: float = 0.0, work: Any = work) -> float:
            return float(train_measured(slope, optimizer, start(), work, mu=mu)[1] / ETA)

        assert abs(measured(sgd(ETA)) - steps) < 1e-13
        momentum = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
        assert abs(measured(sgd(ETA, momentum=rho)) - momentum) < 1e-12
        assert abs(measured(sgd(ETA), mu) - (1 - (1 - ETA * mu) ** steps) / (ETA * mu)) < 1e-13
    reported = train_measured(slope, sgd(0.0), start(), slopes(torch.ones(3, D)))[0].loss
    assert abs(float(reported - start()["w"].sum())) < 1e-15


def pulled_after_momentum(rho: float, mu: float) -> Optimizer:
    """v ← ρv + g; w ← w − η(v + μ(w − w_0)): the pull outside the velocity."""

    def init(params: Any) -> Any:
        return {"velocity": tree.zeros_like(params), "start": params}

    def update(grads: Any, state: Any, params: Any) -> Any:
        v = tree.axpy(rho, state["velocity"], grads)
        step = tree.axpy(mu, tree.sub(params, state["start"]), v)
        return tree.axpy(-ETA, step, params), {**state, "velocity": v}

    return Optimizer(init, update, "pulled_after_momentum", {}, linear=True)


def test_momentum_and_pull_are_not_counted_twice() -> None:
    """ρ = .9, ημ = .01, τ = 7. Σ_k a_k is 22.56 where the pull acts beside the velocity, and 22.03 where it is part of
    the loss, so that the velocity takes it in, as FedProx's is here: by the recursions v ← ρv + 1 (+ μq), q ← q − η(v
    (+ μq)), each run by hand.

    A published defect (JYWa/FedNova): its normaliser s ← (1−ημ)(s + n) + 1 with n ← ρn + 1 gives 29.13 for both.
    """
    rho, mu, steps = 0.9, 0.01 / ETA, 7
    beside = inside = official = 0.0
    v = u = n = 0.0
    for _ in range(steps):
        v, u, n = rho * v + 1, rho * u + 1 + mu * inside, rho * n + 1
        beside, inside = beside - ETA * (v + mu * beside), inside - ETA * u
        official = (1 - ETA * mu) * (official + n) + 1
    assert [round(x, 2) for x in (-beside / ETA, -inside / ETA, official)] == [22.56, 22.03, 29.13]
    work = slopes(torch.ones(steps, D))
    one = train_measured(slope, pulled_after_momentum(rho, mu), start(), work)[1]
    other = train_measured(slope, sgd(ETA, momentum=rho), start(), work, mu=mu)[1]
    assert abs(float(one) + beside) < 1e-14
    assert abs(float(other) + inside) < 1e-14


@pytest.mark.parametrize("mu", [0.0, 0.4])
@named
def test_of_a_constant_gradient_the_direction_is_that_gradient(kind: dict[str, Any], mu: float) -> None:
    """g_k = g gives θ − θ_i = ηΣa_k·(g + λθ), so d_i = g + λθ, for any number of steps: clients count by p_i alone.

    Also where some a_k < 0, as momentum .9 swings back under a pull of ημ = .04 within 30 steps: Σ|a_k| would not.
    """
    g = torch.randn(D, generator=torch.Generator().manual_seed(4))
    algorithm = fednova(slope, mu=mu, local=sgd(ETA, **kind))
    for steps in (1, 5, 30):
        d = sent_by(algorithm, slopes(g.expand(steps, D)), start())["d"]["w"]
        assert apart(d, g + kind["weight_decay"] * start()["w"]) < 1e-13


def test_a_length_is_of_signed_steps() -> None:
    """Momentum .9 and ημ = .04 over 30 steps: some a_k are negative, and their sum, not Σ|a_k|, is the length."""
    kind = {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "schedule": None}
    a = brute_force(30, kind, 0.4)
    length = train_measured(slope, sgd(ETA, momentum=0.9), start(), slopes(torch.ones(30, D)), mu=0.4)[1] / ETA
    assert a.min() < -0.1
    assert abs(float(length - a.sum())) < 1e-13
    assert float(a.abs().sum() - length) > 1


def plain_round(theta: dict[str, Tensor], clients: list[Any], kind: dict[str, Any], mu: float) -> dict[str, Tensor]:
    """A round of FedNova in ordinary PyTorch: θ − (Σ p_i‖a_i‖₁)·Σ p_i (θ − θ_i)/‖a_i‖₁, a_i by brute force."""
    p = [n / sum(EXAMPLES) for n in EXAMPLES]
    lengths, moved = [float(brute_force(len(b), kind, mu).sum()) for b in clients], []
    settings = {name: value for name, value in kind.items() if name != "schedule"}
    for batches in clients:
        w = {n: x.clone().requires_grad_() for n, x in theta.items()}
        optimizer = torch.optim.SGD(w.values(), ETA, **settings)
        for b in batches:
            optimizer.zero_grad()
            pull = sum(((w[n] - theta[n]) ** 2).sum() for n in w)
            (plain_loss(w, b) + mu / 2 * pull).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        moved.append({n: theta[n] - x.detach() for n, x in w.items()})
    tau_eff = sum(q * a for q, a in zip(p, lengths, strict=True))
    mean = {n: sum(q * m[n] / a for q, m, a in zip(p, moved, lengths, strict=True)) for n in theta}
    return {n: theta[n] - tau_eff * mean[n] for n in theta}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mu", [0.0, 0.4])
@pytest.mark.parametrize("kind", [k for k in KINDS if k["schedule"] is None], ids=lambda kind: repr(sgd(**kind)))
def test_rounds_are_the_papers(engine: Any, kind: dict[str, Any], mu: float) -> None:
    """Equations 6–8 in ordinary PyTorch on a network, three rounds, unequal steps and numbers of examples."""
    clients = [[batch(10 * c + k) for k in range(2 + 2 * c)] for c in range(3)]
    want = network()
    for _ in range(3):
        want = plain_round(want, clients, kind, mu)
    tasks = [task(*b, examples=n) for b, n in zip(clients, EXAMPLES, strict=True)]
    got = final(fednova(loss, mu=mu, local=sgd(ETA, **kind)), tasks, network(), 3, engine).params
    assert apart(got, want) < 1e-12


@pytest.mark.parametrize("mu", [0.0, 0.4])
@named
def test_of_equal_steps_it_is_fedprox(kind: dict[str, Any], mu: float) -> None:
    """‖a_i‖₁ = ‖a‖₁ for all: τ_eff = ‖a‖₁, θ − ‖a‖₁·Σp_i(θ − θ_i)/‖a‖₁ = Σp_iθ_i: FedProx, and FedAvg for μ = 0.

    A published defect (JYWa/FedNova): with μ > 0 τ_eff is Σp_iτ_i, so that the round is too long by τ/‖a‖₁.
    """
    tasks = [task(*(batch(10 * c + k) for k in range(4)), examples=n) for c, n in enumerate(EXAMPLES)]
    parent = fedprox(loss, mu=mu, local=sgd(ETA, **kind)) if mu else fedavg(loss, local=sgd(ETA, **kind))
    got = final(fednova(loss, mu=mu, local=sgd(ETA, **kind)), tasks, network(), 3)
    assert apart(got.params, final(parent, tasks, network(), 3).params) < 1e-12


def test_fixed_point_with_unequal_steps() -> None:
    """τ_i gradient steps go θ − θ_i = M_i(θ − c_i), M_i = I − (I − ηA_i)^τ_i, and ‖a_i‖₁ = τ_i, so that the fixed point
    Σp_iM_i/τ_i(θ − c_i) = 0 is (Σp_iM_i/τ_i)⁻¹ Σp_iM_ic_i/τ_i. M_i/τ_i → ηA_i for small steps: it is near the optimum,
    where FedAvg's, with M_i, is not."""
    eta, items, p = 0.05, bowls(3), torch.tensor(EXAMPLES) / sum(EXAMPLES)

    def balance(matrices: list[Tensor]) -> Tensor:
        """(Σp_iX_i)⁻¹ Σp_iX_ic_i."""
        pulls = sum(q * x @ i["c"] for q, x, i in zip(p, matrices, items, strict=True))
        point: Tensor = torch.linalg.solve(sum(q * x for q, x in zip(p, matrices, strict=True)), pulls)
        return point

    m = [torch.eye(D) - power(torch.eye(D) - eta * i["A"], k) for i, k in zip(items, STEPS, strict=True)]
    tasks = [task(*[i] * k, examples=n) for i, k, n in zip(items, STEPS, EXAMPLES, strict=True)]
    got = final(fednova(bowl, local=sgd(eta)), tasks, start(), 300, Vectorised).params["w"]
    assert apart(got, balance([x / k for x, k in zip(m, STEPS, strict=True)])) < 1e-12
    optimum = balance([i["A"] for i in items])
    assert 4 * apart(got, optimum) < apart(balance(m), optimum)


def test_a_rate_of_zero_moves_nothing() -> None:
    """0/0 is nowhere: a client without a path sends d = 0 of length 0."""
    sent = sent_by(fednova(bowl, local=sgd(0.0)), task(*bowls(2)), start())
    assert apart(sent, {"d": {"w": torch.zeros(D)}, "length": torch.zeros(())}) == 0


@pytest.mark.parametrize("optimizer", [adam, yogi, adagrad], ids=lambda f: f.__name__)
def test_adaptive_local_optimisers_are_refused_by_name(optimizer: Callable[..., Optimizer]) -> None:
    """Their path is no linear function of the gradients: no a_i exists."""
    with pytest.raises(InputError, match=f"fednova cannot train clients with local={optimizer.__name__}: .*sgd"):
        fednova(loss, local=optimizer())


@pytest.mark.parametrize("schedule", [None, linear(12)])
def test_tau_eff_of_the_authors_code_counts_steps(schedule: Any) -> None:
    """Under μ and momentum d_i is as ever, (θ − θ_i)/‖a_i‖₁, but τ_eff = Σ_i p_i τ_i: the server moves by the sum of
    the rates of τ_i plain steps. The length of clients' paths is found by torch's SGD, one gradient at a time."""
    mu, kind = 0.4, {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "schedule": schedule}
    items, p = bowls(3), torch.tensor(EXAMPLES) / sum(EXAMPLES)
    tasks = [task(*[i] * k, examples=n) for i, k, n in zip(items, STEPS, EXAMPLES, strict=True)]
    moved, lengths, rates = [], [], []
    for item, steps in zip(items, STEPS, strict=True):
        w = torch.nn.Parameter(start()["w"].clone())
        optimizer, rate = torch.optim.SGD([w], ETA, momentum=0.9), schedule or torch.ones_like
        for k in range(steps):
            optimizer.param_groups[0]["lr"] = ETA * float(rate(torch.tensor(float(k))))
            w.grad = item["A"] @ (w.detach() - item["c"]) + mu * (w.detach() - start()["w"])
            optimizer.step()
        moved.append(start()["w"] - w.detach())
        lengths.append(ETA * brute_force(steps, kind, mu).sum())
        rates.append(sum(ETA * float(rate(torch.tensor(float(k)))) for k in range(steps)))
    d = sum(share * m / n for share, m, n in zip(p, moved, lengths, strict=True))
    tau = sum(share * rate for share, rate in zip(p, rates, strict=True))
    algorithm = fednova(bowl, mu=mu, tau_eff="steps", local=sgd(ETA, **kind))
    got = final(algorithm, tasks, start(), 1).params["w"]
    assert apart(got, start()["w"] - tau * d) < 1e-13
    assert apart(got, final(fednova(bowl, mu=mu, local=sgd(ETA, **kind)), tasks, start(), 1).params["w"]) > 1e-3
