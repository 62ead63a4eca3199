"""The server half: rounds that survive crashes, over any transport.

`Server.rounds` is one round after the other: select, collect, aggregate, commit. Whatever happens goes into the journal
before it has an effect, so that a server that was killed at any instant goes on where it was when it is started again
by the same command: letters that it accepted it still has, the others it asks for again, and nodes answer as before.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.aggregation.robust import TooFewMessages
from seedbed.deployment.federation.event_log import EventLog
from seedbed.deployment.federation.inbox import Inbox
from seedbed.deployment.federation.journal import RESTART_SERVER, Journal, JournalRecord
from seedbed.deployment.federation.protocol import FederationProtocol, as_message, digest_tensor, refuse_weak
from seedbed.deployment.federation.round_policy import RoundPolicy
from seedbed.deployment.federation.state_machine import apply_record, replay_journal
from seedbed.deployment.federation.transport import Address, Transport
from seedbed.deployment.wire import FRAME_CHUNK, Action, FrameAssembler, FrameRefused, Letter, seal_frames
from seedbed.deployment.wire.frames import IDENTITY, TEXT, FrameHeader
from seedbed.errors import Diverged, InputError
from seedbed.federated import ClientId, Message, MessageBatch, Replies, ServerState
from seedbed.rounds.round import Round, gather
from seedbed.serialization import (
    explain_write_errors,
    fill_template,
    tensors_from_bytes,
    trees_to_bytes,
    write_atomically,
)

OTHER_RUN = "this is another run's letter: this server holds another one"
OTHERWISE = "this client was set up otherwise"  # these two a node cannot mend by going on
MAX_LOGGED_LETTERS = 1000  # on letters in the log, a round
OF_ONE = 20  # of them on letters of one client
HAND_OUT = 60.0  # seconds in which clients fetch the last model; one that has left gets it when the server runs again
WELCOMES = 8  # greetings of one client that are answered by the round's work, a round
FRAMES = 64  # that a client may send within `again` seconds, beside two of its longest letters
MIN_GUARD_ROUNDS = 3  # aggregates that the divergence guard must have seen before it speaks


class TooFewReplies(InputError):
    """So many attempts in a row were missed that a person has to look."""


class Members(NamedTuple):
    """Which clients there are."""

    terms: RoundPolicy  # for them
    keys: Mapping[ClientId, bytes]


class RoundOutcome(NamedTuple):
    """What a round's letters come to."""

    state: ServerState
    replies: Replies | None
    clients: Sequence[ClientId]  # whose messages are in it
    refused: Mapping[ClientId, str]
    discarded: str | None  # why the model stays as it was


class Server:
    """One run's server. While it lives, no other can open its folder.

    Args:
        keys: [32] bytes by client, each shared with that client's node alone; those of `terms.clients`.
        folder: journal.log, objects/, metrics.jsonl, log.jsonl, and in the end model.safetensors.
        said: called with every line of the log, such as `print`.
        members: which clients there are now, where that may change: asked again and again. None: those of `terms`.
    Raises:
        InputError: the folder is of another plan or other terms, was altered, is held by another server, or is full; a
            client's key is missing, too short, or another's too.
    """

    def __init__(
        self,
        plan: FederationProtocol,
        terms: RoundPolicy,
        keys: Mapping[ClientId, bytes],
        folder: Path,
        transport: Transport,
        *,
        said: Callable[[str], object] | None = None,
        members: Callable[[], Members] | None = None,
    ):
        self.plan, self.terms, self.folder, self.transport = plan, terms, folder, transport
        self._members, self._binding = members, terms.binding
        self._keys = _keys_of(terms.clients, keys) if members is None else {}
        self._algorithm = replace(plan.algorithm, reduce=terms.reduce(plan.algorithm))
        self._gate = replace(terms.gate, weight_cap=terms.gate.weight_cap or plan.largest_weight)
        self._addresses: dict[ClientId, Address] = {}
        self._held: set[ClientId] = set()  # clients that have the last model
        self._sent: Counter[ClientId] = Counter()  # bytes of letters to each client since this server was started
        self._got: Counter[ClientId] = Counter()  # and from it; a letter said again is counted once
        self._said: dict[ClientId, bytes] = {}  # the digest of the last letter to each
        self._remarks: Counter[ClientId | None] = Counter()  # on letters of each client, in this round
        self._told_no: set[tuple[ClientId, bool]] = (
            set()
        )  # who was sent a refusal in this round, of its letter or others
        self._welcomes: Counter[ClientId] = Counter()  # in this round
        self._unread: set[Address] = set()  # where frames of this round came from that no key opens
        limits = {Action.HELLO: TEXT, Action.REPLY: plan.message.limit, Action.FAILED: TEXT, Action.HELD: 0}
        self._assembler = FrameAssembler(lambda client: self._keys.get(client), lambda action: limits.get(action, -1))
        longest = 1 + max(limits.values()) // FRAME_CHUNK
        self._inbox = Inbox(transport, 2 * longest + FRAMES, terms.again)
        self.journal = Journal(folder)
        self.log = EventLog(folder / "log.jsonl", said)
        try:
            self._open()
            self.at = replay_journal(self.journal.scan())
            self._meet()
            self.state = self._load(self.at.snapshot)
            self._write_metrics()
            self.log("open", round=self.at.round, attempt=self.at.attempt, records=self.journal.count)
        except BaseException:
            self.close()
            raise

    def rounds(self) -> Iterator[Round]:
        """All rounds that are still to come; each is committed when it is yielded.

        Raises:
            Diverged: `patience` rounds in a row were discarded. The model is the last good one.
            TooFewAnswer: `patience` attempts in a row were missed.
            InputError: the disk cannot be written. In all three cases the same command goes on.
        """
        while self.at.round <= self.terms.rounds:
            if self.at.aggregated is None:
                self._select()
                self._collect()
                if len(self.at.accepted) < self._enough:
                    self._miss()
                    continue
                self._aggregate()
            yield self._commit()
            self._stop_if_hopeless("discarded", Diverged)
        write_atomically(
            self.folder / "model.safetensors", trees_to_bytes({"params": self.state.params}), go_on=RESTART_SERVER
        )
        self._hand_out()
        self.log("finished", rounds=self.terms.rounds)

    def close(self) -> None:
        self.journal.close()

    # ---- a round ------------------------------------------------------------------------------------------------

    def _select(self) -> None:
        self._forget_remarks()
        self._meet()
        if self.at.cohort is None:
            self._record("SELECTED", attempt=self.at.attempt, cohort=self.terms.chosen(self.at.round))

    def _collect(self) -> None:
        """Ask the cohort until enough has come, nobody is left to wait for, or time is over."""
        self._insist("waiting", lambda: self._waited_for, self._ask, self.terms.deadline)

    def _hand_out(self) -> None:
        """Give every client the last model, and tell it what was counted, so that it keeps what goes with it."""

        def without() -> list[ClientId]:
            return [c for c in self.terms.clients if c not in self._held]

        self._insist("handing out", without, self._give, min(self.terms.deadline, HAND_OUT))
        if left := without():
            self.log("not handed out", round=self.at.round, clients=left)

    def _insist(
        self,
        event: str,
        waited_for: Callable[[], list[ClientId]],
        say: Callable[[list[ClientId]], None],
        seconds: float,
    ) -> None:
        """Say it again and again to those who are waited for, and read what comes, until nobody is or time is over."""
        now = self.transport.now
        again, end = now(), now() + seconds
        while (silent := waited_for()) and now() < end:
            if now() >= again:
                again = now() + self.terms.again
                self._meet()
                say(silent)
                self.log(event, round=self.at.round, attempt=self.at.attempt, clients=silent,
                         accepted=len(self.at.accepted), wanted=self.terms.wanted, enough=self._enough,
                         seconds_left=round(end - now(), 1))  # fmt: skip
            arrived = self._inbox.receive(max(0.0, min(again, end) - now()))
            if arrived is not None:
                self._take(*arrived)

    def _meet(self) -> None:
        """Follow the members: a new one is asked from the next round on, a removed one is not heard any more."""
        if self._members is None:
            return
        terms, keys = self._members()
        for client in {c for c, key in self._keys.items() if keys.get(c) != key}:
            self._addresses.pop(client, None)  # its node says hello with the new key
        before = self.at.members if self.at.members is not None else sorted(self.terms.clients)
        self.terms, self._keys = terms, _keys_of(terms.clients, keys)
        if sorted(terms.clients) != sorted(before):
            self._record("MEMBERS", clients=sorted(terms.clients))

    def _miss(self) -> None:
        refused = f" ({len(self.at.refused)} were refused)" if self.at.refused else ""
        self._record("MISSED", attempt=self.at.attempt, accepted=len(self.at.accepted))
        self._stop_if_hopeless(f"missed for want of answers{refused}", TooFewReplies)

    def _aggregate(self) -> None:
        """Letters → the next model, on disk before it is said so."""
        groups = [MessageBatch([c], tree.stack([self._message(self.at.accepted[c])])) for c in sorted(self.at.accepted)]
        made = self._outcome(groups)
        snapshot = self.at.snapshot if made.discarded else self.journal.store(trees_to_bytes({"state": made.state}))
        refused = {str(c): why for c, why in made.refused.items()}
        good = made.replies if made.discarded is None else None
        info = {name: float(value) for name, value in good.info.items()} if good else {}
        norm = _norm(good) if good else 0.0
        self._record("AGGREGATED", attempt=self.at.attempt, clients=list(made.clients), refused=refused,
                     snapshot=snapshot, info=info, norm=norm, discarded=made.discarded)  # fmt: skip

    def _commit(self) -> Round:
        made = self.at.aggregated
        assert made is not None
        clients = made["clients"]
        while (left := self._inbox.left()) is not None:  # what came before the next round cannot answer it
            self._take(*left)
        self._record("COMMITTED", snapshot=made["snapshot"])
        self.state = self._load(made["snapshot"])
        self._forget_remarks()
        with (
            explain_write_errors(self.folder / "metrics.jsonl", go_on=RESTART_SERVER),
            open(self.folder / "metrics.jsonl", "a") as file,
        ):
            file.write(_metrics(made))
        self.journal.sweep(self.at.needed)
        self._tell(clients)
        self.log("traffic", round=made["round"], sent=dict(self._sent), got=dict(self._got))
        refused = {int(c): why for c, why in made["refused"].items()}
        return Round(made["round"], self.state, clients, _info(made), refused=refused)

    def _outcome(self, groups: Sequence[MessageBatch]) -> RoundOutcome:
        """Judge, reduce, step: what a simulation does, and a model only if it is sound."""
        at, algorithm = self.at, self._algorithm
        groups, unfit = self._gate.admit(groups, list(at.accepted), schema=self.plan.schema)
        refused = {**{c: str(r["why"]) for c, r in at.refused.items()}, **unfit}
        clients = [c for group in groups for c in group.clients]
        if len(clients) < self.terms.enough(len(refused)):
            return RoundOutcome(self.state, None, [], refused, f"{len(clients)} messages are left behind the gate")
        try:
            replies = gather(algorithm, groups, len(self.terms.clients))
        except TooFewMessages as why:
            return RoundOutcome(self.state, None, [], refused, str(why))
        state = algorithm.server(self.state, replies)
        discarded = self._unsound(state, replies)
        return RoundOutcome(state, replies, [] if discarded else clients, refused, discarded)

    def _unsound(self, state: ServerState, replies: Replies) -> str | None:
        """The divergence guard: why a round must not become the model."""
        if not (tree.is_finite(state) and tree.is_finite(replies.value) and tree.is_finite(dict(replies.info))):
            return "the model would not be finite"
        norms, norm = self.at.norms, _norm(replies)
        usual = float(torch.tensor(norms).double().quantile(0.5)) if len(norms) >= MIN_GUARD_ROUNDS else torch.inf
        if self.terms.explosion is not None and norm > self.terms.explosion * usual:
            return f"the aggregate's norm {norm:.3g} is over {self.terms.explosion:g} times the usual {usual:.3g}"
        return None

    def _stop_if_hopeless(self, what: str, kind: type[InputError]) -> None:
        if self.at.failures >= self.terms.patience:
            failures, number = self.at.failures, self.at.round
            self._record("STOPPED", why=what)
            raise kind(
                f"round {number}: {failures} rounds or attempts in a row failed, the last {what}; the model is the "
                f"last good one. {self.folder / 'log.jsonl'} says why; the same command goes on"
            )

    # ---- letters ------------------------------------------------------------------------------------------------

    @property
    def _enough(self) -> int:
        """Messages that make this round: a refused one is not missing."""
        return self.terms.enough(len(self.at.refused))

    @property
    def _waited_for(self) -> list[ClientId]:
        at = self.at
        if len(at.accepted) >= self.terms.wanted:
            return []
        silent = [c for c in at.cohort or () if c not in at.accepted and c not in at.refused]
        return [c for c in silent if c in self._keys]

    def _ask(self, clients: Sequence[ClientId]) -> None:
        self._send_state(clients, Action.WORK)

    def _give(self, clients: Sequence[ClientId]) -> None:
        self._send_state(clients, Action.MODEL)

    def _send_state(self, clients: Sequence[ClientId], action: Action) -> None:
        for client in clients:
            if client in self._addresses:
                counted = digest_tensor(self.at.counted.get(client))
                sent = self.plan.algorithm.send(self.state, client)
                self._send(client, action, self.plan.work.pack({"sent": sent, "counted": counted}))

    def _tell(self, clients: Sequence[ClientId]) -> None:
        for client in clients:
            if client in self.at.counted:
                self._send(client, Action.COUNTED, bytes.fromhex(self.at.counted[client]))

    def _send(self, client: ClientId, action: Action, payload: bytes = b"") -> None:
        if client in self._addresses and client in self._keys:
            self._send_to(self._addresses[client], client, action, payload)

    def _send_to(self, address: Address, client: ClientId, action: Action, payload: bytes) -> None:
        at, plan = self.at, self.plan
        letter = Letter(plan.run, at.round, at.attempt, client, action, plan.fingerprint, payload)
        urgent = action in (Action.WORK, Action.MODEL, Action.REFUSAL)
        frames = seal_frames(letter, self._keys[client])
        if self._said.get(client) != letter.digest:
            self._said[client], self._sent[client] = letter.digest, self._sent[client] + sum(map(len, frames))
        self.transport.send(address, frames, urgent=urgent)

    def _take(self, address: Address, frame: bytes) -> None:
        """A frame from somewhere. Nothing that it holds can do more than be refused."""
        try:
            letter = self._assembler.take(frame)
        except FrameRefused as why:
            self._remark("frame refused", why=str(why))
            return self._answer_unread(address, frame, str(why))
        if letter is None:
            return None
        self._got[letter.client] += len(letter.payload)
        try:
            return self._read(letter, address)
        except FrameRefused as why:
            about = {"client": letter.client, "round": letter.round, "attempt": letter.attempt}
            self._remark("letter refused", **about, why=str(why))
            return self._refuse(letter, address, str(why))

    def _read(self, letter: Letter, address: Address) -> None:
        if letter.run != self.plan.run:
            raise FrameRefused(OTHER_RUN)
        if letter.schema != self.plan.fingerprint:
            raise FrameRefused(f"{OTHERWISE}: {self._unlike(letter)}")
        self._addresses[letter.client] = address
        if letter.action is Action.HELLO:
            self._welcome(letter.client)
        elif letter.action is Action.HELD:
            self._held.add(letter.client)
            self._remark("held", client=letter.client)
        elif (letter.round, letter.attempt) != (self.at.round, self.at.attempt):
            self._late(letter)
        else:
            self._current(letter)

    def _answer_unread(self, address: Address, frame: bytes, why: str) -> None:
        """Once a round, tell whoever speaks in a client's name that its letters are not read: its key may be another.

        It cannot read this either then, and its log says so.
        """
        with suppress(FrameRefused):
            client = FrameHeader(frame).client
            if client in self._keys and address not in self._unread:
                self._unread.add(address)
                self._send_to(address, client, Action.REFUSAL, why.encode()[:TEXT])

    def _refuse(self, letter: Letter, address: Address, why: str) -> None:
        """Tell a client why, once a round for letters of the round and once for others: it could go on for ever."""
        kind = letter.client, (letter.round, letter.attempt) == (self.at.round, self.at.attempt)
        if kind not in self._told_no:
            self._told_no.add(kind)
            self._send_to(address, letter.client, Action.REFUSAL, why.encode()[:TEXT])

    def _welcome(self, client: ClientId) -> None:
        self._remark("hello", client=client)
        self._welcomes[client] += 1
        if self._welcomes[client] > WELCOMES:
            return  # it is asked again with the others
        self._send(client, Action.NOTED)
        self._tell([client])
        if self.at.round > self.terms.rounds:
            self._give([client])
        elif client in self._waited_for:
            self._ask([client])

    def _late(self, letter: Letter) -> None:
        if self.at.counted.get(letter.client) == letter.digest.hex():
            return self._tell([letter.client])
        raise FrameRefused(
            f"round {letter.round} attempt {letter.attempt} is over: the letter came late, and nothing is lost"
        )

    def _current(self, letter: Letter) -> None:
        """A letter of the round at work: the first of a client counts, the same again changes nothing."""
        at, client, digest = self.at, letter.client, letter.digest.hex()
        known = at.accepted.get(client) or at.refused.get(client, {}).get("letter")
        if known == digest:
            return self._send(client, Action.NOTED)
        if known is not None:
            raise FrameRefused(f"client {client} sent another letter in round {at.round} already: this one differs")
        if client not in (at.cohort or ()):
            raise FrameRefused(f"client {client} was not asked in round {at.round}")
        if at.aggregated:
            return self._late(letter)
        why = self._fault(letter)
        if why is not None:
            self._record("REFUSED", attempt=at.attempt, client=client, letter=digest, why=why)
            raise FrameRefused(why)
        self.journal.store(letter.identity + letter.payload)
        self._record("ACCEPTED", attempt=at.attempt, client=client, letter=digest)
        return self._send(client, Action.NOTED)

    def _fault(self, letter: Letter) -> str | None:
        """What is wrong with a message by itself: nothing of it has touched the model yet."""
        if letter.action is not Action.REPLY:
            return f"the node failed: {letter.note}"
        try:
            message = as_message(self.plan.message.unpack(letter.payload))
        except FrameRefused as why:
            return str(why)
        gate = replace(self._gate, norm=None)  # it needs the round's other messages: see _outcome
        group = MessageBatch([letter.client], tree.stack([message]))
        refused = gate.admit([group], [letter.client], schema=self.plan.schema).refused
        if not refused and self.plan.algorithm.reduce.linear and _largest(message) > self.terms.grid.clip:
            return f"a number beyond ±{self.terms.grid.clip:g}, the ends of the grid"
        return refused.get(letter.client)

    def _remark(self, event: str, **about: Any) -> None:
        """Log something that anybody can cause: so many times a round and no more, or they could fill the disk."""
        client = about.get("client")
        self._remarks[client] += 1
        most = min(MAX_LOGGED_LETTERS, OF_ONE)
        if self._remarks[client] <= most:
            self.log(event, **about, **({"note": "the last in this round"} if self._remarks[client] == most else {}))

    def _forget_remarks(self) -> None:
        """A new round or attempt: what was limited in the one before begins again."""
        for limited in (self._remarks, self._told_no, self._welcomes, self._unread):
            limited.clear()
        self._inbox.renew()

    def _unlike(self, letter: Letter) -> str:
        """Which part of the plan is not as here, where the letter says so."""
        said = letter.note.splitlines() if letter.action is Action.HELLO else []
        parts = [name for name, value in self.plan.parts.items() if said and f"{name}={value}" not in said]
        return f"{', '.join(parts) or 'its plan'} differs; give both sides the same settings"

    # ---- on disk ------------------------------------------------------------------------------------------------

    def _record(self, state: str, **about: Any) -> None:
        about = about if state == "STOPPED" else {"round": self.at.round, **about}
        self.at = apply_record(self.at, self.journal.append({"state": state, **about}))
        self.log(state, **about)

    def _open(self) -> None:
        """Begin the journal, or see that it is of this plan and these terms."""
        own = {"run": self.plan.name, **self.plan.parts, **self._binding}
        if self.journal.first is None:
            snapshot = self.journal.store(trees_to_bytes({"state": self.plan.start}))
            self.journal.append({"state": "OPENED", "of": own, "snapshot": snapshot})
        there = (self.journal.first or {}).get("of", {})
        unlike = [name for name in own if json.dumps(own[name]) != json.dumps(there.get(name))]
        if unlike:
            raise InputError(
                f"{self.folder} holds a run with other {', '.join(unlike)}: start this one in another directory, or go "
                "on with that one's settings"
            )

    def _load(self, snapshot: str) -> ServerState:
        tensors = tensors_from_bytes(self.journal.load(snapshot), snapshot)
        state: ServerState = fill_template(self.plan.start, tensors, "state")
        return state

    def _message(self, digest: str) -> Message:
        """An accepted letter's message."""
        return as_message(self.plan.message.unpack(self.journal.load(digest)[IDENTITY.size :]))

    def _write_metrics(self) -> None:
        """metrics.jsonl, made again from the journal."""
        lines, made = [], None
        for record in self.journal.scan():
            if record["state"] == "COMMITTED" and made is not None:
                lines.append(_metrics(made))
            made = record if record["state"] == "AGGREGATED" else made
        write_atomically(self.folder / "metrics.jsonl", "".join(lines).encode(), go_on=RESTART_SERVER)


def _keys_of(clients: Sequence[ClientId], keys: Mapping[ClientId, bytes]) -> dict[ClientId, bytes]:
    missing = [client for client in clients if client not in keys]
    if missing:
        raise InputError(f"clients {missing} have no key: give each 32 random bytes (secrets.token_bytes)")
    own = {client: keys[client] for client in clients}
    refuse_weak(own)
    return own


def _metrics(made: JournalRecord) -> str:
    return json.dumps({"round": made["round"], "clients": made["clients"], **_info(made)}) + "\n"


def _info(made: JournalRecord) -> dict[str, float]:
    """Numbers for people: those of a simulation, and whether the round was discarded."""
    refused = {"refused": float(len(made["refused"]))} if made["refused"] else {}
    return {**refused, **made["info"], **({"discarded": 1.0} if made["discarded"] else {})}


def _norm(replies: Replies) -> float:
    leaves: list[Tensor] = tree.leaves(replies.value)
    return float(torch.stack([leaf.double().norm() for leaf in leaves]).norm())


def _largest(message: Message) -> float:
    return max((float(leaf.double().abs().max()) for leaf in tree.leaves(message.value) if leaf.numel()), default=0.0)
