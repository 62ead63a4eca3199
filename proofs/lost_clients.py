"""100 rounds in each of which 2 of 5 clients are killed: none hangs, the model is that of the survivors (4 minutes)

Processes of their own over a socket. A client is sent SIGKILL when it is asked: before it works, after it has worked
and sent nothing, or in the middle of its reply; started again, it dies again, until the round is over.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from federation.bench import CLIENTS, node, same, serve, simulated
from federation.killing import forked, slay

from seedbed import randomness
from seedbed.deployment.federation.local_transport import LocalTransport, run_local_node
from seedbed.deployment.federation.node import Node
from seedbed.deployment.wire import Action
from seedbed.deployment.wire.frames import FrameHeader

NAME, ROUNDS, DEAD, SEED = "scaffold", 100, 2, 0
DEADLINE, OVER = 2.0, 1.0  # seconds of a round, and by how many at most it may be passed
PAUSE = 0.3  # seconds from a death to the next start


class Mortal:
    """A node that dies in rounds that chance has chosen."""

    def __init__(self, inner: Node):
        self.inner, self.hello = inner, inner.hello

    def answer(self, frame: bytes) -> Iterable[bytes]:
        head = FrameHeader(frame)
        if head.action is not Action.WORK or self.inner.client not in doomed(head.round):
            return self.inner.answer(frame)
        return self.dying(frame, (head.round + self.inner.client) % 3)

    def dying(self, frame: bytes, way: int) -> Iterable[bytes]:
        frames = self.inner.answer(frame) if way else []
        if way == 2:
            yield frames[0][: len(frames[0]) // 2]
        os.kill(os.getpid(), signal.SIGKILL)


def doomed(round: int) -> set[int]:
    return set(randomness.generator(SEED, "doomed", round).choice(CLIENTS, DEAD, replace=False).tolist())


def started(client: int, folder: Path) -> int:
    return forked(lambda: run_local_node(Mortal(node(NAME, client, folder)), folder / "socket", pause=0.05))  # type: ignore[arg-type]


def served(folder: Path) -> None:
    """In a process of its own: all rounds, and what became of them in verdict.json."""
    terms = {"rounds": ROUNDS, "quorum": len(CLIENTS) - DEAD, "deadline": DEADLINE, "again": 0.5, "patience": 1000}
    server, ends, answered = serve(NAME, folder, LocalTransport(folder / "socket"), **terms), [time.monotonic()], []
    for last in server.rounds():
        ends.append(time.monotonic())
        answered.append(list(last.clients))
    missed = [r["round"] for r in records(folder) if r["state"] == "MISSED"]
    over = [b - a - DEADLINE * (1 + missed.count(i)) for i, (a, b) in enumerate(pairwise(ends), 1)]
    want, _ = simulated(NAME, ROUNDS, accepted=answered)
    found = {"answered": answered, "over": max(over), "missed": len(missed), "same": same(last.state, want[-1].state)}
    (folder / "verdict.json").write_text(json.dumps(found))


def records(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "server" / "journal.log").read_bytes().splitlines()
    return [json.loads(line.split(b" ", 3)[3]) for line in lines]


def main() -> int:
    torch.set_num_threads(1)
    deaths = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        running = {started(client, folder): client for client in CLIENTS}
        server = forked(lambda: served(folder))
        while (ended := os.wait()[0]) != server:
            time.sleep(PAUSE)
            client = running.pop(ended)
            running[started(client, folder)] = client
            deaths += 1
        for process in running:
            slay(process)
        found = json.loads((folder / "verdict.json").read_text())
    right = sum(doomed(i + 1).isdisjoint(clients) for i, clients in enumerate(found["answered"]))
    print(
        f"{right} of {ROUNDS} rounds without those killed ({deaths} kills), {found['missed']} rounds asked again; "
        f"the deadline passed by {found['over']:.2f} s at most; the model {'is' if found['same'] else 'IS NOT'} "
        "bit for bit that of a simulation in which the same clients answer"
    )
    return 0 if right == ROUNDS and found["over"] <= OVER and found["same"] else 1


if __name__ == "__main__":
    sys.exit(main())
