"""Lies about messages: what attackers say instead of what they computed.

Shapes: a attackers of a round, h honest clients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from seedbed import tree
from seedbed.attacks.attack import Attack, HonestMessages
from seedbed.federated import Message
from seedbed.tree import Tree


def sign_flip(*, scale: float = 1.0) -> Attack:
    """−scale·own: up the hill (Allen-Zhu et al., ICLR 2021, and many before)."""
    return Attack("sign_flip", lambda seen: _saying(seen, tree.scale(-scale, seen.own.value)))


def scaling(*, scale: float = 10.0) -> Attack:
    """scale·own: model replacement without a backdoor (Bagdasaryan et al., AISTATS 2020, §4.2)."""
    return Attack("scaling", lambda seen: _saying(seen, tree.scale(scale, seen.own.value)))


def gaussian_noise(*, scale: float = 3.0) -> Attack:
    """Gaussian noise as long as `scale` times the honest messages on average, another for each attacker and round."""

    def lie(seen: HonestMessages) -> Message:
        long = _norm(seen.honest.value).mean() * scale

        def drawn(leaf: Tensor) -> Tensor:
            shape = tuple(leaf.shape[1:])
            return torch.stack([torch.as_tensor(g.standard_normal(shape)).to(leaf) for g in seen.draws])

        value = tree.map(drawn, seen.own.value)
        factor = long / _norm(value)
        return _saying(seen, tree.map(lambda x: _by_row(factor.to(x.dtype), x) * x, value))

    return Attack("noise", lie)


def ipm(*, scale: float = 3.0) -> Attack:
    """−scale·mean(honest): inner product manipulation (Xie, Koyejo and Gupta, UAI 2019, arXiv 1903.03936, §3).

    Args:
        scale: ε. Below (n − f)/f the mean of all only shrinks, which rules that look at distances may not see: 1
            hurts nnm+trimmed_mean more than 3.
    """
    return Attack("ipm", lambda seen: all_say(seen, tree.map(lambda x: -scale * x.mean(0), seen.honest.value)))


def alie(*, scale: float = 1.5) -> Attack:
    """mean(honest) − scale·deviation(honest), in each coordinate: a little is enough (Baruch, Baruch and Goldberg,
    NeurIPS 2019, arXiv 1902.06156, Algorithm 3).

    Args:
        scale: z. The paper's z_max stays below what a majority reaches (0.25 with 5 of 25); 1.5 hurts more, and is
            what ByzFL has.
    """

    def little(x: Tensor) -> Tensor:
        return x.mean(0) - scale * x.std(0, correction=0)

    return Attack("alie", lambda seen: all_say(seen, tree.map(little, seen.honest.value)))


def mimic() -> Attack:
    """All say what one honest client says, which then counts too much (Karimireddy, He and Jaggi, ICLR 2022, arXiv
    2006.09365, §4.2).

    Departure: the client is the one farthest from the honest mean, found anew each round, where the paper looks for
    the direction of greatest variance in the first rounds and keeps its client.
    """

    def lie(seen: HonestMessages) -> Message:
        away = _norm(tree.map(lambda x: x - x.mean(0), seen.honest.value))
        return all_say(seen, tree.index(seen.honest.value, int(away.argmax())))

    return Attack("mimic", lie)


def send_nan() -> Attack:
    """NaN in every number."""
    return Attack("not_a_number", lambda seen: _saying(seen, tree.full_like(seen.own.value, torch.nan)))


def send_infinity() -> Attack:
    """Infinity in every number."""
    return Attack("infinite", lambda seen: _saying(seen, tree.full_like(seen.own.value, torch.inf)))


def weight_lie(*, weight: float = 1e6) -> Attack:
    """−own, with a weight that no honest client has."""

    def lie(seen: HonestMessages) -> Message:
        message = _saying(seen, tree.scale(-1.0, seen.own.value))
        return message._replace(weight=torch.full_like(message.weight, weight))

    return Attack("weight_lie", lie)


def stale() -> Attack:
    """In every round again what the attacker would have said in the first."""
    return Attack("stale", lambda seen: seen.first())


def sybil(*, names: int = 10) -> Attack:
    """−own, under `names` names, all but one of them invented (Douceur, IPTPS 2002).

    A gate that knows who was asked refuses those, so that it is a sign flip.
    """
    return Attack("sybil", lambda seen: _saying(seen, tree.scale(-1.0, seen.own.value)), names=names)


LIES: dict[str, Callable[..., Attack]] = {
    "sign_flip": sign_flip,
    "scaling": scaling,
    "noise": gaussian_noise,
    "ipm": ipm,
    "alie": alie,
    "mimic": mimic,
    "not_a_number": send_nan,
    "infinite": send_infinity,
    "weight_lie": weight_lie,
    "stale": stale,
    "sybil": sybil,
}


def _saying(seen: HonestMessages, value: Tree) -> Message:
    """The attackers' messages with other values [a, ...]."""
    return seen.own._replace(value=value)


def all_say(seen: HonestMessages, one: Tree) -> Message:
    """The same value [...] from every attacker."""
    count = len(seen.draws)
    return _saying(seen, tree.map(lambda x: x.expand(count, *x.shape).clone(), one))


def _norm(stacked: Tree) -> Tensor:
    """‖value‖ over all leaves: leaves [a, ...] -> [a]."""
    return torch.stack([x.reshape(len(x), -1).double().square().sum(1) for x in tree.leaves(stacked)]).sum(0).sqrt()


def _by_row(factors: Tensor, like: Tensor) -> Tensor:
    """[a] -> [a, 1, ...]."""
    return factors.reshape(-1, *[1] * (like.ndim - 1))
