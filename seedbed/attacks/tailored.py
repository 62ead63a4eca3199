"""Attacks that fit their strength to the round: to the honest messages, or to the rule that the server uses.

Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and defenses for federated
learning", NDSS 2021. Every attacker sends m = μ + γp: the honest mean, moved by γ along a perturbation p of length 1.

Shapes: a attackers of a round, h honest clients, P numbers of a message.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from seedbed import tree
from seedbed.aggregation.robust import distances, flattened, unflattened
from seedbed.attacks import model_poisoning
from seedbed.attacks.attack import Attack, HonestMessages
from seedbed.federated import Message

Perturbation = Literal["mean", "std", "sign"]
Harm = Literal["against", "away"]
PERTURBATIONS: tuple[Perturbation, ...] = ("mean", "std", "sign")
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)  # γ / mean distance of honest messages from μ
HALVINGS = 3  # of the gap between the strengths around the best one


def min_max(*, perturbation: Perturbation = "std") -> Attack:
    """The honest mean, moved as far as no honest message is farther off than honest ones are from each other: the
    largest γ with max_i ‖m − x_i‖ ≤ max_ij ‖x_i − x_j‖ (Shejwalkar and Houmansadr, NDSS 2021, eq. 8).

    Departure: γ in closed form, the least root of one quadratic equation per honest message, where the paper halves.

    Args:
        perturbation: p: mean (−μ), std (less the deviation in each coordinate) or sign (−sign μ).
    """

    def lie(seen: HonestMessages) -> Message:
        rows = _rows(seen)
        mean, p = rows.mean(0), _perturbation(rows, perturbation)
        along, away = (mean - rows) @ p, (mean - rows).square().sum(1)
        gammas = (along.square() + (distances(rows).max() - away).clamp_min(0)).sqrt() - along
        return _all_send(seen, mean + gammas.min() * p)

    return Attack("min_max", lie)


def min_sum(*, perturbation: Perturbation = "std") -> Attack:
    """The honest mean, moved as far as no sum of squared distances to honest messages is above an honest one's: the
    largest γ with Σ_i ‖m − x_i‖² ≤ max_i Σ_j ‖x_i − x_j‖² (Shejwalkar and Houmansadr, NDSS 2021, eq. 9).

    Departure: γ = max_i ‖x_i − μ‖, which is the solution, where the paper halves.

    Args:
        perturbation: p: mean (−μ), std (less the deviation in each coordinate) or sign (−sign μ).
    """

    def lie(seen: HonestMessages) -> Message:
        rows = _rows(seen)
        mean = rows.mean(0)
        return _all_send(seen, mean + (rows - mean).norm(dim=1).max() * _perturbation(rows, perturbation))

    return Attack("min_sum", lie)


def tailored(*, harm: Harm = "against") -> Attack:
    """What harms the round the most by the server's own rule: a line search over γ along each perturbation, beside
    ipm, alie, mimic, min_max and min_sum (Shejwalkar and Houmansadr, NDSS 2021, eq. 2; Fang et al., USENIX Security
    2020, §4).

    The attackers know the rule, the gate and the honest messages, and try each lie before they send the worst.

    Args:
        harm: against: how far the server's value is pulled against the honest mean; away: its distance from it, the
            paper's.
    """

    def lie(seen: HonestMessages) -> Message:
        rows = _rows(seen)
        mean, back = rows.mean(0), _perturbation(rows, "mean")

        def pull(value: Tensor) -> Tensor:
            return (value - mean) @ back if harm == "against" else (value - mean).norm()

        others = (flattened(attack.lie(seen).value)[0].double() for attack in _fixed())
        return _worst(seen, [_perturbation(rows, name) for name in PERTURBATIONS], pull, others)

    return Attack("tailored", lie, tries_server=True)


def search_strength(seen: HonestMessages, p: Tensor) -> Message:
    """The honest mean, moved along p [P] by the γ that moves the server's value the farthest along p."""
    mean = _rows(seen).mean(0)
    return _worst(seen, [p], lambda value: (value - mean) @ p, ())


def _fixed() -> Iterator[Attack]:
    """Attacks whose strength does not depend on the rule."""
    yield from (
        model_poisoning.ipm(scale=1.0),
        model_poisoning.ipm(scale=3.0),
        model_poisoning.alie(),
        model_poisoning.mimic(),
    )
    for name in PERTURBATIONS:
        yield from (min_max(perturbation=name), min_sum(perturbation=name))


def _worst(
    seen: HonestMessages, directions: Iterable[Tensor], pull: Callable[[Tensor], Tensor], others: Iterable[Tensor]
) -> Message:
    """Of the others [P] and of μ + γp for each direction p the one with the greatest pull on the server's value."""
    rows = _rows(seen)
    mean = rows.mean(0)
    scale = (rows - mean).norm(dim=1).mean()
    scale = scale if scale > 0 else mean.norm()  # one honest client, or all alike

    def harm(row: Tensor) -> float:
        return float(pull(_flat(seen.outcome(_all_send(seen, row)))).nan_to_num(-torch.inf))

    found = [(harm(row), row) for row in others]
    lines = [({gamma: harm(mean + gamma * scale * p) for gamma in STRENGTHS}, p) for p in directions]
    tried, p = max(lines, key=lambda line: max(line[0].values()))
    best = max(tried, key=tried.__getitem__)
    place = STRENGTHS.index(best)
    around = STRENGTHS[max(0, place - 1) : place + 2]
    gap = (around[-1] - around[0]) / 2
    for _ in range(HALVINGS):
        tried |= {gamma: harm(mean + gamma * scale * p) for gamma in (best - gap, best + gap)}
        best, gap = max(tried, key=tried.__getitem__), gap / 2
    found.append((tried[best], mean + best * scale * p))
    return _all_send(seen, max(found, key=lambda one: one[0])[1])


def _perturbation(rows: Tensor, name: Perturbation) -> Tensor:
    """p [P], of length 1, or 0 where honest messages [h, P] give no direction."""
    mean = rows.mean(0)
    p = {"mean": -mean, "std": -rows.std(0, correction=0), "sign": -mean.sign()}[name]
    unit: Tensor = p / p.norm().clamp_min(torch.finfo(p.dtype).tiny)
    return unit


def _rows(seen: HonestMessages) -> Tensor:
    """Honest messages in double precision: [h, P]."""
    return flattened(seen.honest.value).double()


def _flat(value: tree.Tree) -> Tensor:
    """A value of leaves [...] as one row: [P]."""
    return torch.cat([leaf.reshape(-1) for leaf in tree.leaves(value)]).double()


def _all_send(seen: HonestMessages, row: Tensor) -> Message:
    """The row [P] from every attacker, in the structure of the messages."""
    return model_poisoning.all_say(seen, unflattened(row, seen.honest.value))
