"""Malformed updates of twelve kinds, sealed by clients that have a key, against every reducer, over a transport.

Shapes: C clients.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.aggregation import mean
from seedbed.data.types import Task
from seedbed.deployment.federation.protocol import FederationProtocol, as_tree
from seedbed.deployment.federation.round_policy import RoundPolicy
from seedbed.deployment.federation.server import Server
from seedbed.deployment.federation.transport import InProcess
from seedbed.deployment.wire import Action, FrameAssembler, Letter, pack_tensors, seal_frames
from seedbed.federated import Algorithm, ClientId, Message, Replies, ServerState
from seedbed.rounds import Round
from seedbed.rounds.message_validation import MessageValidator
from seedbed.tree import Tree

from ..robust.honest import REDUCERS, honest

HONEST, BAD = tuple(range(13)), (13, 14)
KEYS = {c: bytes([c + 1]) * 32 for c in (*HONEST, *BAD)}


def packed(message: Message) -> bytes:
    return pack_tensors(tree.named_leaves(as_tree(message)))


def valued(change: Callable[[Tensor], Tensor]) -> Callable[[Message], bytes]:
    return lambda m: packed(m._replace(value=tree.map(change, m.value)))


def weighing(weight: float) -> Callable[[Message], bytes]:
    return lambda m: packed(m._replace(weight=torch.tensor(weight)))


KINDS: dict[str, Callable[[Message], bytes]] = {
    "NaN": lambda m: packed(m._replace(value={**m.value, "b": [torch.tensor([0.0, torch.nan, 0.0])]})),
    "infinity": valued(lambda x: torch.full_like(x, torch.inf)),
    "huge": valued(lambda x: 20 * x),
    "beyond the grid": valued(lambda x: 1e6 * x),
    "wrong shape": valued(lambda x: torch.cat([x, x])),
    "wrong type": valued(lambda x: x.double()),
    "wrong name": lambda m: packed(m._replace(value={"v": m.value["w"], "b": m.value["b"]})),
    "a part missing": lambda m: packed(m._replace(value={"w": m.value["w"]})),
    "weight -40": weighing(-40.0),
    "weight 1e18": weighing(1e18),
    "weight NaN": weighing(torch.nan),
    "no tensors": lambda m: b"cos\nsystem\n(S'true'\ntR.",
}


def sums(reduce: object) -> Algorithm:
    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        return honest(0, 0), {}

    def server(state: ServerState, replies: Replies) -> ServerState:
        return state._replace(params=tree.sub(state.params, replies.value))

    return Algorithm(lambda params: ServerState(params, {}), client, server, reduce=reduce)  # type: ignore[arg-type]


PLAN = FederationProtocol("told", sums(mean), ServerState(tree.zeros_like(honest(0, 0).value), {}), (), {})  # type: ignore[arg-type]


class Told:
    """A node that says what it is told to."""

    def __init__(self, client: ClientId, say: Callable[[Message], bytes]):
        self.client, self._say = client, say
        self._takes = FrameAssembler({client: KEYS[client]}.get, lambda action: 1 << 20)

    known = True

    def hello(self) -> list[bytes]:
        return self._seal(Action.HELLO, 0, 0, b"")

    def answer(self, frame: bytes) -> list[bytes]:
        letter = self._takes.take(frame)
        assert letter is not None
        if letter.action is Action.MODEL:
            return self._seal(Action.HELD, letter.round, letter.attempt, b"")
        if letter.action is not Action.WORK:
            return []
        payload = self._say(honest(self.client, letter.round))
        return self._seal(Action.REPLY, letter.round, letter.attempt, payload)

    def _seal(self, action: Action, round: int, attempt: int, payload: bytes) -> list[bytes]:
        letter = Letter(PLAN.run, round, attempt, self.client, action, PLAN.fingerprint, payload)
        return seal_frames(letter, KEYS[self.client])


def served(folder: Path, reduce: object, kind: str | None, **terms: object) -> list[Round]:
    who = (*HONEST, *(BAD if kind else ()))
    told = {c: Told(c, KINDS[kind] if kind and c in BAD else packed) for c in who}
    settled = RoundPolicy(rounds=2, clients=who, quorum=13, gate=MessageValidator(norm=10, weight_cap=1000), **terms)  # type: ignore[arg-type]
    plan = replace(PLAN, algorithm=sums(reduce))
    server = Server(plan, settled, KEYS, folder, InProcess(told))  # type: ignore[arg-type]
    try:
        return list(server.rounds())
    finally:
        server.close()


PAIRS = list(product(KINDS, REDUCERS))
SOME = [(kind, name) for i, (kind, name) in enumerate(PAIRS) if i % 9 == 0]
REST = [pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS if pair not in SOME]


@pytest.mark.parametrize(("kind", "name"), [*SOME, *REST])
def test_a_malformed_update_is_as_if_it_had_not_come(kind: str, name: str, disk: Path) -> None:
    """DW 8: no exception, nothing that is not finite, and the state after every round is that of the honest alone."""
    got = served(disk / "with", REDUCERS[name], kind)
    want = served(disk / "without", REDUCERS[name], None)
    for one, other in zip(got, want, strict=True):
        assert tree.is_finite(one.state.params)
        assert all(torch.equal(a, b) for a, b in zip(*map(tree.leaves, (one.state, other.state)), strict=True))
        assert set(one.refused) == set(BAD), one.refused
        assert list(one.clients) == list(HONEST)
        assert one.info == {**other.info, "refused": 2.0}


def test_who_was_refused_and_why_is_in_the_log(disk: Path) -> None:
    served(disk / "run", mean, "weight 1e18")
    lines = [json.loads(line) for line in (disk / "run" / "log.jsonl").read_text().splitlines()]
    refused = [(e["client"], e["round"], e["why"]) for e in lines if e["event"] == "REFUSED"]
    assert sorted(refused) == [(c, r, "weight above the cap") for c in BAD for r in (1, 2)]
