"""Peers that only mix, through a network that loses and delays, killed and started again: what became of the sum."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from seedbed import tree
from seedbed.deployment.peers.link import PeerLink
from seedbed.deployment.peers.messages import PeerStatus
from seedbed.deployment.peers.peer import Peer
from seedbed.rounds.mixing import Topology

from .bench import World, chances, peer, terms

PEERS = 4
TOPOLOGIES: list[Topology] = ["ring", "complete", "matching", "directed_ring", "exponential"]


class Storm(NamedTuple):
    """What became of it."""

    kept: float  # the largest change of a leaf's sum over peers
    even: bool  # both ends of every link have counted the same rounds
    made_up: int  # exchanges that one end counted later than the other
    lost: int  # exchanges that did not take place
    kills: int


def storm(seed: int, folder: Path, *, lose: float = 0.2, kills: float = 0.01, rounds: int = 24) -> Storm:
    """Messages are lost one by one, and those of one direction of a link for four seconds, which is longer than the
    deadline. Later nobody is killed any more and outages end, so that the last words can be heard."""
    rng = chances(seed)
    topology = TOPOLOGIES[seed % len(TOPOLOGIES)]
    directed = topology in ("directed_ring", "exponential")
    order: Any = "adapt_then_combine" if directed or seed % 2 else "combine_then_adapt"
    settled = terms(PEERS, rounds=rounds, topology=topology, order=order, deadline=3.0, again=0.5, patience=500.0)
    log: list[str] = []

    def make(i: int, started: int) -> Peer:
        name = "still push_sum" if directed else "still"
        return peer(name, i, settled, folder, scattered=True, started=started, said=log.append)

    def lost(i: int, j: int, now: float) -> bool:
        calm = any(one.round >= rounds - 8 for one in world.alive.values()) or bool(world.ended)
        return bool(rng.random() < lose or (not calm and chances(seed, i, j, int(now / 4)).random() < lose))

    world = World(make, PEERS, lose=lost, late=lambda: float(rng.exponential(0.3)))
    before = total([one.state for one in world.alive.values()])
    down: dict[int, float] = {}
    killed = 0
    while world.alive or down:
        early = all(one.round < rounds / 2 for one in world.alive.values())
        for i in list(world.alive):
            if early and rng.random() < kills and len(world.alive) > 2:
                world.kill(i)
                killed += 1
                down[i] = world.now + min(float(rng.exponential(2.0)), 6.0)
        for i in [i for i, when in down.items() if when <= world.now]:
            del down[i]
            world.start(i)
        world.step()
        assert world.now < 5000, f"seed {seed}: {[(i, p.round) for i, p in world.alive.items()]}"
    after = total([one.state for one in world.ended.values()])
    ends = world.ended
    even = all(link.counted == ends[j].links[i].counted for i in ends for j, link in ends[i].links.items())
    took = sum(len(r.clients) - 1 for rounds_ in world.took.values() for r in rounds_)
    wanted = sum(len(settled.neighbours(i, t)) for i in range(PEERS) for t in range(rounds))
    change = max(float((before[n] - after[n]).abs().max()) for n in before)
    return Storm(change, even, sum('"made up for"' in line for line in log), (wanted - took) // 2, killed)


@contextmanager
def taking_what_comes() -> Iterator[None]:
    """Inside, a peer counts each exchange whose offer it has heard, whatever the other end does: to see what that
    would cost."""
    hear, ready, close = PeerLink.hear, PeerLink.ready, PeerLink.close

    def deaf(link: PeerLink, status: PeerStatus, own_session: int, now: float) -> bool:
        taken = hear(link, status, own_session, now)
        link.theirs, link.doubt = link.counted, -1
        return taken

    def closing(link: PeerLink, round: int, counting: bool) -> None:
        link.counted = link.theirs = round if counting else link.counted

    PeerLink.hear, PeerLink.close = deaf, closing  # type: ignore[method-assign]
    PeerLink.ready = lambda link, round: round in link.offers  # type: ignore[method-assign]
    try:
        yield
    finally:
        PeerLink.hear, PeerLink.ready, PeerLink.close = hear, ready, close  # type: ignore[method-assign]


def total(states: list[Any]) -> dict[str, torch.Tensor]:
    leaves = [tree.named_leaves(state) for state in states]
    return {name: sum(one[name] for one in leaves) for name in leaves[0]}  # type: ignore[misc]
