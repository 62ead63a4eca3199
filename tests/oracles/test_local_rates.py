"""Learning rates over rounds and of clients' own, clipping, cohorts and weights: each beside an independent loop."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seedbed import randomness, tree
from seedbed.algorithms.apfl import apfl
from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fednova import fednova
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.local_rates import with_local_rates
from seedbed.algorithms.scaffold import scaffold
from seedbed.errors import InputError
from seedbed.federated import by_examples, uniform
from seedbed.learning.optimizers import adam, constant, cosine, exponential, linear, sgd
from seedbed.rounds import draw_cohorts, synchronous

from .bench import ENGINES, Given, apart, bowl, bowls, final, start, task

ETA, STEPS, EXAMPLES, ROUNDS = 0.2, [1, 3, 2], [2.0, 5.0, 1.0], 7

SCHEDULES: dict[str, tuple[Any, Any]] = {  # ours, and its formula for round t
    "exponential": (exponential(), lambda t: 0.998**t),
    "exponential .5": (exponential(factor=0.5, end=0.1), lambda t: max(0.5**t, 0.1)),
    "cosine": (cosine(5, end=0.1), lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * min(t / 5, 1))) / 2),
    "linear": (linear(4), lambda t: max(0.0, 1 - t / 4)),
    "warm-up": (constant(warmup=3), lambda t: min(1.0, (t + 1) / 3)),
    "warm-up, then cosine": (
        cosine(6, warmup=2),
        lambda t: (t + 1) / 2 if t < 2 else (1 + math.cos(math.pi * min((t - 2) / 4, 1))) / 2,
    ),
}


def clients() -> list[Any]:
    return [task(*[i] * k, examples=n) for i, k, n in zip(bowls(3), STEPS, EXAMPLES, strict=True)]


def walked(item: Any, w: Tensor, steps: int, rate: float, anchor: Tensor | None = None, mu: float = 0.0) -> Tensor:
    """torch.optim.SGD with momentum .9 at this rate."""
    moving = torch.nn.Parameter(w.clone())
    optimizer = torch.optim.SGD([moving], rate, momentum=0.9)
    for _ in range(steps):
        moving.grad = item["A"] @ (moving.detach() - item["c"])
        if anchor is not None:
            moving.grad = moving.grad + mu * (moving.detach() - anchor)
        optimizer.step()
    return moving.detach()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("own", [{}, {0: 0.5, 2: 3.0}], ids=["one rate", "own rates"])
def test_fedavg_with_the_rate_of_the_round(name: str, engine: Any, own: dict[int, float]) -> None:
    """θ ← Σ n_i θ_i / Σ n_i, θ_i by torch's SGD at η·s(t)·f_i, in 7 rounds of 3 quadratics."""
    ours, formula = SCHEDULES[name]
    w, share = start()["w"], torch.tensor(EXAMPLES) / sum(EXAMPLES)
    for t in range(ROUNDS):
        rates = [ETA * formula(t) * own.get(i, 1.0) for i in range(3)]
        ends = [walked(item, w, k, rate) for item, k, rate in zip(bowls(3), STEPS, rates, strict=True)]
        w = sum(s * end for s, end in zip(share, ends, strict=True))  # type: ignore[assignment]
    algorithm = with_local_rates(
        lambda local: fedavg(bowl, **local), {"local": sgd(ETA, momentum=0.9)}, over_rounds={"local": ours},
        of_clients=own,
    )  # fmt: skip
    assert apart(final(algorithm, clients(), start(), ROUNDS, engine).params["w"], w) < 1e-12


MAKERS: dict[str, Any] = {
    "fedprox": lambda local: fedprox(bowl, mu=0.3, **local),
    "fednova": lambda local: fednova(bowl, mu=0.3, **local),
    "fednova, steps": lambda local: fednova(bowl, mu=0.3, tau_eff="steps", **local),
    "scaffold": lambda local: scaffold(bowl, **local),
    "ditto": lambda local: ditto(bowl, **local),
    "apfl": lambda local: apfl(bowl, **local),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("optimizer", [lambda lr: sgd(lr, momentum=0.5), adam], ids=["sgd", "adam"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_is_the_algorithms_own_at_that_rate(name: str, optimizer: Any, engine: Any) -> None:
    """Round by round the state is that of the plain algorithm built with η·s(t): also where the server holds more, and
    a path is measured."""
    if optimizer is adam and name.startswith(("fednova", "scaffold")):
        pytest.skip("adam is not linear")
    names = ["local", "personal"] if name in ("ditto", "apfl") else ["local"]
    algorithm = with_local_rates(
        MAKERS[name], {n: optimizer(ETA) for n in names}, over_rounds=dict.fromkeys(names, exponential(factor=0.7))
    )
    got = engine(Given(clients()))
    rounds = synchronous(algorithm, got, algorithm.init(start()))
    plain = engine(Given(clients()))
    state = MAKERS[name]({n: optimizer(ETA) for n in names}).init(start())
    for t in range(3):
        at = MAKERS[name]({n: optimizer(ETA * 0.7**t) for n in names})
        state = next(synchronous(at, plain, state)).state
        found = next(rounds).state
        kept = [[kept for _, kept in sorted(where.memory().items())] for where in (got, plain)]
        assert apart((found.params, found.extra["base"], kept[0]), (state.params, state.extra, kept[1])) < 1e-12


@pytest.mark.parametrize("clip", [1e-3, 0.5, 1e3])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_is_torchs(clip: float, kind: str, engine: Any) -> None:
    """torch.nn.utils.clip_grad_norm_ over all parameters before each step (without its 1e-6 in the denominator)."""
    ours = {"sgd": sgd(ETA, momentum=0.9, weight_decay=0.1, clip=clip), "adam": adam(0.05, clip=clip)}[kind]
    ends = []
    for item, steps in zip(bowls(3), STEPS, strict=True):
        w = torch.nn.Parameter(start()["w"].clone())
        optimizer: Any = (
            torch.optim.SGD([w], ETA, momentum=0.9, weight_decay=0.1) if kind == "sgd" else torch.optim.Adam([w], 0.05)
        )
        for _ in range(steps):
            g = item["A"] @ (w.detach() - item["c"])
            w.grad = g * min(1.0, clip / float(g.norm()))
            optimizer.step()
        ends.append(w.detach())
    share = torch.tensor(EXAMPLES) / sum(EXAMPLES)
    want = sum(s * end for s, end in zip(share, ends, strict=True))
    assert apart(final(fedavg(bowl, local=ours), clients(), start(), 1, engine).params["w"], want) < 1e-12


def test_clipped_steps_are_not_linear() -> None:
    """A clipped path has no length: FedNova and SCAFFOLD refuse it. A gradient of 0 stays 0."""
    for make in (fednova, scaffold):
        with pytest.raises(InputError, match="linear"):
            make(bowl, local=sgd(0.1, clip=1.0))
    zero = {"w": torch.zeros(2)}
    assert apart(sgd(0.1, clip=1.0).update(zero, {}, zero)[0], zero) == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("plain", [True, False], ids=["scheme I", "by examples"])
def test_cohorts_in_proportion_and_with_replacement(engine: Any, plain: bool) -> None:
    """Each round draws 4 of 3 clients with p_i = n_i/Σn with replacement; a client counts as often as it was drawn,
    times its weight: 1 in scheme I of Li et al. 2020. The draws are numpy's, by (seed, "cohort", round)."""
    w, p = start()["w"], np.array(EXAMPLES) / sum(EXAMPLES)
    repeated = 0
    for t in range(5):
        drawn = Counter(randomness.generator(3, "cohort", t).choice(3, 4, replace=True, p=p).tolist())
        repeated += max(drawn.values()) > 1
        weights = {i: m * (1.0 if plain else EXAMPLES[i]) for i, m in drawn.items()}
        ends = {i: walked(bowls(3)[i], w, STEPS[i], ETA) for i in drawn}
        w = sum(weights[i] * ends[i] for i in drawn) / sum(weights.values())  # type: ignore[assignment]
    assert repeated
    algorithm = fedavg(bowl, local=sgd(ETA, momentum=0.9))
    algorithm = uniform(algorithm) if plain else by_examples(algorithm)
    draw = draw_cohorts(4, seed=3, sizes=dict(enumerate(EXAMPLES)), replacement=True)
    rounds = synchronous(algorithm, engine(Given(clients())), algorithm.init(start()), draw=draw)
    found = [next(rounds) for _ in range(5)]
    assert apart(found[-1].state.params["w"], w) < 1e-12
    assert all(len(set(r.clients)) == len(r.clients) for r in found)


def test_draws_have_their_probabilities() -> None:
    """Over 4,000 rounds of one client, each is drawn n_i/Σn of the time, within five standard deviations."""
    draw = draw_cohorts(1, seed=0, sizes=dict(enumerate(EXAMPLES)))
    counts = Counter(c for t in range(4000) for c in draw([0, 1, 2], t))
    for i, n in enumerate(EXAMPLES):
        p = n / sum(EXAMPLES)
        assert abs(counts[i] / 4000 - p) < 5 * math.sqrt(p * (1 - p) / 4000)
    with pytest.raises(InputError, match="cohort=4 of 3 clients"):
        draw_cohorts(4)([0, 1, 2], 0)
    with pytest.raises(InputError, match="sizes above 0"):
        draw_cohorts(1, sizes={0: 0, 1: 1})([0, 1], 0)


def test_factors_do_not_change_what_is_sent_but_them() -> None:
    """A client is sent the params and a number for each local optimiser."""
    algorithm = with_local_rates(lambda local: fedavg(bowl, **local), {"local": sgd(ETA)}, of_clients={1: 2.0})
    for client, factor in ((0, 1.0), (1, 2.0), (-1, 1.0)):
        sent = algorithm.send(algorithm.init(start()), client)
        assert sent.extra.keys() == {"factors"}
        assert float(sent.extra["factors"]["local"]) == factor
        assert tree.nbytes(sent) == tree.nbytes(start()) + 8
