"""By default no client dictates the model by its weight, and no refused or dead client ends a run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.protocol import FederationProtocol, as_message, as_tree, cap_weights
from seedbed.deployment.federation.round_policy import RoundPolicy
from seedbed.deployment.federation.server import Server, TooFewReplies
from seedbed.deployment.federation.transport import InProcess
from seedbed.deployment.wire import Action, Letter, seal_frames
from seedbed.deployment.wire.frames import FrameHeader
from seedbed.federated import Message
from seedbed.rounds import Round

from .bench import CLIENTS, KEYS, case, nodes, plan, same, serve, simulated

LIAR = 3


class Lying:
    """A node whose replies are rewritten with its own key."""

    def __init__(self, node: Node, change: Callable[[Message], Message]):
        self.node, self.hello, self._change = node, node.hello, change

    def answer(self, frame: bytes) -> list[bytes]:
        frames = self.node.answer(frame)
        if not frames or FrameHeader(frames[0]).action is not Action.REPLY:
            return frames
        head, agreed = FrameHeader(frames[0]), self.node.plan
        told = as_tree(self._change(as_message(agreed.message.unpack(self.node.memory.reply))))
        letter = Letter(agreed.run, head.round, head.attempt, LIAR, Action.REPLY, agreed.fingerprint,
                        agreed.message.pack(told))  # fmt: skip
        return seal_frames(letter, KEYS[LIAR])


def lied_to(folder: Path, change: Callable[[Message], Message], **terms: object) -> list[Round]:
    all_: dict[int, Node] = nodes("fedavg", folder)
    transport = InProcess({**all_, LIAR: Lying(all_[LIAR], change)})  # type: ignore[dict-item]
    server = serve("fedavg", folder, transport, **terms)
    try:
        return list(server.rounds())
    finally:
        server.close()


def with_weight(w: float) -> Callable[[Message], Message]:
    return lambda m: m._replace(weight=torch.full_like(m.weight, w))


def with_value(number: float) -> Callable[[Message], Message]:
    return lambda m: m._replace(value={n: torch.full_like(x, number) for n, x in m.value.items()})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (with_weight(3e38), "weight above the cap"),
        (with_weight(1.5), "weight above the cap"),
        (with_weight(float("inf")), "not finite"),
        (with_weight(-1), "weight not above 0"),
        (with_value(float("nan")), "not finite"),
        (with_value(1e9), "outside"),
    ],
)
def test_a_lie_is_refused_and_the_rest_go_on(change: Callable[[Message], Message], why: str, disk: Path) -> None:
    """The model is that of a simulation without the liar; nothing waits for a deadline."""
    rounds = lied_to(disk, change)
    honest = [c for c in CLIENTS if c != LIAR]
    assert all(why in r.refused[LIAR] for r in rounds)
    assert same(rounds[-1].state, simulated("fedavg", accepted=[honest] * 4)[0][-1].state)


def test_the_largest_weight_that_is_taken_counts_as_the_others() -> None:
    """A client of 17 examples and one of 9 send the cap; a cap above both leaves weights as they are."""
    (algorithm, _), start = case("fedavg")
    example = plan().example
    for cap, sent in ((1.0, 1.0), (8.0, 8.0), (100.0, 9.0), (0.1, pytest.approx(0.1)), (None, 9.0)):
        agreed = FederationProtocol("capped", algorithm, start, example, {}, cap)
        message, _ = agreed.algorithm.client(agreed.sent, {}, example)
        assert float(message.weight) == sent
    assert float(FederationProtocol("capped", algorithm, start, example, {}, 0.1).largest_weight or 0) >= float(
        torch.tensor(0.1)
    )


def test_both_sides_agree_on_the_cap() -> None:
    """Another cap is another plan; a plan without one is what it was before there were caps."""
    (algorithm, _), start = case("fedavg")
    made = [FederationProtocol("p", algorithm, start, plan().example, {}, cap) for cap in (None, 1.0, 2.0)]
    assert len({p.fingerprint for p in made}) == 3
    assert "cap" not in made[0].parts
    assert cap_weights(algorithm, None) is algorithm


@pytest.mark.parametrize(
    ("clients", "refused", "enough"), [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 0, 3), (9, 0, 6), (10, 3, 5), (4, 3, 2)]
)
def test_two_thirds_are_enough(clients: int, refused: int, enough: int) -> None:
    assert RoundPolicy(rounds=1, clients=range(clients)).enough(refused) == enough


def test_a_dead_client_does_not_end_the_run(disk: Path) -> None:
    present = {c: node for c, node in nodes("fedavg", disk).items() if c != LIAR}
    server = serve("fedavg", disk, InProcess(present))
    rounds = list(server.rounds())
    server.close()
    assert [list(r.clients) for r in rounds] == [[0, 1, 2, 4]] * 4


def test_the_whole_cohort_where_that_is_asked(disk: Path) -> None:
    """And who reads the error learns that letters were refused, not lost."""
    with pytest.raises(TooFewReplies, match=r"want of answers \(1 were refused\)"):
        lied_to(disk, with_value(float("nan")), quorum="all")
    assert RoundPolicy(rounds=1, clients=CLIENTS, quorum="all").binding["quorum"] == "None"  # as older journals have it


def test_refused_is_not_missing(disk: Path) -> None:
    """Refused is not missing: of four clients one sends NaN and one fails, and the two others make the round."""
    all_ = nodes("fedavg", disk)
    liar = Lying(all_[LIAR], with_value(float("nan")))
    transport = InProcess({0: all_[0], 1: all_[1], 2: all_[2], LIAR: liar})  # type: ignore[dict-item]

    def fail(clients: object, round: int) -> None:
        raise ValueError("no rows")

    all_[2]._engine.source.tasks = fail  # type: ignore[method-assign, assignment]
    server: Server = serve("fedavg", disk, transport, clients=(0, 1, 2, 3))
    rounds = list(server.rounds())
    server.close()
    assert [list(r.clients) for r in rounds] == [[0, 1]] * 4
