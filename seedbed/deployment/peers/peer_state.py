"""A peer's disk: one file, written whole or not at all, so that its parts always fit each other."""

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
RESTART_PEER = "start this peer again with the same command: it goes on from the last round that it closed"


@dataclass(frozen=True)
class PeerState:
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
    owed: Mapping[int, Offer]


def state_owner(plan: FederationProtocol, terms: PeerPolicy, own: ClientId) -> bytes:
    """[32]  whose memory it is: of which run, under which settings, of which peer."""
    return hashlib.sha256(fingerprint(plan, terms) + plan.run + own.to_bytes(4, "little")).digest()


def save_peer_state(folder: Path, memory: PeerState, of: bytes) -> None:
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
    data = trees_to_bytes(trees if memory.kept is None else {**trees, "kept": memory.kept})
    write_atomically(folder / PEER_STATE_FILE, hashlib.sha256(data).digest() + data, go_on=RESTART_PEER)


def load_peer_state(folder: Path, plan: FederationProtocol, of: bytes) -> PeerState | None:
    """None: there is none yet.

    Raises:
        InputError: it was altered, or is another's.
    """
    path = folder / PEER_STATE_FILE
    if not path.exists():
        return None
    whole = path.read_bytes()
    if hashlib.sha256(whole[32:]).digest() != whole[:32]:
        raise InputError(f"{path} is not what was written: put it back, or remove it to begin again as a new peer")
    tensors = tensors_from_bytes(whole[32:], str(path))
    if bytes(tensors["of"].tolist()) != of:
        raise InputError(f"{path} is of another run, peer or settings: give this peer a folder of its own")
    round, session, has_kept = tensors["at"].tolist()
    counted, doubt = tensors["links"].tolist()
    rounds = {int(name.split(".")[1]) for name in tensors if name.startswith("owed.")}
    owed = {r: fill_template(dict(mixed_part(plan.start)), tensors, f"owed.{r}") for r in rounds}
    kept = fill_template(plan.kept, tensors, "kept") if has_kept else None
    return PeerState(fill_template(plan.start, tensors, "state"), kept, round, session, counted, doubt, owed)
