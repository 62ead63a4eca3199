"""A peer's disk: one file, written whole or not at all, so that its parts always fit each other."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from seedbed.deployment.federation.protocol import Plan
from seedbed.deployment.peers.messages import Offered, fingerprint, mixed_of
from seedbed.deployment.peers.peer_policy import Terms
from seedbed.errors import InputError
from seedbed.federated import ClientId, ServerState
from seedbed.serialization import fill, from_bytes, to_bytes, write_atomically
from seedbed.tree import Tree

FILE = "memory.safetensors"
AGAIN = "start this peer again with the same command: it goes on from the last round that it closed"


@dataclass(frozen=True)
class Memory:
    """What a peer is in a round: all that it needs to do that round's work again.

    Args:
        owed: its own offers of earlier rounds that a neighbour may have to be given again.
        counted, doubt: as in `Link`, of each peer [N].
    """

    state: ServerState
    kept: Tree | None
    round: int
    session: int
    counted: Sequence[int]
    doubt: Sequence[int]
    owed: Mapping[int, Offered]


def of_whom(plan: Plan, terms: Terms, own: ClientId) -> bytes:
    """[32]  whose memory it is: of which run, under which settings, of which peer."""
    return hashlib.sha256(fingerprint(plan, terms) + plan.run + own.to_bytes(4, "little")).digest()


def save(folder: Path, memory: Memory, of: bytes) -> None:
    """Flushed to disk when this returns.

    Args:
        of: see `of_whom`.
    """
    trees = {
        "state": memory.state,
        "owed": {str(round): dict(offered) for round, offered in memory.owed.items()},
        "at": torch.tensor([memory.round, memory.session, memory.kept is not None]),
        "links": torch.tensor([list(memory.counted), list(memory.doubt)]),
        "of": torch.tensor(list(of), dtype=torch.uint8),
    }
    data = to_bytes(trees if memory.kept is None else {**trees, "kept": memory.kept})
    write_atomically(folder / FILE, hashlib.sha256(data).digest() + data, go_on=AGAIN)


def load(folder: Path, plan: Plan, of: bytes) -> Memory | None:
    """None: there is none yet.

    Raises:
        InputError: it was altered, or is another's.
    """
    path = folder / FILE
    if not path.exists():
        return None
    whole = path.read_bytes()
    if hashlib.sha256(whole[32:]).digest() != whole[:32]:
        raise InputError(f"{path} is not what was written: put it back, or remove it to begin again as a new peer")
    tensors = from_bytes(whole[32:], str(path))
    if bytes(tensors["of"].tolist()) != of:
        raise InputError(f"{path} is of another run, peer or settings: give this peer a folder of its own")
    round, session, has_kept = tensors["at"].tolist()
    counted, doubt = tensors["links"].tolist()
    rounds = {int(name.split(".")[1]) for name in tensors if name.startswith("owed.")}
    owed = {r: fill(dict(mixed_of(plan.start)), tensors, f"owed.{r}") for r in rounds}
    kept = fill(plan.kept, tensors, "kept") if has_kept else None
    return Memory(fill(plan.start, tensors, "state"), kept, round, session, counted, doubt, owed)
