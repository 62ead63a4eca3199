"""What the server half does with letters and rounds that are not as they should be: by name, and without effect."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seedbed import tree
from seedbed.deployment.federation import journal
from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.round_policy import RoundPolicy
from seedbed.deployment.federation.server import Members, Server, TooFewReplies
from seedbed.deployment.federation.transport import InProcess
from seedbed.deployment.wire import Action, Letter, seal_frames
from seedbed.errors import Diverged, InputError
from seedbed.federated import ServerState

from .bench import CLIENTS, KEYS, SEED, node, nodes, plan, run, same, serve, simulated


def events(folder: Path, event: str) -> list[dict[str, object]]:
    lines = (folder / "server" / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == event]


def last_of(server: Server) -> ServerState:
    state = list(server.rounds())[-1].state
    server.close()
    return state


class Changed:
    """A node whose frames to the server are changed."""

    def __init__(self, inner: Node, change: Callable[[list[bytes]], list[bytes]]):
        self.inner, self._change = inner, change
        self.hello = inner.hello

    def answer(self, frame: bytes) -> list[bytes]:
        return self._change(self.inner.answer(frame))


def changed(name: str, folder: Path, client: int, change: Callable[[list[bytes]], list[bytes]]) -> InProcess:
    inner = nodes(name, folder)
    return InProcess({**inner, client: Changed(inner[client], change)})  # type: ignore[dict-item]


def reply(client: int, round: int, payload: bytes, *, name: str = "fedavg", action: Action = Action.REPLY) -> bytes:
    """A letter that this client's key seals."""
    agreed = plan(name)
    letter = Letter(agreed.run, round, 0, client, action, agreed.fingerprint, payload)
    return seal_frames(letter, KEYS[client])[0]


# ---- letters --------------------------------------------------------------------------------------------------------


def test_the_same_again_has_no_effect_and_other_bytes_are_refused(disk: Path) -> None:
    """Client 1 sends everything twice, and then something else under the same round."""
    template = tree.map(torch.ones_like, plan().message._template)

    def twice(frames: list[bytes]) -> list[bytes]:
        other = [reply(1, r, plan().message.pack(template)) for r in (1, 2) if frames and frames[0][6] == Action.REPLY]
        return [*frames, *frames, *other]

    got = last_of(serve("fedavg", disk, changed("fedavg", disk, 1, twice), rounds=2))
    assert same(got, simulated("fedavg", 2)[0][-1].state)
    why = {str(event["why"]) for event in events(disk, "letter refused")}
    assert any("client 1 has sent a different letter in round 1 already" in w for w in why)
    accepted = [(e["round"], e["client"]) for e in events(disk, "ACCEPTED")]
    assert len(accepted) == len(set(accepted)) == 2 * len(CLIENTS)


def test_letters_of_other_rounds_runs_clients_and_keys(disk: Path) -> None:
    """Replays of earlier rounds, of another run, in another's name, before their time: 0 accepted."""
    old: list[bytes] = []

    def replaying(frames: list[bytes]) -> list[bytes]:
        old.extend(frames)
        return [*old[:-1], *frames]

    transport = changed("fedavg", disk, 1, replaying)
    other_run = Letter(b"x" * 32, 1, 0, 2, Action.REPLY, plan().fingerprint, b"")
    strange = [
        *seal_frames(other_run, KEYS[2]),
        reply(2, 9, b"early"),
        reply(2, 1, b"", action=Action.WORK),
        seal_frames(replace(other_run, run=plan().run), KEYS[3])[0],
        seal_frames(replace(other_run, run=plan().run, client=77), KEYS[3])[0],
        b"GET / HTTP/1.1\r\n\r\n" * 9,
        b"",
    ]
    transport._incoming.extend((2, frame) for frame in strange)
    got = last_of(serve("fedavg", disk, transport, rounds=3))
    assert same(got, simulated("fedavg", 3)[0][-1].state)
    said = " ".join(str(e["why"]) for name in ("letter refused", "frame refused") for e in events(disk, name))
    for words in ("another run's letter", "round 9 attempt 0 is over", "at most -1", "MAC of a frame in the name of",
                  "client 77 is not registered", "round 1 attempt 0 is over", "not a frame of Seedbed"):  # fmt: skip
        assert words in said


def test_a_node_set_up_otherwise_is_told_what_differs(disk: Path) -> None:
    """Before any work: other settings, another form of message, another run."""
    mixed = {**nodes("fedavg", disk), 0: node("fedavg", 0, disk, lr=9), 1: node("fedavg", 1, disk / "b", hidden=6)}
    server = serve("fedavg", disk, InProcess(mixed), rounds=1, quorum=3)
    rounds = list(server.rounds())
    server.close()
    assert list(rounds[0].clients) == [2, 3, 4]
    why = {e["client"]: str(e["why"]) for e in events(disk, "letter refused")}
    assert why[0] == "this client was set up otherwise: settings differs; give both sides the same settings"
    assert why[1].startswith("this client was set up otherwise: settings, what is sent, what is answered differs")
    assert mixed[0].memory.round == 0


def test_a_node_that_cannot_work_is_not_waited_for(disk: Path) -> None:
    """It has two classes too few for its sampler, say: the server learns one word, the node's own log all of it."""
    all_ = nodes("fedavg", disk)

    def broken(clients: object, round: int) -> None:
        raise InputError("client 'Ms Miller' has no examples")

    all_[2]._engine.source.tasks = broken  # type: ignore[method-assign, assignment]
    server = serve("fedavg", disk, InProcess(all_), rounds=1, quorum=4)
    (only,) = server.rounds()
    server.close()
    assert list(only.clients) == [0, 1, 3, 4]
    assert only.refused == {2: "the node failed: the work of round 1 failed: InputError"}
    assert only.info["refused"] == 1
    assert "Ms Miller" in (disk / "node-2" / "log.jsonl").read_text()
    assert "Ms Miller" not in (disk / "server" / "log.jsonl").read_text()


def test_a_flood_does_not_fill_the_disk(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seedbed.deployment.federation.server.MAX_LOGGED_LETTERS", 20)
    transport = InProcess(nodes("fedavg", disk))
    transport._incoming.extend((0, b"noise %d" % i) for i in range(500))
    last_of(serve("fedavg", disk, transport, rounds=1))
    said = events(disk, "frame refused")
    assert len(said) == 20
    assert said[-1]["note"] == "the last in this round"


# ---- who is waited for ----------------------------------------------------------------------------------------------


def test_quorum_after_the_deadline(disk: Path) -> None:
    """Two are gone: the round closes at its deadline with three, and says whom it waited for."""
    all_ = nodes("scaffold", disk)
    transport = InProcess({c: n for c, n in all_.items() if c not in (1, 4)})
    got = list(serve("scaffold", disk, transport, rounds=2, quorum=3, deadline=60, again=20).rounds())
    want, _ = simulated("scaffold", 2, accepted=[[0, 2, 3]] * 2)
    assert same(got[-1].state, want[-1].state)
    waiting = events(disk, "waiting")[-1]
    assert (waiting["clients"], waiting["accepted"], waiting["enough"]) == ([1, 4], 3, 3)
    assert transport.now() >= 120


def test_over_selection_closes_with_the_first(disk: Path) -> None:
    """Five are asked for three: two of them are dead, and nobody waits for the deadline."""
    all_ = nodes("fedavg", disk)
    transport = InProcess({c: n for c, n in all_.items() if c not in (0, 3)})
    rounds = serve("fedavg", disk, transport, rounds=3, cohort=3, over=1.6, deadline=1e6).rounds()
    got = [next(rounds) for _ in range(3)]
    assert [list(r.clients) for r in got] == [[1, 2, 4]] * 3
    assert transport.now() < 100
    assert same(got[-1].state, simulated("fedavg", 3, accepted=[[1, 2, 4]] * 3)[0][-1].state)


def test_too_few_is_another_attempt_and_then_a_named_end(disk: Path) -> None:
    """Nobody is there: three attempts, then the end; the same command goes on when they are."""
    all_ = nodes("scaffold", disk)
    lonely = serve("scaffold", disk, InProcess({0: all_[0]}), rounds=2)
    with pytest.raises(TooFewReplies, match=r"3 rounds or attempts in a row failed.*missed for want of answers"):
        list(lonely.rounds())
    lonely.close()
    assert all_[0].memory.at == (1, 2)
    got = last_of(serve("scaffold", disk, InProcess(all_), rounds=2))
    want, memory = simulated("scaffold", 2)
    assert same(got, want[-1].state)
    assert all(same(all_[c].memory.kept, memory[c]) for c in CLIENTS)


# ---- the divergence guard -------------------------------------------------------------------------------------------


def told(folder: Path, factors: list[float], **terms: object) -> Server:
    """A server whose step is multiplied by a number each round."""
    made = plan()
    step, calls = made.algorithm.server, iter(factors)

    def server(state: ServerState, replies: object) -> ServerState:
        after = step(state, replies)  # type: ignore[arg-type]
        moved = tree.sub(after.params, state.params)
        return after._replace(params=tree.axpy(next(calls), moved, state.params))

    altered = replace(made, algorithm=replace(made.algorithm, server=server))
    settled = RoundPolicy(**{"rounds": len(factors), "clients": CLIENTS, "seed": 5, **terms})  # type: ignore[arg-type]
    return Server(altered, settled, KEYS, folder / "server", InProcess(nodes("fedavg", folder)))


def test_a_model_that_would_not_be_finite_is_never_committed(disk: Path) -> None:
    rounds = list((server := told(disk, [1.0, float("nan"), float("inf"), 1.0])).rounds())
    server.close()
    assert [r.info.get("discarded", 0) for r in rounds] == [0, 1, 1, 0]
    assert same(rounds[0].state, rounds[2].state)
    assert all(tree.is_finite(r.state) for r in rounds)
    assert [list(r.clients) for r in rounds] == [list(CLIENTS), [], [], list(CLIENTS)]


def test_three_in_a_row_are_the_end_by_name(disk: Path) -> None:
    server = told(disk, [1.0, *[float("nan")] * 5])
    rounds = server.rounds()
    kept = [next(rounds).state for _ in range(3)]
    with pytest.raises(Diverged, match=r"3 rounds or attempts in a row failed, the last discarded.*last good one"):
        list(rounds)
    server.close()
    again = told(disk, [float("nan"), *[1.0] * 5], rounds=6)
    assert same(again.state, kept[0])
    assert [r.info.get("discarded", 0) for r in again.rounds()] == [1, 0]
    again.close()


def test_an_aggregate_that_explodes_is_discarded(disk: Path) -> None:
    """In its fourth round client 3 sends a thousand times its update: finite, within the grid, and no step is made."""
    mould = plan().message

    def loud(frames: list[bytes]) -> list[bytes]:
        sent = mould.unpack(server_side.memory.reply) if frames and server_side.memory.round == 4 else None
        if sent is None:
            return frames
        louder = mould.pack({**sent, "value": tree.map(lambda x: (1000 * x).clamp(-60, 60), sent["value"])})
        return [reply(3, 4, louder)]

    transport = changed("fedavg", disk, 3, loud)
    server_side = transport.nodes[3].inner  # type: ignore[attr-defined]
    rounds = list((server := serve("fedavg", disk, transport, rounds=5, explosion=20)).rounds())
    server.close()
    assert [r.info.get("discarded", 0) for r in rounds] == [0, 0, 0, 1, 0]
    assert same(rounds[2].state, rounds[3].state)
    assert "times the usual" in str(events(disk, "AGGREGATED")[3]["discarded"])


# ---- what cannot be --------------------------------------------------------------------------------------------------


def test_a_folder_of_another_run_is_refused(disk: Path) -> None:
    run("fedavg", disk, rounds=1)
    for name, terms, words in (("scaffold", {}, "other run, settings"), ("fedavg", {"seed": 6}, "other seed"),
                               ("fedavg", {"cohort": 2}, "other cohort")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            serve(name, disk, InProcess({}), **terms)
    assert len(list(serve("fedavg", disk, InProcess(nodes("fedavg", disk)), rounds=2).rounds())) == 1


@pytest.mark.parametrize(
    "wrong", [{"cohort": 6}, {"quorum": 6}, {"cohort": 3, "quorum": 4}, {"over": 0.5}, {"again": 0}]
)
def test_terms_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        RoundPolicy(rounds=1, clients=CLIENTS, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({c: KEYS[c] for c in CLIENTS[:-1]}, r"clients \[4\] have no key"),
        ({**KEYS, 2: b"secret"}, "client 2's key has 6 bytes"),
        ({**KEYS, 2: KEYS[1]}, "two clients have the same key"),
    ],
)
def test_keys_that_protect_nothing(keys: dict[int, bytes], words: str, disk: Path) -> None:
    with pytest.raises(InputError, match=words):
        Server(plan(), RoundPolicy(rounds=1, clients=CLIENTS), keys, disk, InProcess({}))


def test_algorithms_that_run_in_simulation_alone() -> None:
    made = plan()
    for other in (replace(made.algorithm, unlike=True), replace(made.algorithm, cohort=lambda clients, round: [])):
        with pytest.raises(InputError, match="only in simulation"):
            replace(made, algorithm=other)


def test_a_wrong_key_is_named_on_both_sides(disk: Path) -> None:
    """A node with another secret: neither can read the other, and both logs say so in the first round."""
    all_ = nodes("fedavg", disk)
    all_[2]._key = bytes(range(32))
    all_[2]._assembler._keys = {2: bytes(range(32))}.get
    server = serve("fedavg", disk, InProcess(all_), rounds=1)
    assert [list(r.clients) for r in server.rounds()] == [[0, 1, 3, 4]]
    server.close()
    for log in (disk / "server" / "log.jsonl", disk / "node-2" / "log.jsonl"):
        assert "the MAC of a frame in the name of client 2 is wrong" in log.read_text()


def test_a_client_that_left_does_not_hold_up_the_end(disk: Path) -> None:
    """The last model is offered for a minute, whatever a round's deadline is; the log says who is without it."""
    transport = InProcess(nodes("fedavg", disk))
    server = serve("fedavg", disk, transport, rounds=1, deadline=1e5)
    rounds = server.rounds()
    next(rounds)
    del transport.nodes[4]
    assert list(rounds) == []
    server.close()
    assert transport.now() < 100
    assert events(disk, "not handed out")[0]["clients"] == [4]
    again = InProcess(nodes("fedavg", disk))
    server = serve("fedavg", disk, again, rounds=1, deadline=1e5)
    assert list(server.rounds()) == []
    server.close()
    assert (disk / "node-4" / "last.safetensors").exists()


def test_a_member_that_is_removed_is_no_part_of_the_round_at_work(disk: Path) -> None:
    """Its letter was accepted before, and nobody has summed it yet; after a restart it is the same."""
    answering = {c: one for c, one in nodes("fedavg", disk).items() if c != 3}  # which is waited for
    settled = RoundPolicy(rounds=1, clients=CLIENTS, seed=SEED)

    def members() -> Members:
        lines = journal.scan(disk / "server" / "journal.log")
        left = [c for c in CLIENTS if c != 4 or not any(r["state"] == "ACCEPTED" and r["client"] == 4 for r in lines)]
        return Members(replace(settled, clients=left), {c: KEYS[c] for c in left})

    def opened() -> Server:
        return Server(plan("fedavg"), settled, {}, disk / "server", InProcess(answering), members=members)

    server = opened()
    [made] = server.rounds()
    server.close()
    assert sorted(made.clients) == [0, 1, 2]
    again = opened()
    assert again.at.counted.keys() == {0, 1, 2}
    again.close()
