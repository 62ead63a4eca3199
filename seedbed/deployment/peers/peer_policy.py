"""The policy that all peers agree on beside the plan: their names, the topology, and the schedule.

Shapes: N peers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.rounds.gossip import GossipOrder
from seedbed.rounds.mixing import DIRECTED, Links, Mixing, Topology, mixing, topology_links

PERIOD = 64  # at most: rounds after which a periodic topology repeats; random topologies never do


@dataclass(frozen=True, kw_only=True)
class PeerPolicy:
    """How peers exchange.

    Args:
        names: of the peers; a peer's number is its place here.
        rounds: how many, at least 1.
        topology: the links, with `density` and `seed` as for `seedbed.rounds.topology_links`.
        order: of stepping and mixing, as for `seedbed.rounds.gossip`.
        deadline: seconds of silence after which a neighbour is not waited for, until its next message. Choose it longer
            than a round's training, during which a peer is silent.
        again: seconds between the heartbeats of a waiting peer.
        patience: seconds to wait at first for neighbours that were never heard, and later for any message at all.
    Raises:
        InputError: fewer than two peers, or a number out of range.
    """

    names: Sequence[str]
    rounds: int
    topology: Topology = "ring"
    density: float = 0.5
    seed: int = 0
    order: GossipOrder = "adapt_then_combine"
    deadline: float = 60.0
    again: float = 1.0
    patience: float = 600.0

    def __post_init__(self) -> None:
        if len(self.names) < 2 or self.rounds < 1:
            raise InputError(
                f"{len(self.names)} peers and {self.rounds} rounds: at least two peers and one round needed"
            )
        if not (0 < self.again < self.deadline <= self.patience):
            raise InputError(
                f"again={self.again}, deadline={self.deadline}, patience={self.patience} seconds: give "
                "0 < again < deadline ≤ patience"
            )

    @property
    def directed(self) -> bool:
        return self.topology in DIRECTED

    @cached_property
    def links(self) -> Links:
        return topology_links(self.topology, len(self.names), density=self.density, seed=self.seed)

    def weights(self, round: int) -> Tensor:
        """[N, N]: the mixing weight of each peer (column) for each (row), without failures."""
        return self._mixing(round).matrix

    def neighbours(self, peer: ClientId, round: int) -> list[ClientId]:
        """The peers that this peer exchanges with in a round, in either direction."""
        links = self.links(round)
        return [int(j) for j in torch.nonzero(links[peer] | links[:, peer])[:, 0]]

    def contacts(self, peer: ClientId) -> list[ClientId]:
        """All peers that this peer ever exchanges with."""
        if self.topology == "matching":
            return [j for j in range(len(self.names)) if j != peer]
        return sorted({j for round in range(min(self.rounds, PERIOD)) for j in self.neighbours(peer, round)})

    @property
    def binding(self) -> dict[str, Any]:
        """The settings that must be equal for all peers."""
        settings = {name: getattr(self, name) for name in ("rounds", "topology", "density", "seed", "order")}
        return {"names": list(self.names), **settings}

    @cached_property
    def _mixing(self) -> Mixing:
        return mixing(self.links, directed=self.directed)
