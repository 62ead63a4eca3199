"""What all peers agree on beside the plan: who they are, who is linked with whom, and how rounds go.

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

PERIOD = 64  # rounds after which links that change in turn come again, at most; drawn ones never do


@dataclass(frozen=True, kw_only=True)
class PeerPolicy:
    """How peers exchange.

    Args:
        names: of the peers; a peer's number is its place here.
        rounds: how many.
        topology: who is linked with whom, with `density` and `seed` as in `seedbed.rounds.topology_links`.
        order: of stepping and mixing, as in `seedbed.rounds.gossip`.
        deadline: seconds of silence after which a neighbour is not waited for any more, until it is heard again. Longer
            than a round's work: who works is silent.
        again: seconds between two signs of life of a peer that waits.
        patience: seconds that a peer waits at first for neighbours that it has never heard, and later for anybody at
            all once it hears nobody.
    Raises:
        InputError: fewer than two peers, or a number that cannot be.
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
            raise InputError(f"{len(self.names)} peers and {self.rounds} rounds: there must be two peers and a round")
        if not (0 < self.again < self.deadline <= self.patience):
            raise InputError(
                f"again={self.again}, deadline={self.deadline}, patience={self.patience} seconds: each must be above 0 "
                "and not above the next"
            )

    @property
    def directed(self) -> bool:
        return self.topology in DIRECTED

    @cached_property
    def links(self) -> Links:
        return topology_links(self.topology, len(self.names), density=self.density, seed=self.seed)

    def weights(self, round: int) -> Tensor:
        """[N, N]  what each hears from each when nothing fails; on the diagonal what it keeps."""
        return self._mixing(round).matrix

    def neighbours(self, peer: ClientId, round: int) -> list[ClientId]:
        """With whom this peer exchanges in a round, whoever hears whom."""
        links = self.links(round)
        return [int(j) for j in torch.nonzero(links[peer] | links[:, peer])[:, 0]]

    def contacts(self, peer: ClientId) -> list[ClientId]:
        """With whom it ever exchanges."""
        if self.topology == "matching":
            return [j for j in range(len(self.names)) if j != peer]
        return sorted({j for round in range(min(self.rounds, PERIOD)) for j in self.neighbours(peer, round)})

    @property
    def binding(self) -> dict[str, Any]:
        """What must be equal for all peers."""
        named = {name: getattr(self, name) for name in ("rounds", "topology", "density", "seed", "order")}
        return {"names": list(self.names), **named}

    @cached_property
    def _mixing(self) -> Mixing:
        return mixing(self.links, directed=self.directed)
