"""The gate: sixteen kinds of malformed messages against every reducer, and what an honest round must not feel of it.

Shapes: C clients.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.aggregation import make_rule, mean
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Message, MessageBatch, Replies, ServerState
from seedbed.rounds import Round, synchronous
from seedbed.rounds.message_validation import MessageValidator, schema_of
from seedbed.tree import Tree

from .honest import REDUCERS, honest

HONEST, BAD, ROUNDS = range(13), (13, 14), 3
GATE = MessageValidator(norm=10, weight_cap=1000)


def valued(change: Callable[[Tensor], Tensor]) -> Callable[[Message], list[Message]]:
    return lambda m: [m._replace(value=tree.map(change, m.value))]


def weighing(weight: float) -> Callable[[Message], list[Message]]:
    return lambda m: [m._replace(weight=torch.tensor(weight))]


def one_nan(m: Message) -> list[Message]:
    return [m._replace(value={**m.value, "b": [torch.tensor([0.0, float("nan"), 0.0])]})]


KINDS: dict[str, Callable[[Message], list[Message]]] = {
    "NaN": one_nan,
    "infinity": valued(lambda x: torch.full_like(x, torch.inf)),
    "huge": valued(lambda x: 1e6 * x),
    "wrong shape": valued(lambda x: torch.cat([x, x])),
    "wrong type": valued(lambda x: x.float()),
    "wrong name": lambda m: [m._replace(value={"v": m.value["w"], "b": m.value["b"]})],
    "a part missing": lambda m: [m._replace(value={"w": m.value["w"]})],
    "weight -40": weighing(-40.0),
    "weight 1e18": weighing(1e18),
    "weight NaN": weighing(float("nan")),
    "no tensor": lambda m: [m._replace(value={"w": "import os", "b": None})],
}
EXTRA: dict[str, Callable[[Message], list[Message]]] = {
    "info NaN": lambda m: [m._replace(info={"loss": torch.tensor(float("nan"))})],
    "info of another kind": lambda m: [m._replace(info={"loss": torch.zeros(7), "x": torch.zeros(())})],
    "weight 0": weighing(0.0),
    "weight is many": lambda m: [m._replace(weight=torch.ones(4))],
    "other nesting": lambda m: [m._replace(value={"w": m.value["w"], "b": (m.value["b"][0],)})],
}


class Told:
    """An engine whose clients say what they are told to; the bad ones say it in groups of their own."""

    def __init__(self, kind: Callable[[Message], list[Message]] | None, strangers: int = 0):
        self.kind, self.strangers = kind, strangers
        self.population = [*HONEST, *(BAD if kind else ())]

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> list[MessageBatch]:
        groups = []
        for client in sent:
            message = honest(client, round)
            said = self.kind(message) if self.kind and client in BAD else [message]
            groups += [
                MessageBatch([client], tree.map(lambda x: x[None] if isinstance(x, Tensor) else x, m)) for m in said
            ]
        return groups + [MessageBatch([1000 + i], tree.stack([honest(i, 7)])) for i in range(self.strangers)]


def sums(reduce: Any) -> Algorithm:
    """A server that takes the reduced update as it is."""

    def init(params: Tree) -> ServerState:
        return ServerState(params, {})

    def server(state: ServerState, replies: Replies) -> ServerState:
        assert len(replies.clients) == len(replies.weights)
        return state._replace(params=tree.sub(state.params, replies.value))

    def client(sent: Tree, kept: Tree, task: Any) -> Any:
        raise AssertionError("clients are told what to say")

    return Algorithm(init, client, server, reduce=reduce)


def rounds(engine: Any, reduce: Any, gate: MessageValidator | None = GATE) -> list[Round]:
    schedule = synchronous(sums(reduce), engine, ServerState(tree.zeros_like(honest(0, 0).value), {}), gate=gate)
    return [next(schedule) for _ in range(ROUNDS)]


@pytest.mark.parametrize(("kind", "name"), list(product([*KINDS, *EXTRA], REDUCERS)))
def test_a_malformed_message_is_as_if_it_had_not_come(kind: str, name: str) -> None:
    """S7: no exception, nothing that is not finite, and the state after every round is that of the honest alone, bit
    for bit; the round says who was refused, and counts them."""
    got = rounds(Told({**KINDS, **EXTRA}[kind]), REDUCERS[name])
    want = rounds(Told(None), REDUCERS[name])
    for one, other in zip(got, want, strict=True):
        assert tree.is_finite(one.state.params)
        assert all(torch.equal(a, b) for a, b in zip(*map(tree.leaves, (one.state, other.state)), strict=True))
        assert set(one.refused) == set(BAD)
        assert one.info["refused"] == len(BAD)
        assert one.info["loss"] == other.info["loss"]
        assert all(one.refused.values())
        assert not other.refused
        assert "refused" not in other.info


def test_the_first_of_two_messages_counts_and_strangers_do_not() -> None:
    """A client that sends again, the same or other bytes, and clients that nobody asked, ten times as many."""
    again = rounds(Told(lambda m: [m, m._replace(value=tree.scale(-9.0, m.value))]), mean)
    once = rounds(Told(lambda m: [m]), mean)
    strangers = rounds(Told(lambda m: [m], strangers=130), mean)
    for other, why in ((again, {"sent twice"}), (strangers, {"not asked"})):
        for a, b in zip(other, once, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(*map(tree.leaves, (a.state, b.state)), strict=True))
            assert set(a.refused.values()) == why


def test_what_the_gate_says() -> None:
    told = {kind: set(rounds(Told(make), mean)[0].refused.values()) for kind, make in {**KINDS, **EXTRA}.items()}
    assert told["NaN"] == told["infinity"] == told["weight NaN"] == told["info NaN"] == {"not finite"}
    assert told["huge"] == {"norm above the cap"}
    assert told["weight 1e18"] == {"weight above the cap"}
    assert told["weight -40"] == told["weight 0"] == {"weight not above 0"}
    assert told["wrong shape"] == {"value.b.0 is not as agreed"}
    assert told["no tensor"] == {"value.w is no tensor"}
    assert told["weight is many"] == {"weight has another shape"}


def test_without_the_gate_a_nan_reaches_the_mean() -> None:
    """The table above can fail."""
    with pytest.raises(InputError, match="round 1: the model is no longer finite"):
        rounds(Told(KINDS["NaN"]), mean, gate=None)


def test_caps() -> None:
    """An absolute cap, and one that is a multiple of the round's median: of the norms 1 … 5 it is 3."""
    long = MessageBatch(list(range(5)), Message({"w": torch.arange(1.0, 6)[:, None]}, torch.ones(5), {}))
    assert set(MessageValidator(norm_cap=3.5).admit([long], range(5)).refused) == {3, 4}
    assert set(MessageValidator(norm=1.5).admit([long], range(5)).refused) == {4}
    assert set(MessageValidator(norm=1.5, norm_cap=2.5).admit([long], range(5)).refused) == {2, 3, 4}
    assert MessageValidator().admit([long], range(5)).groups == [long]


def test_the_norm_is_that_of_all_leaves_together() -> None:
    """‖(3, 4)‖ = 5 is above 4.5 though neither leaf is, and so is a median of such norms; (4, 0) is below."""
    value = {"w": torch.tensor([[3.0], [4.0], [0.0]]), "b": {"c": torch.tensor([[4.0], [0.0], [1.0]])}}
    group = MessageBatch([7, 8, 9], Message(value, torch.ones(3), {}))
    assert set(MessageValidator(norm_cap=4.5).admit([group], [7, 8, 9]).refused) == {7}
    assert set(MessageValidator(norm=1.2).admit([group], [7, 8, 9]).refused) == {7}
    assert not MessageValidator(norm=1.3).admit([group], [7, 8, 9]).refused


def test_a_message_at_the_cap_passes() -> None:
    """Caps are the most that is allowed; a weight must be above 0, however little."""
    group = MessageBatch([0, 1], Message({"w": torch.tensor([[2.0], [2.5]])}, torch.tensor([3.0, 1e-30]), {}))
    assert not MessageValidator(norm_cap=2.5, weight_cap=3.0).admit([group], [0, 1]).refused
    assert set(MessageValidator(weight_cap=2.9).admit([group], [0, 1]).refused) == {0}


def test_an_agreed_schema_holds_where_clients_may_send_unlike_messages() -> None:
    one = MessageBatch([0], Message({"w": torch.ones(1, 3)}, torch.ones(1), {}))
    other = MessageBatch([1], Message({"w": torch.ones(1, 4)}, torch.ones(1), {}))
    admitted = MessageValidator().admit([one, other], [0, 1], schema=schema_of(one), alike=False)
    assert admitted.refused == {1: "value.w is not as agreed"}


def test_the_majority_is_counted_in_messages_not_in_groups() -> None:
    many = MessageBatch([0, 1, 2], Message({"w": torch.ones(3, 3)}, torch.ones(3), {}))
    few = [MessageBatch([c], Message({"w": torch.ones(1, 4)}, torch.ones(1), {})) for c in (3, 4)]
    assert set(MessageValidator().admit([*few, many], range(5)).refused) == {3, 4}


def test_a_mean_keeps_its_members_when_another_is_refused() -> None:
    """Under secure aggregation a message names those whose mean it is."""
    value = {"w": torch.tensor([[1.0], [torch.nan], [2.0]])}
    group = MessageBatch([0, 3, 6], Message(value, torch.ones(3), {}), [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    [left] = MessageValidator().admit([group], [0, 3, 6]).groups
    assert (left.clients, left.members) == ([0, 6], [[0, 1, 2], [6, 7, 8]])


@pytest.mark.parametrize("message", [("no", "message", {}), Message(torch.ones(1, 2), torch.ones(1), [1.0])])  # type: ignore[arg-type]
def test_what_is_no_message_is_refused(message: Any) -> None:
    good = MessageBatch([0], Message(torch.ones(1, 2), torch.ones(1), {}))
    admitted = MessageValidator().admit([MessageBatch([7], message), good], [0, 7])
    assert admitted.refused == {7: "it is no message"}
    assert [group.clients for group in admitted.groups] == [[0]]


def test_a_schema_that_was_agreed_upon_beats_the_majority() -> None:
    group = MessageBatch([0, 1], Message({"w": torch.ones(2, 3)}, torch.ones(2), {}))
    other = MessageBatch([2], Message({"w": torch.ones(1, 4)}, torch.ones(1), {}))
    assert set(MessageValidator().admit([group, other], range(3)).refused) == {2}
    assert set(MessageValidator().admit([group, other], range(3), schema=schema_of(other)).refused) == {0, 1}
    assert not MessageValidator().admit([group, other], range(3), alike=False).refused


def test_too_few_left_is_a_round_without_a_step_and_nobody_left_the_end() -> None:
    """Krum with f = 5 needs 13 of the 15. With three refused the model stays as it is; too few from the start, or
    everybody refused, is an error by name."""
    algorithm = sums(make_rule("krum", f=5))
    start = ServerState(tree.zeros_like(honest(0, 0).value), {})

    class Some(Told):
        def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> list[MessageBatch]:
            groups = super().ask(algorithm, sent, round)
            bad = groups[0].messages._replace(weight=torch.tensor([-1.0]))
            return [MessageBatch(groups[0].clients, bad), *groups[1:]]

    abandoned = next(synchronous(algorithm, Some(KINDS["NaN"]), start))
    assert abandoned.info == {"refused": 3, "abandoned": 1}
    assert abandoned.state is start
    with pytest.raises(InputError, match="krum with f=6 needs at least 15 messages"):
        next(synchronous(replace(algorithm, reduce=make_rule("krum", f=6)), Told(None), start))
    broken = Some(KINDS["NaN"])
    broken.ask = lambda *asked: [MessageBatch([c], tree.stack(one_nan(honest(c, 0)))) for c in range(15)]  # type: ignore[method-assign]
    with pytest.raises(InputError, match="round 1: the model is no longer finite for 15 of its 15 clients"):
        next(synchronous(algorithm, broken, start))
