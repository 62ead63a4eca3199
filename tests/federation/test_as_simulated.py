"""A federation over a transport is the simulation of the same seed, bit for bit, through sums in whole numbers."""

import json
from pathlib import Path

import pytest
import torch

from seedbed.data.sampling import Sampled
from seedbed.engines import OneByOne
from seedbed.rounds import synchronous

from .bench import CLIENTS, SEED, case, plan, population, run, same, simulated


@pytest.mark.parametrize("cohort", [None, 3])
@pytest.mark.parametrize("name", ["fedavg", "per_fedavg", "scaffold", "fedper", "fedavgm"])
def test_federation_is_simulation(name: str, cohort: int | None, disk: Path) -> None:
    """Model, the server's extra state, who took part, numbers for people, and what each client keeps."""
    got, transport = run(name, disk, cohort=cohort)
    want, memory = simulated(name, cohort=cohort)
    assert [r.number for r in got] == [r.number for r in want] == [1, 2, 3, 4]
    for one, other in zip(got, want, strict=True):
        assert same(one.state, other.state)
        assert list(one.clients) == list(other.clients)
        assert one.info == other.info
    for client in CLIENTS:
        kept = transport.nodes[client].memory.kept
        assert same(kept, memory[client]) if client in memory else kept is None
    lines = [json.loads(line) for line in (disk / "server" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"round": r.number, "clients": list(r.clients), **r.info} for r in want]


def test_sums_in_whole_numbers_are_those_in_floats_to_their_last_digits(disk: Path) -> None:
    """The grid is finer than single precision: FedAvg by floats is within 1e-6 after four rounds."""
    _, sampler = case("fedavg")[0]
    start, algorithm = plan().start, plan().algorithm
    schedule = synchronous(algorithm, OneByOne(Sampled(population(), sampler, seed=SEED)), start)
    floats = [next(schedule) for _ in range(4)][-1].state.params
    whole = run("fedavg", disk)[0][-1].state.params
    for name, value in floats.items():
        torch.testing.assert_close(whole[name], value, rtol=0, atol=1e-6)
