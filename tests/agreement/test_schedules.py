"""The law table on the other schedules: every algorithm that the catalogue lets run there, on both engines.

Asynchronous: three of six clients at work, of unlike speed, a step at every second reply. Gossip: six peers on a ring
(along directed links for push-sum), of which links and peers fail, in either order for some rows. One row of each
algorithm, and all of those made for the schedule.
"""

import functools
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from seedbed import tree
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.engines import OneByOne
from seedbed.rounds import Round, asynchronous, gossip, lognormal_latency, mixing, topology_links

from .bench import KINDS, SIZES, TOLERANCE, Past, Row, apart, clients, copied, module, runs_apart
from .rows import ROWS

COUNT = 4
FAILING: dict[str, Any] = {"link_failure": 0.2, "peer_failure": 0.2, "seed": 1}
LATENCY = lognormal_latency(2, spread=1.0)

FIRST = {row.name: row for row in reversed(ROWS)}
PAIRS = [
    (row, name)
    for row in ROWS
    for name in CATALOGUE[row.name].rounds
    if name != "synchronous" and (row is FIRST[row.name] or name == CATALOGUE[row.name].rounds[0])
]
every_pair = pytest.mark.parametrize(("row", "name"), PAIRS, ids=[f"{row}-{name}" for row, name in PAIRS])
every_engine = pytest.mark.parametrize("kind", KINDS)


def schedule(row: Row, name: str, engine: Any, past: Round | None = None) -> Iterator[Round]:
    """From the row's start, or going on from an earlier round."""
    start = row.start if past is None else copied(past.state)
    going: dict[str, Any] = {"done": past.number, "rest": copied(dict(past.rest()))} if past else {}
    if name == "asynchronous":
        return asynchronous(row.algorithm, engine, start, latency=LATENCY, concurrency=3, buffer=2, seed=2, **going)
    pushes = CATALOGUE[row.name].pushes
    links = topology_links("directed_ring" if pushes else "ring", len(SIZES))
    order = "combine_then_adapt" if row.net is module and not pushes else "adapt_then_combine"
    return gossip(row.algorithm, engine, start, mixing=mixing(links, directed=pushes, **FAILING), order=order, **going)


def of(rounds: Iterator[Round], engine: Any, count: int) -> Past:
    past = Past([], [])
    for round in islice(rounds, count):
        past.rounds.append(round)
        past.memories.append(dict(engine.memory()))
    return past


@functools.cache
def reference(row: Row, name: str, kind: type[OneByOne]) -> Past:
    engine = kind(clients(row.items))
    return of(schedule(row, name, engine), engine, COUNT)


@every_pair
def test_engines_agree(row: Row, name: str) -> None:
    """State, what clients keep, info, and what else the schedule needs to go on. And they are not trivial."""
    slow, fast = (reference(row, name, kind) for kind in KINDS)
    assert runs_apart(slow, fast) <= TOLERANCE
    assert apart([dict(r.rest()) for r in slow.rounds], [dict(r.rest()) for r in fast.rounds]) <= TOLERANCE
    assert apart(slow.rounds[0].state, slow.rounds[-1].state) > 1e-4
    if name == "gossip":
        assert slow.rounds[-1].info["consensus"] > 1e-5
    else:
        assert max(r.info["staleness"] for r in slow.rounds) > 0


@every_pair
@every_engine
def test_stop_and_resume_is_not_stopping(row: Row, name: str, kind: type[OneByOne]) -> None:
    """After round 2 the state, the clients' memory and the rest go to a new engine and a new schedule: bit for bit."""
    past, engine = reference(row, name, kind), kind(clients(row.items))
    engine.recall(copied(past.memories[1]))
    resumed = of(schedule(row, name, engine, past.rounds[1]), engine, COUNT - 2)
    assert runs_apart(Past(past.rounds[2:], past.memories[2:]), resumed) == 0
    assert apart(dict(past.rounds[-1].rest()), dict(resumed.rounds[-1].rest())) == 0


@every_pair
def test_everything_is_finite_and_cut_from_the_graph(row: Row, name: str) -> None:
    past = reference(row, name, OneByOne).rounds[-1]
    found = tree.leaves((past.state, dict(past.rest())))
    assert all(torch.isfinite(x).all() for x in found)
    assert not any(x.requires_grad for x in found)
