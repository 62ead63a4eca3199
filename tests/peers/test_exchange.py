"""Peers that die, links that break, and what both ends make of it: on a clock of their own, in double precision."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from seedbed import tree
from seedbed.deployment.peers.messages import mixed_part, with_mixed_part
from seedbed.deployment.peers.output import METRICS
from seedbed.deployment.peers.peer import NoPeersHeard
from seedbed.deployment.peers.peer_policy import PeerPolicy
from seedbed.errors import InputError

from .bench import NAMES, World, apart, carried, peer, plan, simulated, states, terms
from .storms import storm

pytestmark = pytest.mark.usefixtures("float64")


def world(folder: Path, settled: PeerPolicy, name: str = "dpsgd", **network: Any) -> World:
    return World(lambda i, n: peer(name, i, settled, folder, started=n), len(settled.names), **network)


def until(some: World, who: int, round: int) -> None:
    while some.alive[who].round < round:
        some.step()


def from_simulation(some: World, settled: PeerPolicy, name: str = "dpsgd", dead: int | None = None) -> float:
    """How far peers end from `gossip` with the exchanges that there were."""
    want = states(simulated(name, settled, carried(settled, some.took, dead))[-1])
    return max(apart(one.state, want[i]) for i, one in some.ended.items())


def events(folder: Path, who: int, name: str) -> list[dict[str, Any]]:
    lines = (folder / NAMES[who] / "log.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == name]


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
def test_a_dead_peer_is_gone_on_without(order: Any, disk: Path) -> None:
    """Its weight stays with its neighbours, as with a failed link in simulation; they say whom they wait for."""
    settled = terms(4, order=order, deadline=8.0)
    some = world(disk, settled)
    until(some, 1, 2)
    some.kill(1)
    some.run()
    assert sorted(some.ended) == [0, 2, 3]
    assert all([r.number for r in some.took[i]] == [1, 2, 3, 4, 5, 6] for i in some.ended)
    assert from_simulation(some, settled, dead=1) < 1e-13
    assert 8 < some.now < 30  # one deadline, not one a round
    for i in (0, 2):
        assert events(disk, i, "waiting")[-1]["peers"] == ["b"]
        assert [event["peer"] for event in events(disk, i, "silent")] == ["b"]
    assert not events(disk, 3, "silent")


def test_a_peer_that_comes_back_takes_part_from_where_the_others_are(disk: Path) -> None:
    """In the rounds that it missed it neither worked nor exchanged; its metrics say so."""
    settled = terms(4, rounds=12, topology="complete", deadline=2.0)
    some = world(disk, settled)
    until(some, 2, 3)
    some.kill(2)
    until(some, 0, 7)
    some.start(2)
    some.run()
    assert sorted(some.ended) == [0, 1, 2, 3]
    assert from_simulation(some, settled) < 1e-13
    lines = [json.loads(line) for line in (disk / "c" / METRICS).read_text().splitlines()]
    rounds = [line["round"] for line in lines]
    assert rounds == [r.number for r in some.took[2]]
    assert rounds[-1] == 12
    assert 2 <= events(disk, 2, "catching up")[0]["missed"] == 12 - len(rounds)
    assert lines[-1]["peers"] == ["a", "b", "c", "d"]
    assert lines[-1]["consensus"] > 0


@pytest.mark.parametrize("order", [pytest.param("adapt_then_combine", marks=pytest.mark.slow), "combine_then_adapt"])
def test_killed_at_any_instant_and_started_at_once_is_undisturbed(order: Any, disk: Path) -> None:
    """Bit for bit, what clients keep too: after each of its steps in turn a peer is killed, and started again."""
    settled = terms(3, rounds=2, order=order, deadline=50.0, patience=60.0)
    slow = lambda: 0.07  # noqa: E731  messages arrive two steps later
    whole = world(disk / "whole", settled, "scaffold", late=slow)
    whole.run()
    steps = round(whole.now / 0.05)
    assert steps >= 10
    for instant in range(1, steps):
        folder = disk / str(instant)
        some = world(folder, settled, "scaffold", late=slow)
        for _ in range(instant):
            some.step()
        if 1 in some.alive:
            some.kill(1)
            some.start(1)
        some.run()
        for i, one in whole.ended.items():
            again = some.ended[i]
            assert tree.structure_of(again.state) == tree.structure_of(one.state)
            assert apart(again.state, tree.named_leaves(one.state)) == 0
            assert apart(again._kept, tree.named_leaves(one._kept)) == 0


def test_a_link_that_breaks_both_ways_and_heals(disk: Path) -> None:
    settled = terms(4, rounds=12, deadline=2.0)
    some = world(disk, settled, lose=lambda i, j, now: {i, j} == {0, 1} and 0.6 < now < 4, late=lambda: 0.2)
    some.run()
    assert from_simulation(some, settled) < 1e-13
    without = [r.number for r in some.took[0] if 1 not in r.clients]
    assert 1 <= len(without) <= 9
    assert len(events(disk, 0, "back")) == 1


@pytest.mark.parametrize("seed", [106])
def test_what_is_lost_and_whoever_dies_the_sum_over_peers_is_kept(seed: int, disk: Path) -> None:
    """Peers that only mix, through a storm: scripts/prove kill_a_peer has many."""
    found = storm(seed, disk)
    assert found.kept < 1e-12
    assert found.even
    assert found.kills > 5
    assert found.made_up > 0


def test_who_hears_nobody_does_not_learn_alone(disk: Path) -> None:
    settled = terms(3, deadline=2.0, patience=20.0)
    some = world(disk, settled)
    until(some, 0, 2)
    for i in (1, 2):
        some.kill(i)
    with pytest.raises(NoPeersHeard, match="a received no message for 20 seconds in round 3 of 6"):
        some.run()
    assert some.alive[0].round == 2


def test_an_offer_that_is_not_finite_is_not_taken(disk: Path) -> None:
    """The others go on without it, and without waiting."""
    settled = terms(3, topology="complete", deadline=1000.0, patience=2000.0)
    some = world(disk, settled)
    bad = some.alive[1].letters.mould
    pack = bad.pack
    bad.pack = lambda like: pack(tree.full_like(like, float("nan")))  # type: ignore[method-assign]
    some.run(until=100)
    assert all(1 not in r.clients for i in (0, 2) for r in some.took[i])
    assert all(list(r.clients) == [1] for r in some.took[1])
    assert "not finite" in events(disk, 0, "offer refused")[0]["why"]
    assert from_simulation(some, settled) < 1e-13


def test_peers_set_up_otherwise_do_not_exchange(disk: Path) -> None:
    one, other = (peer("dpsgd", i, terms(2, rounds=6 + i), disk, started=1) for i in (0, 1))
    for to, frames in one.outbox(0.0):
        assert to == 1
        other.take(frames, 0.0)
    assert "peer 0 has other settings" in events(disk, 1, "message refused")[0]["why"]
    altered = [frames[0][:-1] + b"\x00" for _, frames in one.outbox(10.0)]
    other.take(altered, 0.0)
    assert "MAC" in events(disk, 1, "message refused")[1]["why"]


def test_a_lost_disk_is_a_new_peer(disk: Path) -> None:
    """Its neighbours go on with it; that what it had counted is gone is said."""
    settled = terms(3, rounds=8, deadline=3.0)
    some = world(disk, settled)
    until(some, 1, 3)
    some.kill(1)
    shutil.rmtree(disk / "b")
    some.start(1)
    some.run()
    assert sorted(some.ended) == [0, 1, 2]
    assert events(disk, 1, "old state restored")
    assert some.took[1][-1].number == 8


def test_memory_that_cannot_be_used(disk: Path) -> None:
    settled = terms(2)
    first = peer("dpsgd", 0, settled, disk, started=1)
    with pytest.raises(InputError, match="held by another process"):
        peer("dpsgd", 0, settled, disk, started=2)
    first.close()
    with pytest.raises(InputError, match="another run, peer or settings"):
        peer("dpsgd", 0, terms(2, rounds=9), disk, started=2)
    path = disk / "a" / "memory.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="was altered"):
        peer("dpsgd", 0, settled, disk, started=2)


@pytest.mark.parametrize("wrong", [{"deadline": 700.0}, {"again": 0.0}, {"rounds": 0}, {"names": ("a",)}])
def test_terms_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        terms(3, **wrong)


def test_what_travels_is_what_is_mixed() -> None:
    """Whole numbers stay each peer's own."""
    start = plan("dpsgd").start
    counting = start._replace(extra={"count": torch.tensor(3), "w": torch.ones(())})
    offered = mixed_part(counting)
    assert set(offered) == {name for name in tree.named_leaves(counting) if name != "extra.count"}
    doubled = with_mixed_part(counting, {name: 2 * leaf for name, leaf in offered.items()})
    assert (doubled.extra["count"], doubled.extra["w"]) == (3, 2)
    assert torch.equal(doubled.params["head.bias"], 2 * start.params["head.bias"])
