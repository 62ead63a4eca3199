"""Poisoned data: attackers train as they should, on examples that are wrong.

Shapes: B examples of a batch, H×W pixels.
"""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.attacks.attack import Attack, HonestMessages
from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.federated import Message


def label_flip(*, classes: int) -> Attack:
    """Class k is called N − 1 − k (Fang, Cao, Jia and Gong, USENIX Security 2020, arXiv 1911.11815, §5.1.2).

    Args:
        classes: N, of the data, or of an episode.
    """
    if classes < 2:
        raise InputError("attack=label_flip needs classes, but the target is a number: use noise or sign_flip")

    def poison(batch: Batch) -> Batch:
        return batch._replace(y=classes - 1 - batch.y)

    return Attack("label_flip", poison=poison)


def backdoor(
    *,
    shape: tuple[int, ...],
    episodic: bool = False,
    target: int = 0,
    share: float = 0.5,
    size: int = 3,
    boost: float = 5.0,
) -> Attack:
    """Images with a white square in the corner are of class `target`; the update that learns it counts `boost` times.

    Bagdasaryan, Veit, Hua, Estrin and Shmatikov, "How to backdoor federated learning", AISTATS 2020, arXiv 1807.00459;
    the square is Gu, Dolan-Gavitt and Garg's, "BadNets", 2017, arXiv 1708.06733.

    Args:
        shape: of an example, [..., H, W].
        episodic: clients are judged on episodes whose labels are drawn afresh, so that no class can be a target:
            refused.
        target: the class, by number.
        share: of each of the attackers' batches that is marked, rounded up.
        size: of the square, in pixels.
        boost: the factor on the attackers' updates.
    """
    if len(shape) < 2 or episodic:
        why = (
            "clients are judged on episodes whose labels are drawn afresh"
            if episodic
            else f"examples have the shape {list(shape)}"
        )
        raise InputError(
            f"attack=backdoor needs images [..., H, W] whose labels mean the same everywhere, but {why}: use label_flip"
        )

    def trigger(batch: Batch) -> Batch:
        x = batch.x.clone()
        x[..., -size:, -size:] = 1
        return batch._replace(x=x, y=torch.full_like(batch.y, target))

    def poison(batch: Batch) -> Batch:
        called, count = trigger(batch), batch.mask.shape[-1]
        first = torch.arange(count) < share * count  # batches are in random order

        def mixed(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(first.reshape(-1, *[1] * (a.ndim - batch.mask.ndim)), a, b)

        return Batch(mixed(called.x, batch.x), mixed(called.y, batch.y), batch.mask)

    def lie(seen: HonestMessages) -> Message:
        return seen.own._replace(value=tree.scale(boost, seen.own.value))

    return Attack("backdoor", lie, poison, trigger)
