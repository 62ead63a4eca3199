"""The gate: what a message must be before it can touch the model. One piece of code for simulation and federation.

A message that is refused is named with its client and the reason; the round goes on without it, and its weight is in no
normaliser. The gate knows lies from their form alone: a well-formed lie is for robust rules (`reducers`).

Shapes: c clients of a group, C of a round.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.federated import ClientId, Message, MessageBatch
from seedbed.lowrank.factored_matrix import is_finite_leaf

Schema = Mapping[str, str]  # of one message: each leaf's type and shape by its path, and how they are nested


class Validated(NamedTuple):
    """What came through, and what did not."""

    groups: Sequence[MessageBatch]
    refused: Mapping[ClientId, str]  # why


@dataclass(frozen=True)
class MessageValidator:
    """The checks, in this order: asked for, only once, schema, finite, weight, norm.

    Args:
        norm: the most that ‖value‖ may be, as a multiple of the median over the round's messages (of those that pass
            the other checks); None: any. It is the round's own median, so that there is no state to lose in a crash.
        norm_cap: the most that ‖value‖ may be, in the units of the message; None: any.
        weight_cap: the most that a weight may be; None: any finite one. Weights must be above 0.
    """

    norm: float | None = None
    norm_cap: float | None = None
    weight_cap: float | None = None

    def admit(
        self,
        groups: Sequence[MessageBatch],
        asked: Collection[ClientId],
        *,
        schema: Schema | None = None,
        alike: bool = True,
    ) -> Validated:
        """Judge a round's messages.

        Args:
            asked: the clients whose messages are waited for.
            schema: what a message must look like; None: as most of them do.
            alike: False: there is no such thing, for clients that send unlike messages (`Algorithm.unlike`).
        """
        refused: dict[ClientId, str] = {}
        sound = _once(_sound(groups, refused), frozenset(asked), refused)
        groups = _of_schema(sound, schema, refused) if alike or schema is not None else [group for group, _ in sound]
        groups = _left(_without(group, self._reasons(group), refused) for group in groups)
        most = self._most(groups)
        if most < torch.inf:
            long = [["norm above the cap" * bool(n > most) for n in _norms(group)] for group in groups]
            groups = _left(_without(group, wrong, refused) for group, wrong in zip(groups, long, strict=True))
        return Validated(groups, refused)

    def _reasons(self, group: MessageBatch) -> list[str]:
        """Why not, for each client of a group; empty where nothing is wrong."""
        value, weight, info = group.messages
        wrong = ["" if good else "not finite" for good in _finite((value, weight, info), len(group.clients)).tolist()]
        for i, w in enumerate(weight.tolist()):
            if w <= 0:
                wrong[i] = wrong[i] or "weight not above 0"
            elif self.weight_cap is not None and w > self.weight_cap:
                wrong[i] = wrong[i] or "weight above the cap"
        return wrong

    def _most(self, groups: Sequence[MessageBatch]) -> float:
        """The longest that a message of this round may be."""
        caps = [torch.inf if self.norm_cap is None else self.norm_cap]
        norms = [_norms(group) for group in groups if self.norm is not None]
        if norms and self.norm is not None:
            caps.append(self.norm * float(torch.cat(norms).quantile(0.5)))
        return min(caps)


def schema_of(group: MessageBatch) -> Schema:
    """What one message of a group looks like.

    Raises:
        ValueError: its messages are not c stacked ones; which part is wrong.
    """
    count, message = len(group.clients), group.messages
    if not isinstance(message, Message) or not isinstance(message.info, Mapping):
        raise ValueError("it is no message")
    parts = {"value": message.value, "weight": message.weight, "info": dict(message.info)}
    found = {"nesting": tree.structure_of(parts)}
    for name, leaf in tree.named_leaves(parts).items():
        if not isinstance(leaf, Tensor):
            raise ValueError(f"{name} is no tensor")
        if leaf.shape[:1] != (count,) or (name == "weight" and leaf.ndim != 1):
            raise ValueError(f"{name} has another shape")
        found[name] = f"{leaf.dtype} {tuple(leaf.shape[1:])}"
    return found


def _sound(groups: Sequence[MessageBatch], refused: dict[ClientId, str]) -> list[tuple[MessageBatch, Schema]]:
    """The groups that hold stacked messages, and what these look like."""
    found = []
    for group in groups:
        try:
            found.append((group, schema_of(group)))
        except ValueError as error:
            refused |= dict.fromkeys(group.clients, str(error))
    return found


def _once(
    groups: Sequence[tuple[MessageBatch, Schema]], asked: Collection[ClientId], refused: dict[ClientId, str]
) -> list[tuple[MessageBatch, Schema]]:
    """Without those that nobody asked, and without what a client sent after its first message."""
    seen: set[ClientId] = set()
    found = []
    for group, schema in groups:
        wrong = []
        for client in group.clients:
            wrong.append("sent twice" if client in seen else "" if client in asked else "not asked")
            seen.add(client)
        left = _without(group, wrong, refused)
        if left.clients:
            found.append((left, schema))
    return found


def _of_schema(
    groups: Sequence[tuple[MessageBatch, Schema]], wanted: Schema | None, refused: dict[ClientId, str]
) -> list[MessageBatch]:
    """Without those of another schema than this, or than most have."""
    if wanted is None:
        votes: Counter[tuple[tuple[str, str], ...]] = Counter()
        for group, own in groups:
            votes[tuple(own.items())] += len(group.clients)
        wanted = dict(votes.most_common(1)[0][0]) if votes else {}
    good = []
    for group, own in groups:
        unlike = [name for name in {**wanted, **own} if wanted.get(name) != own.get(name)]
        if unlike:
            refused |= dict.fromkeys(group.clients, f"{unlike[-1]} is not as agreed")
        else:
            good.append(group)
    return good


def _without(group: MessageBatch, wrong: Sequence[str], refused: dict[ClientId, str]) -> MessageBatch:
    """A group without the messages with which something is wrong."""
    if not any(wrong):
        return group
    refused |= {c: why for c, why in zip(group.clients, wrong, strict=True) if why}
    good = [i for i, why in enumerate(wrong) if not why]
    members = None if group.members is None else [group.members[i] for i in good]
    return MessageBatch([group.clients[i] for i in good], tree.index(group.messages, good), members)


def _left(groups: Iterable[MessageBatch]) -> list[MessageBatch]:
    """Those of which somebody is left."""
    return [group for group in groups if group.clients]


def _finite(stacked: Any, count: int) -> Tensor:
    """Which of the stacked messages hold finite numbers alone: [c]."""
    leaves = [leaf for leaf in tree.leaves(stacked) if leaf.is_floating_point()]
    good = torch.ones(count, dtype=torch.bool, device=leaves[0].device if leaves else None)
    for leaf in leaves:
        good &= is_finite_leaf(leaf)
    return good


def _norms(group: MessageBatch) -> Tensor:
    """‖value‖ of each message, over all leaves: [c], in double precision."""
    leaves = tree.leaves(group.messages.value)
    norms = [torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1, dtype=torch.float64) for x in leaves]
    return torch.stack(norms).norm(dim=0) if norms else torch.zeros(len(group.clients), dtype=torch.float64)
