"""A member that lies: it holds its own keys, and rewrites what its node half answers. A move a round, in turn.

python liar.py FOLDER DATA
"""

import sys
import time
from pathlib import Path

import torch

from seedbed import tree
from seedbed.deployment.federation.node import Node
from seedbed.deployment.flower.certificates import CA, NODE_KEY
from seedbed.deployment.flower.fleet import LOST, Fleet, reason_of
from seedbed.deployment.server_folder import SECRET, FederationFolder, open_node, read_node_secret
from seedbed.deployment.wire import Action, Letter, seal_frames
from seedbed.deployment.wire.frames import FrameHeader
from seedbed.errors import InputError

MOVES = ("nan", "weight", "stale", "flood", "garbage", "silence")
FLOOD = 1500  # letters with a right MAC, of rounds that there are not


class Liar:
    """A node whose answers to a round's work are replaced."""

    def __init__(self, node: Node, key: bytes):
        self._node, self._key = node, key
        self._first: list[bytes] = []  # the frames of its first reply
        self.done: dict[str, int] = dict.fromkeys(MOVES, 0)

    def hello(self) -> list[bytes]:
        return self._node.hello()

    def answer(self, frame: bytes) -> list[bytes]:
        answers = self._node.answer(frame)
        if not answers or FrameHeader(answers[0]).action is not Action.REPLY:
            return answers
        head = FrameHeader(answers[0])
        self._first = self._first or answers
        move = MOVES[head.round % len(MOVES)]
        self.done[move] += 1
        print(f"round {head.round}: {move}", flush=True)
        return self._lie(move, head)

    def _lie(self, move: str, head: FrameHeader) -> list[bytes]:
        plan = self._node.plan
        if move == "flood":
            return [f for i in range(FLOOD) for f in self._sealed(head, b"", head.round + 2 + i, Action.HELD)]
        if move == "stale":
            return self._first if head.round > 1 else []
        if move == "silence":
            return []
        if move == "garbage":
            return [bytes(reversed(f)) for f in self._first]
        lie = plan.message.unpack(self._node.memory.reply)
        if move == "nan":
            lie["value"] = tree.map(lambda x: torch.full_like(x, torch.nan), lie["value"])
        else:
            lie["value"] = tree.map(lambda x: torch.full_like(x, 5.0), lie["value"])
            lie["weight"] = torch.full_like(lie["weight"], 3e38)
        return self._sealed(head, plan.message.pack(lie), head.round, Action.REPLY)

    def _sealed(self, head: FrameHeader, payload: bytes, round: int, action: Action) -> list[bytes]:
        plan = self._node.plan
        letter = Letter(plan.run, round, head.attempt, head.client, action, plan.fingerprint, payload)
        return list(seal_frames(letter, self._key))


def main() -> None:
    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    liar = Liar(open_node(folder, data), read_node_secret(folder / SECRET))
    while True:
        try:
            with Fleet(FederationFolder.read(folder).server, folder / CA, folder / NODE_KEY, liar) as fleet:  # type: ignore[arg-type]
                fleet.run(lambda: False)
        except LOST as error:
            print(f"not admitted:  {reason_of(error)[1]}", flush=True)
        except InputError as error:
            print(error, flush=True)
        time.sleep(2)


if __name__ == "__main__":
    main()
