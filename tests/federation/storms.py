"""A federation through a transport that does all wrong, and what became of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seedbed.deployment.federation.fault_injection import FaultRates, FaultyTransport
from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.transport import InProcess

from .bench import CLIENTS, nodes, same, serve, simulated


class Storm(NamedTuple):
    """What became of it."""

    equal: bool  # model, server's state and what clients keep are those of a simulation with the same answers
    whole: bool  # everybody was accepted in every round
    corrupt: int  # letters accepted that no node wrote
    doubled: int  # letters counted more than once
    happened: Mapping[str, int]


class Witness:
    """A node whose replies are written down: which letters are true."""

    def __init__(self, node: Node, true: set[str]):
        self._node, self._true = node, true
        self.hello = node.hello

    @property
    def known(self) -> bool:
        return self._node.known

    def answer(self, frame: bytes) -> list[bytes]:
        frames = self._node.answer(frame)
        memory = self._node.memory
        self._true.add(self._node._letter(12, *memory.at, memory.reply).digest.hex())  # type: ignore[arg-type]
        return frames


def weathered(
    name: str, folder: Path, seed: int, *, p: float = 0.2, rounds: int = 3, hidden: int = 5, **terms: Any
) -> Storm:
    inner, true = nodes(name, folder, hidden=hidden), set[str]()
    calm = InProcess({c: Witness(node, true) for c, node in inner.items()})  # type: ignore[misc]
    faulty = FaultyTransport(calm, FaultRates.of(p), seed=seed)
    settled = {"deadline": 1e6, "patience": 1000, "rounds": rounds, **terms}
    server = serve(name, folder, faulty, hidden=hidden, **settled)
    last = list(server.rounds())[-1]
    records = [json.loads(line.split(b" ", 3)[3]) for line in server.journal.path.read_bytes().splitlines()]
    accepted = {(r["round"], r["attempt"], r["client"]): r["letter"] for r in records if r["state"] == "ACCEPTED"}
    made = [r for r in records if r["state"] == "AGGREGATED"]
    counted = [accepted[r["round"], r["attempt"], c] for r in made for c in r["clients"]]
    want, memory = simulated(name, rounds, accepted=[r["clients"] for r in made], hidden=hidden)
    server.transport = InProcess(inner)  # the last news may have been lost: nodes that say hello are told again
    while (arrived := server.transport.receive(1.0)) is not None:
        server._take(*arrived)
    server.close()
    kept = {c: node.memory.kept for c, node in inner.items() if node.memory.kept is not None}
    return Storm(
        equal=same(last.state, want[-1].state) and same(kept, {c: memory[c] for c in sorted(memory)}),
        whole=all(r["clients"] == list(CLIENTS) for r in made),
        corrupt=len(set(accepted.values()) - true),
        doubled=len(counted) - len(set(counted)),
        happened=faulty.happened,
    )
