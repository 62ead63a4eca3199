"""Peers that exchange for themselves are `rounds.gossip` on the same seed and data."""

from pathlib import Path

import pytest

from seedbed.rounds.gossip import GossipOrder
from seedbed.rounds.mixing import Topology

from .bench import World, apart, peer, simulated, states, terms


@pytest.mark.parametrize(
    ("name", "topology", "order"),
    [
        ("dpsgd", "ring", "combine_then_adapt"),
        ("dif_maml", "grid", "adapt_then_combine"),
        ("scaffold", "erdos_renyi", "adapt_then_combine"),
        ("fedavgm", "matching", "combine_then_adapt"),
        ("push_sum", "exponential", "adapt_then_combine"),
    ],
)
def test_undisturbed_peers_are_the_simulation(name: str, topology: Topology, order: GossipOrder, disk: Path) -> None:
    """Each peer's whole state, round for round, to 1e-6: single precision, sums in another order."""
    settled = terms(5, rounds=4, topology=topology, order=order)
    world = World(lambda i, n: peer(name, i, settled, disk, started=n), 5)
    world.run()
    for t, want in enumerate(simulated(name, settled)):
        for i, leaves in enumerate(states(want)):
            got = world.took[i][t]
            assert got.number == want.number
            assert apart(got.state, leaves) <= 1e-6
            assert set(got.clients) == {i, *settled.neighbours(i, t)}
