"""A server of 50 clients over 5,000 rounds: memory, open files and threads stay as they are (about 15 minutes)

python proofs/soak.py [ROUNDS] [CLIENTS]
"""

import gc
import os
import sys
import tempfile
import threading
from pathlib import Path

import torch

import seedbed as sb
from seedbed import tree
from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.protocol import FederationProtocol, as_tree
from seedbed.deployment.federation.round_policy import RoundPolicy
from seedbed.deployment.federation.server import Server
from seedbed.deployment.federation.transport import InProcess
from seedbed.deployment.wire import Action, FrameAssembler, Letter, seal_frames

MOST = 1.0  # MB of memory per 1,000 rounds
MEMORY = Path("/dev/shm")


class Answering:
    """A node that answers each letter by the same message: what is measured is the server."""

    def __init__(self, plan: FederationProtocol, client: int, key: bytes, reply: bytes):
        self._plan, self._client, self._key, self._reply = plan, client, key, reply
        self._takes = FrameAssembler({client: key}.get, lambda action: 1 << 20)

    known = True

    def hello(self) -> list[bytes]:
        return self._seal(Action.HELLO, 0, 0, b"")

    def answer(self, frame: bytes) -> list[bytes]:
        letter = self._takes.take(frame)
        if letter is not None and letter.action is Action.MODEL:
            return self._seal(Action.HELD, letter.round, letter.attempt, b"")
        if letter is None or letter.action is not Action.WORK:
            return []
        return self._seal(Action.REPLY, letter.round, letter.attempt, self._reply)

    def _seal(self, action: Action, round: int, attempt: int, payload: bytes) -> list[bytes]:
        plan = self._plan
        return seal_frames(Letter(plan.run, round, attempt, self._client, action, plan.fingerprint, payload), self._key)


def served(folder: Path, rounds: int, clients: int) -> Server:
    model = sb.Model(sb.mlp((2,), 2, hidden=(2,)))
    algorithm = sb.fedavg(sb.supervised(model.predict, sb.cross_entropy))
    rows = sb.Population.from_arrays(torch.zeros(4, 2), torch.arange(4) % 2, ["made up"] * 4)
    example = tree.index(sb.Sampled(rows, sb.batches(4)).tasks([0], 0), 0)
    plan = FederationProtocol("soak", algorithm, algorithm.init(model.params), example, {})
    message, _ = plan.algorithm.client(plan.sent, {}, example)
    reply = plan.message.pack(as_tree(message))
    keys = {c: bytes([1 + c]) * 32 for c in range(clients)}
    nodes: dict[int, Node] = {c: Answering(plan, c, key, reply) for c, key in keys.items()}  # type: ignore[misc]
    return Server(plan, RoundPolicy(rounds=rounds, clients=list(keys)), keys, folder, InProcess(nodes))  # type: ignore[arg-type]


def used() -> tuple[float, int, int]:
    """Memory in MB, open files, threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threading.active_count()


def main(rounds: int, clients: int) -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        server = served(Path(folder), rounds, clients)
        begin, seen = rounds // 5, []
        for done in server.rounds():
            if done.number >= begin and (done.number % max(1, rounds // 20) == 0 or done.number == rounds):
                seen.append((done.number, *used()))
                print(f"round {done.number}: {seen[-1][1]:.1f} MB, {seen[-1][2]} files, {seen[-1][3]} threads")
        server.close()
    slope = 1000 * (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
    flat = seen[-1][2:] == seen[0][2:]
    print(f"{slope:.2f} MB per 1,000 rounds over {rounds} rounds of {clients} clients; files and threads "
          f"{'as they were' if flat else 'grew'}")  # fmt: skip
    return 0 if slope < MOST and flat else 1


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in (sys.argv[1:] + ["5000", "50"][len(sys.argv) - 1 :]))))
