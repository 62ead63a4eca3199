"""FedAvgM, FedAdagrad, FedAdam, FedYogi: the server's steps against plain loops, and what they have in common."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed.algorithms.fedadagrad import fedadagrad
from seedbed.algorithms.fedadam import fedadam
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedavgm import fedavgm
from seedbed.algorithms.fedyogi import fedyogi
from seedbed.federated import Algorithm
from seedbed.learning.optimizers import adagrad, adam, linear, sgd, yogi

from .bench import ENGINES, D, apart, bowl, bowls, final, power, rounds, start, task

ETA_L, STEPS, EXAMPLES = 0.2, [1, 4, 9], [2.0, 5.0, 1.0]
FACTORIES: dict[str, Callable[..., Algorithm]] = {"adagrad": fedadagrad, "adam": fedadam, "yogi": fedyogi}
every_one = pytest.mark.parametrize("name", FACTORIES)


def clients() -> list[Any]:
    return [task(*[i] * k, examples=n) for i, k, n in zip(bowls(3), STEPS, EXAMPLES, strict=True)]


def delta(w: Tensor) -> Tensor:
    """Σp_i(θ_i − θ) at θ = w: τ_i gradient steps on a quadratic go θ_i − θ = −(I − (I − ηA_i)^τ_i)(θ − c_i)."""
    moved, p = torch.zeros(D), [n / sum(EXAMPLES) for n in EXAMPLES]
    for q, item, steps in zip(p, bowls(3), STEPS, strict=True):
        moved -= q * (torch.eye(D) - power(torch.eye(D) - ETA_L * item["A"], steps)) @ (w - item["c"])
    return moved


def algorithm_2(
    name: str, w: Tensor, count: int, *, eta: float, beta1: float, beta2: float, tau: float, v: float
) -> list[list[float]]:
    """Reddi et al., Algorithm 2, in plain numbers: m_{−1} = 0, v_{−1} = v, one number at a time."""
    x, m, second = w.tolist(), [0.0] * D, [v] * D
    path = []
    for _ in range(count):
        for j, d in enumerate(delta(torch.tensor(x)).tolist()):
            m[j] = beta1 * m[j] + (1 - beta1) * d
            if name == "adagrad":
                second[j] = second[j] + d**2
            elif name == "adam":
                second[j] = beta2 * second[j] + (1 - beta2) * d**2
            else:
                sign = (second[j] > d**2) - (second[j] < d**2)
                second[j] = second[j] - (1 - beta2) * d**2 * sign
            x[j] = x[j] + eta * m[j] / (math.sqrt(second[j]) + tau)
        path.append(list(x))
    return path


SETTINGS: dict[str, dict[str, float]] = {
    "defaults": {},
    "FLamby": {"eta": 0.1, "beta1": 0.9, "beta2": 0.999, "tau": 1e-8, "initial": 0.0},
    "v falls": {"eta": 0.1, "beta1": 0.5, "beta2": 0.7, "tau": 1e-2, "initial": 2.0},
}


@pytest.mark.parametrize("setting", SETTINGS)
@every_one
@pytest.mark.parametrize("engine", ENGINES)
def test_rounds_are_algorithm_2(engine: Any, name: str, setting: str) -> None:
    """Ten rounds, every one. Defaults: β1 = .9 (Adagrad: 0), β2 = .99, τ = 1e-3, v_{−1} = τ², no bias correction."""
    given = {k: x for k, x in SETTINGS[setting].items() if name != "adagrad" or k != "beta2"}
    defaults = {"eta": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3, "initial": 1e-6}
    used = defaults | ({"eta": 0.1, "beta1": 0.0} if name == "adagrad" else {}) | given
    want = algorithm_2(name, start()["w"], 10, v=used.pop("initial"), **used)
    got = rounds(FACTORIES[name](bowl, local=sgd(ETA_L), **given), clients(), start(), 10, engine)
    for ours, theirs in zip(got, want, strict=True):
        assert apart(ours.state.params["w"], torch.tensor(theirs)) < 1e-12


def first_step(algorithm: Algorithm) -> Tensor:
    moved: Tensor = final(algorithm, clients(), start()).params["w"] - start()["w"]
    return moved


def test_the_first_step() -> None:
    """m_0 = (1−β1)Δ and, from v = 0, v_0 = (1−β2)Δ²: θ moves by η(1−β1)Δ/(√(1−β2)|Δ| + τ), Yogi's step as Adam's, for
    sign(0 − Δ²) = −1; Adagrad's has |Δ| for √(1−β2)|Δ|. With correction it is ηΔ/(|Δ| + τ) for both.

    A published defect (Flower's FedAdam): a correction by 1 − β^(round+1) from a round counted from 1, which makes
    the first step shorter by (1−β1)/(1−β1²)·√((1−β2²)/(1−β2)).
    """
    d, eta, b1, b2, tau = delta(start()["w"]), 0.1, 0.9, 0.99, 1e-3
    for make in (fedadam, fedyogi):
        plain = make(bowl, eta=eta, tau=tau, initial=0.0, local=sgd(ETA_L))
        assert apart(first_step(plain), eta * (1 - b1) * d / (math.sqrt(1 - b2) * d.abs() + tau)) < 1e-14
        corrected = first_step(make(bowl, eta=eta, tau=tau, initial=0.0, bias_correction=True, local=sgd(ETA_L)))
        assert apart(corrected, eta * d / (d.abs() + tau)) < 1e-14
        m, v = (1 - b1) * d / (1 - b1**2), (1 - b2) * d**2 / (1 - b2**2)
        assert apart(corrected, eta * m / (v.sqrt() + tau)) > 0.01
    got = first_step(fedadagrad(bowl, eta=eta, beta1=b1, tau=tau, initial=0.0, local=sgd(ETA_L)))
    assert apart(got, eta * (1 - b1) * d / (d.abs() + tau)) < 1e-14


def test_without_memory_adam_steps_by_signs() -> None:
    """β1 = β2 = 0, τ → 0: m = Δ, √v = |Δ|: every round moves each parameter by ±η."""
    algorithm = fedadam(bowl, eta=0.1, beta1=0.0, beta2=0.0, tau=1e-30, initial=0.0, local=sgd(ETA_L))
    x = start()["w"]
    for got in rounds(algorithm, clients(), start(), 6):
        x = x + 0.1 * delta(x).sign()
        assert apart(got.state.params["w"], x) < 1e-14


def test_yogi_is_adagrad_while_the_second_moment_grows() -> None:
    """While v < Δ², Yogi adds: v = (1−β2)ΣΔ², and √v = √(1−β2)·√ΣΔ², so that Yogi with (η, τ) is Adagrad with both over
    √(1−β2): .01 and .316228 for β2 = .999. In FLamby's table the two rows are one, to the last digit."""
    root = math.sqrt(1 - 0.999)
    a = rounds(fedyogi(bowl, eta=0.01, beta2=0.999, tau=1e-8, initial=0.0, local=sgd(ETA_L)), clients(), start(), 6)
    b = rounds(
        fedadagrad(bowl, eta=0.01 / root, beta1=0.9, tau=1e-8 / root, initial=0.0, local=sgd(ETA_L)),
        clients(),
        start(),
        6,
    )
    for ours, theirs in zip(a, b, strict=True):
        assert apart(ours.state.params, theirs.state.params) < 1e-14


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_fedavgm_is_torchs_momentum_on_the_server(engine: Any, nesterov: bool) -> None:
    """One torch SGD over the pseudo-gradients −Δ of ten rounds: v ← βv − Δ, θ ← θ − ηv, or θ ← θ − η(βv − Δ)."""
    w = torch.nn.Parameter(start()["w"].clone())
    reference = torch.optim.SGD([w], 0.6, 0.9, nesterov=nesterov)
    algorithm = fedavgm(bowl, eta=0.6, nesterov=nesterov, local=sgd(ETA_L))
    for got in rounds(algorithm, clients(), start(), 10, engine):
        w.grad = -delta(w.detach())
        reference.step()
        assert apart(got.state.params["w"], w.detach()) < 1e-13


def test_without_momentum_fedavgm_is_fedavg() -> None:
    """β = 0, η = 1: θ ← θ + Δ = Σp_iθ_i: FedAvgM(0) = FedOpt with SGD of rate 1 = FedAvg."""
    plain = final(fedavg(bowl, local=sgd(ETA_L)), clients(), start(), 5)
    for same in (fedavgm(bowl, beta=0.0, local=sgd(ETA_L)), fedavg(bowl, local=sgd(ETA_L), outer=sgd(1.0))):
        assert apart(final(same, clients(), start(), 5).params, plain.params) == 0


# ---- the optimisers alone --------------------------------------------------------------------------------


def gradients() -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [(1 + step % 3) * torch.randn(4, generator=g) for step in range(20)]


@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_adagrad_is_torchs(initial: float) -> None:
    twin, params = torch.nn.Parameter(torch.ones(4)), {"w": torch.ones(4)}
    reference = torch.optim.Adagrad([twin], 0.1, initial_accumulator_value=initial)
    ours = adagrad(0.1, initial=initial)
    state = ours.init(params)
    for g in gradients():
        twin.grad = g.clone()
        reference.step()
        params, state = ours.update({"w": g}, state, params)
        assert apart(params["w"], twin.detach()) < 1e-13


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("make", [adam, yogi, adagrad], ids=lambda f: f.__name__)
def test_moments_and_their_correction(make: Any, correct: bool) -> None:
    """m/(1−β1ᵗ) and v/(1−β2ᵗ) with t = 1, 2, 3, ... (Adagrad's v is a sum: none); the rate by linear(30)."""
    b1, b2, eps, initial = 0.8, 0.9, 1e-2, 0.3
    betas = {"beta1": b1} if make is adagrad else {"beta1": b1, "beta2": b2}
    ours = make(0.1, **betas, epsilon=eps, initial=initial, bias_correction=correct, schedule=linear(30))
    params, w, m, v = {"w": torch.ones(4)}, torch.ones(4), torch.zeros(4), torch.full((4,), initial)
    state = ours.init(params)
    for t, g in enumerate(gradients(), start=1):
        m = b1 * m + (1 - b1) * g
        v = {adam: b2 * v + (1 - b2) * g**2, yogi: v - (1 - b2) * (v - g**2).sign() * g**2, adagrad: v + g**2}[make]
        c1, c2 = (1 - b1**t, 1 if make is adagrad else 1 - b2**t) if correct else (1, 1)
        w = w - 0.1 * (1 - (t - 1) / 30) * (m / c1) / ((v / c2).sqrt() + eps)
        params, state = ours.update({"w": g}, state, params)
        assert apart(params["w"], w) < 1e-13


@pytest.mark.parametrize("make", [adam, yogi, adagrad], ids=lambda f: f.__name__)
def test_settings_say_how_it_was_built(make: Any) -> None:
    made = make(0.0, beta1=0.0, initial=0.5, bias_correction=False)
    assert {"lr": 0.0, "beta1": 0.0, "initial": 0.5, "bias_correction": False}.items() <= made.settings.items()
    assert make(**made.settings).settings == made.settings
