"""How a client's message becomes words that can be summed, and how their sum becomes a message again.

Shapes: D numbers of a value, I numbers for people (the last is `cut`), W words.
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
    """Both ways between messages and words of a grid."""

    @property
    def grid(self) -> FixedPointGrid: ...

    def words(self, message: Message, client: ClientId, round: int) -> GridWords:
        """One client's message [W].

        Raises:
            NotSent: it is such that no sum may hold it.
        """
        ...

    def message(self, total: GridWords, like: Message, clients: int) -> Message:
        """The sum over so many clients as the message that is their mean; `like` has its structure."""
        ...


@dataclass(frozen=True)
class WeightedEncoding:
    """The weighted mean on a grid: w·x of each number, two words for each number for people, and w: W = D + 2I + 1.

    A number for people (a loss) has no bound that is known beforehand. It travels as w·z in units of 32/(2ᵇ⁻¹ − 1), in
    two digits of base 2ᵇ⁻¹ − 1: at 20 bits to 6e-5, up to 1.6e7. So does the part of a client's numbers that the grid
    cuts: the mean's info has it as `cut` where it is not 0.
    """

    grid: FixedPointGrid = field(default_factory=FixedPointGrid)

    @property
    def _unit(self) -> float:
        return 32 / self.grid.largest

    def words(self, message: Message, client: ClientId, round: int) -> GridWords:
        weight = float(message.weight)
        if self.grid.cap is None and weight > 1:
            raise NotEncodable(f"a weight of {weight:g} is above 1: give the grid a cap, the weight that counts 1")
        numbers = flatten(message.value)
        words = self.grid.encode(numbers, weight)
        cut = float((np.abs(numbers) > self.grid.clip).mean()) if len(numbers) else 0.0
        said = np.array([*(float(message.info[name]) for name in sorted(message.info)), cut])
        digits = self._digits(said, weight)
        return np.concatenate([words[:-1], digits, words[-1:]])

    def message(self, total: GridWords, like: Message, clients: int) -> Message:
        names = sorted(like.info)
        at = len(total) - 1 - 2 * (len(names) + 1)
        mean, weight = self.grid.decode(np.delete(total, slice(at, -1)))
        high, low = self.grid.signed(total[at:-1]).astype(np.float64).reshape(-1, 2).T
        *said, cut = ((high * self.grid.largest + low) * self._unit / (weight or 1.0)).tolist()
        info = {name: like.info[name].new_tensor(number) for name, number in zip(names, said, strict=True)}
        if cut > 0:
            info["cut"] = like.weight.new_tensor(cut)
        return Message(unflatten(mean, like.value), like.weight.new_tensor(weight * (self.grid.cap or 1.0)), info)

    def _digits(self, numbers: Numbers, weight: float) -> GridWords:
        """[I] -> [2I], high and low."""
        if not np.isfinite(numbers).all():
            raise NotEncodable("not finite: its loss, which no sum could be freed of, is not sent")
        base = self.grid.largest
        most = min(float(base) ** 2, 2.0**52)
        whole = np.rint(np.clip(numbers * self.grid.share(weight) / self._unit, -most, most))
        high = np.rint(whole / base)
        digits: NDArray[np.int64] = np.stack([high, whole - high * base], 1).astype(np.int64).ravel()
        return digits.astype(self.grid.dtype)


def flatten(value: Tree) -> Numbers:
    """All leaves one after another, in double precision [D]."""
    leaves = [leaf.detach().double().reshape(-1) for leaf in tree.leaves(value)]
    numbers: Numbers = torch.cat(leaves).cpu().numpy() if leaves else np.zeros(0)
    return numbers


def unflatten(numbers: Numbers, like: Tree) -> Tree:
    """[D] -> a tree of another's structure, shapes and types."""
    leaves: list[Tensor] = tree.leaves(like)
    parts = torch.split(torch.from_numpy(np.ascontiguousarray(numbers)), [leaf.numel() for leaf in leaves])
    return tree.with_leaves(like, [part.to(x).reshape(x.shape) for part, x in zip(parts, leaves, strict=True)])
