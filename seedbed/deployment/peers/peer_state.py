"""A peer's disk: one file, written atomically, so that its parts are always consistent."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from seedbed.deployment.federation.protocol import FederationProtocol
from seedbed.deployment.peers.messages import Offer, fingerprint, mixed_part
from seedbed.deployment.peers.peer_policy import PeerPolicy
from seedbed.errors import InputError
from seedbed.federated import ClientId, ServerState
from seedbed.serialization import fill_template, tensors_from_bytes, trees_to_bytes, write_atomically
from seedbed.tree import Tree

PEER_STATE_FILE = "memory.safetensors"
RESTART_PEER = "start this peer again with the same command: it continues after the last round that it closed"


@dataclass(frozen=True)
class PeerState:
    """A peer's state at the start of a round: all that it needs to repeat that round's work.

    Args:
        owed: its own offers of earlier rounds that a neighbour may need again.
        counted, doubt: as in `PeerLink`, for each peer [N].
    """

    state: ServerState
    kept: Tree | None
    round: int
    session: int
    counted: Sequence[int]
    doubt: Sequence[int]
    owed: Mapping[int, Offer]


def state_owner(plan: FederationProtocol, terms: PeerPolicy, own: ClientId) -> bytes:
    """[32] bytes: identifies the run, settings and peer of a state."""
    return hashlib.sha256(fingerprint(plan, terms) + plan.run + own.to_bytes(4, "little")).digest()


def save_peer_state(folder: Path, memory: PeerState, of: bytes) -> None:
    """Write a peer's state; on return it is on disk.

    Args:
        of: see `state_owner`.
    """
    trees = {
        "state": memory.state,
        "owed": {str(round): dict(offered) for round, offered in memory.owed.items()},
        "at": torch.tensor([memory.round, memory.session, memory.kept is not None]),
        "links": torch.tensor([list(memory.counted), list(memory.doubt)]),
        "of": torch.tensor(list(of), dtype=torch.uint8),
    }
    data = trees_to_bytes(trees if memory.kept is None else {**trees, "kept": memory.kept})
    write_atomically(folder / PEER_STATE_FILE, hashlib.sha256(data).digest() + data, go_on=RESTART_PEER)


def load_peer_state(folder: Path, plan: FederationProtocol, of: bytes) -> PeerState | None:
    """Load a peer's state; None if there is none yet.

    Raises:
        InputError: it was altered, or belongs to another peer.
    """
    path = folder / PEER_STATE_FILE
    if not path.exists():
        return None
    data = path.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise InputError(f"{path} was altered: restore it, or remove it to start as a new peer")
    tensors = tensors_from_bytes(data[32:], str(path))
    if bytes(tensors["of"].tolist()) != of:
        raise InputError(f"{path} belongs to another run, peer or settings: give this peer its own folder")
    round, session, has_kept = tensors["at"].tolist()
    counted, doubt = tensors["links"].tolist()
    rounds = {int(name.split(".")[1]) for name in tensors if name.startswith("owed.")}
    owed = {r: fill_template(dict(mixed_part(plan.start)), tensors, f"owed.{r}") for r in rounds}
    kept = fill_template(plan.kept, tensors, "kept") if has_kept else None
    return PeerState(fill_template(plan.start, tensors, "state"), kept, round, session, counted, doubt, owed)
