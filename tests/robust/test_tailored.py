"""Attacks that fit their strength to the round: closed forms on small vectors, a brute-force twin of the line search,
and what the search must be no milder than.

Shapes: a attackers, h honest clients, P numbers of a message.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.aggregation import make_rule, mean
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fltrust import fltrust
from seedbed.algorithms.scaffold import scaffold
from seedbed.attacks import ATTACKS, Attack, AttackedEngine, HonestMessages
from seedbed.attacks.after_adaptation import orthogonal
from seedbed.data.sampling import Sampled, batches, episodes
from seedbed.engines import OneByOne
from seedbed.errors import InputError
from seedbed.federated import Message, MessageBatch
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.training import item_weight
from seedbed.rounds.message_validation import MessageValidator
from seedbed.tree import Tree

from .test_attacks import CLIENTS, HOSTILE, LOSS, START, flat, population, predict, said_by

RULES = {
    "median": {},
    "trimmed_mean": {"f": 3},
    "norm_bounding+nnm+trimmed_mean": {"f": 3},
    "geometric_median": {},
    "krum": {"f": 3},
}
FIXED: list[tuple[str, dict[str, Any]]] = [
    *(("ipm", {"scale": scale}) for scale in (1.0, 3.0)),
    *((name, {"perturbation": p}) for name in ("min_max", "min_sum") for p in ("mean", "std", "sign")),
    *((name, {}) for name in ("alie", "mimic")),
]


def seen(
    honest: Tensor, reduce: Any = mean, attackers: int = 3, gate: MessageValidator | None = None
) -> HonestMessages:
    """What attackers know where the honest send these rows [h, P], each of weight 1."""

    def message(rows: Tensor) -> Message:
        return Message({"x": rows}, torch.ones(len(rows)), {})

    engine: Any = None
    attacked = AttackedEngine(engine, Attack("none"), [], engine, gate=gate)
    algorithm = replace(fedavg(LOSS), reduce=reduce)
    h = len(honest)
    truths, hostile = [MessageBatch(range(h), message(honest))], range(h, h + attackers)
    draws: Any = [None] * attackers
    return HonestMessages(
        message(torch.zeros(attackers, honest.shape[1])),
        message(honest),
        draws,
        lambda: message(honest[:attackers]),
        lambda lies: attacked._outcome(algorithm, truths, hostile, lies),
    )


def lie(of: HonestMessages, name: str, **settings: Any) -> Tensor:
    """What the first attacker sends; all send the same."""
    rows = ATTACKS[name](**settings).lie(of).value["x"]
    assert all(torch.equal(row, rows[0]) for row in rows)
    first: Tensor = rows[0]
    return first


def rows(seed: int = 0, h: int = 12, size: int = 7) -> Tensor:
    return torch.randn(h, size, generator=torch.Generator().manual_seed(seed)) + 0.7


# ---- closed forms ---------------------------------------------------------------------------------------------------


def test_min_max_and_min_sum_by_hand() -> None:
    """Honest 0, 2 and 4 on a line: μ = 2, p = −1 (−μ, −sd and −sign μ alike). min-max: |2 − γ − 4| ≤ 4, so γ = 2 and
    m = 0. min-sum: Σ (m − x_i)² = 8 + 3γ² ≤ max_i Σ_j (x_i − x_j)² = 4 + 16, so γ = 2 and m = 0."""
    honest = torch.tensor([[0.0], [2.0], [4.0]])
    for name in ("min_max", "min_sum"):
        for p in ("mean", "std", "sign"):
            assert lie(seen(honest), name, perturbation=p) == pytest.approx(0, abs=1e-12), (name, p)


@pytest.mark.parametrize("p", ["mean", "std", "sign"])
@pytest.mark.parametrize("seed", range(5))
def test_min_max_and_min_sum_are_at_their_bounds_and_not_beyond(p: str, seed: int) -> None:
    """In many dimensions: the bound is met to 1e-9, and with 1 % more of γ it is broken (the paper's halving search
    ends at that γ)."""
    x = rows(seed)
    apart = (x[:, None] - x[None]).square().sum(2)
    bounds: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "min_max": (lambda m: (m - x).square().sum(1).max(), apart.max()),
        "min_sum": (lambda m: (m - x).square().sum(), apart.sum(1).max()),
    }
    for name, (value, most) in bounds.items():
        m = lie(seen(x), name, perturbation=p)
        assert float(value(m) / most) == pytest.approx(1, abs=1e-9), name
        assert value(x.mean(0) + 1.01 * (m - x.mean(0))) > most, name


def test_plain_inner_product_manipulation_is_the_opposite_of_the_mean() -> None:
    x = rows()
    assert torch.allclose(lie(seen(x), "ipm", scale=1.0), -x.mean(0), atol=1e-14)


def test_against_the_mean_the_search_takes_the_greatest_strength_along_the_mean() -> None:
    """The mean of h honest and a attackers at μ + γs·p is pulled by aγs/(h + a) along p: linear in γ, so the greatest
    strength tried (5, and half of the gap of 2, and half of that, beyond it) wins, and of the directions −μ itself."""
    x = rows()
    mu = x.mean(0)
    scale = (x - mu).norm(dim=1).mean()
    got = lie(seen(x), "tailored")
    assert torch.allclose(got, mu - (5 + 1 + 0.5 + 0.25) * scale * mu / mu.norm(), atol=1e-9)


# ---- the line search ------------------------------------------------------------------------------------------------


def pull(of: HonestMessages, row: Tensor, harm: str) -> float:
    value, mu = of.outcome(Message({"x": row.expand(3, -1)}, torch.ones(3), {}))["x"], of.honest.value["x"].mean(0)
    return float((value - mu).norm() if harm == "away" else -(value - mu) @ mu / mu.norm())


@pytest.mark.parametrize("harm", ["against", "away"])
@pytest.mark.parametrize("name", RULES)
def test_the_search_is_at_least_as_harmful_as_every_fixed_strength(name: str, harm: str) -> None:
    """By the server's own rule: as harmful as ipm, alie, mimic, min-max and min-sum of each perturbation, and as every
    strength of a grid along each perturbation that the search tries."""
    for seed in range(4):
        of = seen(rows(seed), make_rule(name, **RULES[name]))
        got = pull(of, lie(of, "tailored", harm=harm), harm)
        for fixed, settings in FIXED:
            assert got >= pull(of, lie(of, fixed, **settings), harm) - 1e-12, (fixed, settings)
        x = of.honest.value["x"]
        mu, scale = x.mean(0), (x - x.mean(0)).norm(dim=1).mean()
        for p in (-mu, -x.std(0, correction=0), -mu.sign()):
            for gamma in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0):
                assert got >= pull(of, mu + gamma * scale * p / p.norm(), harm) - 1e-12, gamma


def test_the_search_finds_the_edge_of_a_rule_that_drops_what_is_far() -> None:
    """A rule that drops what is farther than 1.3 from zero and takes the mean of the rest, and honest messages of mean
    0.1 and deviation 1: the worst lie is −1.3, between the strengths 1 and 1.5. Halving comes within 0.1 of it."""

    class Near:
        linear = False

        def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
            x = stacked["x"]
            return {"x": x[x.abs()[:, 0] <= 1.3].mean(0)}

    x = torch.tensor([[-0.9], [1.1]]).repeat(4, 1)
    got = float(lie(seen(x, Near()), "tailored")[0])
    assert -1.3 <= got <= -1.2


def test_the_search_keeps_within_the_servers_gate() -> None:
    """A gate of twice the median norm refuses lies that are longer: the search sends what passes, and still harms."""
    x = rows()
    gate = MessageValidator(norm=2.0)
    of = seen(x, gate=gate)
    got = lie(of, "tailored")
    norms = torch.cat([x.norm(dim=1), got.norm().expand(3)])
    assert got.norm() <= 2 * norms.median() + 1e-9
    assert pull(of, got, "against") > 0
    assert lie(seen(x), "tailored").norm() > 2 * norms.median()


def test_few_equal_and_no_honest_messages() -> None:
    """One honest client, honest clients that all send the same, and zeros: every number stays finite."""
    for x in (rows(h=1), rows(h=1).expand(5, -1).clone(), torch.zeros(4, 3)):
        for name in ("min_max", "min_sum", "tailored"):
            assert lie(seen(x, make_rule("median")), name).isfinite().all(), name


def test_a_server_without_a_rule_is_refused() -> None:
    root = tree.index(Sampled(population(), batches(4)).tasks([0], 0), 0)
    algorithm = fltrust(fedavg(LOSS), root)
    engine = AttackedEngine(
        OneByOne(Sampled(population(), batches(4))), ATTACKS["tailored"](), HOSTILE, algorithm.init(START)
    )
    with pytest.raises(InputError, match=r"attack=tailored searches .*reduce=each.*: use min_max"):
        list(engine.ask(algorithm, dict.fromkeys(range(CLIENTS), algorithm.init(START)), 0))


# ---- after adaptation -----------------------------------------------------------------------------------------------


def test_the_orthogonal_part() -> None:
    """Of (3, 4) beside (1, 0) it is (0, 4); beside zero it is all of it."""
    a = {"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    part = orthogonal(a, {"w": torch.tensor([2.0]), "b": torch.tensor([0.0])})
    assert (float(part["w"]), float(part["b"])) == (0, 4)
    assert tree.leaves(orthogonal(a, tree.zeros_like(a))) == tree.leaves(a)


@pytest.mark.parametrize(
    "sampler", [batches(8, steps=2), episodes(ways=3, shots=2, queries=2)], ids=["batches", "episodes"]
)
def test_the_poison_raises_the_loss_after_adaptation_and_not_before(sampler: Any) -> None:
    """By finite differences on the attackers' own data: along what an attacker computes, the server's step (it
    subtracts) raises the loss after adaptation, and the loss before has no slope: below 1e-6 of the other's."""
    attack = ATTACKS["after_adaptation"](loss=LOSS, lr=0.5, steps=3)
    assert attack.client is not None
    task = tree.index(Sampled(population(), sampler, seed=1).tasks([1], 0), 0)
    g = torch.Generator().manual_seed(1)
    params = {k: torch.randn(v.shape, generator=g, dtype=v.dtype) * 0.3 for k, v in START.items()}
    value = attack.client(params, {}, task)[0].value

    def losses(step: float) -> tuple[float, float]:
        theta = tree.axpy(-step, value, params)
        before, after_, weights = [], [], []
        for k in range(int(task.steps)):
            item = tree.index(task.items, k)
            support = getattr(item, "support", None) or tree.map(lambda x: x[0::2], item)
            query = getattr(item, "query", None) or tree.map(lambda x: x[1::2], item)
            phi = theta
            for _ in range(3):
                slope = torch.func.grad(LOSS)(phi, support)
                phi = tree.axpy(-0.5, slope, phi)
            before.append(float(LOSS(theta, query)))
            after_.append(float(LOSS(phi, query)))
            weights.append(float(item_weight(item)))
        return (np.dot(before, weights) / sum(weights), np.dot(after_, weights) / sum(weights))

    (low, low_after), (high, high_after) = losses(-1e-5), losses(1e-5)
    assert high_after > low_after
    assert abs(high - low) < 1e-6 * (high_after - low_after) + 1e-15


def test_what_after_adaptation_needs() -> None:
    """Messages of the structure of the params; a batch of one example, whose other half is empty, harms nothing."""
    attack = ATTACKS["after_adaptation"](loss=supervised(predict, cross_entropy))
    algorithm = scaffold(LOSS)
    start = algorithm.init(START)
    engine = AttackedEngine(OneByOne(Sampled(population(), batches(4))), attack, HOSTILE, start)
    with pytest.raises(InputError, match="after_adaptation needs messages of the structure of the params"):
        list(engine.ask(algorithm, {c: algorithm.send(start, c) for c in range(CLIENTS)}, 0))
    one = fedavg(LOSS)
    engine = AttackedEngine(OneByOne(Sampled(population(), batches(1))), attack, HOSTILE, one.init(START))
    said = said_by(engine, one, dict.fromkeys(range(CLIENTS), START), 0)
    honest = torch.stack([flat(said[c]) for c in range(CLIENTS) if c not in HOSTILE])
    assert all(torch.allclose(flat(said[c]), honest.mean(0), atol=1e-12) for c in HOSTILE)
    assert math.isfinite(float(honest.sum()))
