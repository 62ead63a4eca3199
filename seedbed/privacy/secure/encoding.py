"""Encode clients' messages as words that can be summed, and decode their sum.

Shapes: D numbers of a value, I info numbers (the last is `cut`), W words.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedbed import tree
from seedbed.federated import Message
from seedbed.privacy.secure.fixed_point import FixedPointGrid, GridWords, NotEncodable, Numbers
from seedbed.privacy.secure.groups import ClientId
from seedbed.tree import Tree


class MessageEncoding(Protocol):
    """Encoding of messages as words of a grid, and back."""

    @property
    def grid(self) -> FixedPointGrid: ...

    def words(self, message: Message, client: ClientId, round: int) -> GridWords:
        """Encode one client's message: [W].

        Raises:
            NotEncodable: the message must not enter a sum.
        """
        ...

    def message(self, total: GridWords, like: Message, clients: int) -> Message:
        """Decode the sum over `clients` messages to their mean; `like` has its structure."""
        ...


@dataclass(frozen=True)
class WeightedEncoding:
    """Weighted mean on a grid: w·x for each number, two words per info number, and w: W = D + 2I + 1.

    An info number (such as a loss) has no known bound. It is sent as w·z in units of 32/(2ᵇ⁻¹ − 1), as two digits of
    base 2ᵇ⁻¹ − 1: with 20 bits the resolution is 6e-5 and the range 1.6e7. The fraction of a client's numbers that the
    grid clips is sent in the same way; the mean's info contains it as `cut` unless it is 0.
    """

    grid: FixedPointGrid = field(default_factory=FixedPointGrid)

    @property
    def _unit(self) -> float:
        return 32 / self.grid.largest

    def words(self, message: Message, client: ClientId, round: int) -> GridWords:
        weight = float(message.weight)
        if self.grid.cap is None and weight > 1:
            raise NotEncodable(f"weight {weight:g} is above 1: give the grid a cap, the example count with weight 1")
        numbers = flatten(message.value)
        words = self.grid.encode(numbers, weight)
        cut = float((np.abs(numbers) > self.grid.clip).mean()) if len(numbers) else 0.0
        info_numbers = np.array([*(float(message.info[name]) for name in sorted(message.info)), cut])
        digits = self._digits(info_numbers, weight)
        return np.concatenate([words[:-1], digits, words[-1:]])

    def message(self, total: GridWords, like: Message, clients: int) -> Message:
        names = sorted(like.info)
        at = len(total) - 1 - 2 * (len(names) + 1)
        mean, weight = self.grid.decode(np.delete(total, slice(at, -1)))
        high, low = self.grid.signed(total[at:-1]).astype(np.float64).reshape(-1, 2).T
        *info_numbers, cut = ((high * self.grid.largest + low) * self._unit / (weight or 1.0)).tolist()
        info = {name: like.info[name].new_tensor(number) for name, number in zip(names, info_numbers, strict=True)}
        if cut > 0:
            info["cut"] = like.weight.new_tensor(cut)
        return Message(unflatten(mean, like.value), like.weight.new_tensor(weight * (self.grid.cap or 1.0)), info)

    def _digits(self, numbers: Numbers, weight: float) -> GridWords:
        """[I] → [2I]: high and low digit of each number."""
        if not np.isfinite(numbers).all():
            raise NotEncodable(
                "not finite: an info number, such as the loss, is NaN or infinite; the message is not sent"
            )
        base = self.grid.largest
        most = min(float(base) ** 2, 2.0**52)
        whole = np.rint(np.clip(numbers * self.grid.share(weight) / self._unit, -most, most))
        high = np.rint(whole / base)
        digits: NDArray[np.int64] = np.stack([high, whole - high * base], 1).astype(np.int64).ravel()
        return digits.astype(self.grid.dtype)


def flatten(value: Tree) -> Numbers:
    """All leaves concatenated, in double precision: [D]."""
    leaves = [leaf.detach().double().reshape(-1) for leaf in tree.leaves(value)]
    numbers: Numbers = torch.cat(leaves).cpu().numpy() if leaves else np.zeros(0)
    return numbers


def unflatten(numbers: Numbers, like: Tree) -> Tree:
    """[D] → a tree with the structure, shapes and types of `like`."""
    leaves: list[Tensor] = tree.leaves(like)
    parts = torch.split(torch.from_numpy(np.ascontiguousarray(numbers)), [leaf.numel() for leaf in leaves])
    return tree.with_leaves(like, [part.to(x).reshape(x.shape) for part, x in zip(parts, leaves, strict=True)])
