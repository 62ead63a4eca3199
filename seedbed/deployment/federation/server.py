"""The server: rounds that survive crashes, over any transport.

`Server.rounds` repeats: select a cohort, collect replies, aggregate, commit. Every event is journaled before it takes
effect. A server that was killed at any moment therefore continues when the same command starts it again: it still has
the accepted letters, asks for the others again, and nodes answer as before.
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
OTHERWISE = "this client was set up otherwise"  # a node cannot recover from these two refusals by retrying
MAX_LOGGED_LETTERS = 1000  # log lines about letters, per round
OF_ONE = 20  # log lines about one client's letters, per round
HAND_OUT = 60.0  # seconds for clients to fetch the final model; others get it when the server runs again
WELCOMES = 8  # greetings of one client per round that are answered with the round's work
FRAMES = 64  # frames that a client may send within `again` seconds, in addition to two of its longest letters
MIN_GUARD_ROUNDS = 3  # aggregates needed before the divergence guard can act


class TooFewReplies(InputError):
    """Too many attempts in a row were missed; an operator has to intervene."""


class Members(NamedTuple):
    """The federation's current members."""

    terms: RoundPolicy  # the policy for these clients
    keys: Mapping[ClientId, bytes]


class RoundOutcome(NamedTuple):
    """The result of a round's messages."""

    state: ServerState
    replies: Replies | None
    clients: Sequence[ClientId]  # clients whose messages are included
    refused: Mapping[ClientId, str]
    discarded: str | None  # the reason why the model stays unchanged


class Server:
    """One run's server. While it is open, no other server can open its folder.

    Args:
        plan: the protocol.
        terms: the round policy.
        keys: [32] bytes by client, each shared only with that client's node; for all of `terms.clients`.
        folder: gets journal.log, objects/, metrics.jsonl, log.jsonl, and at the end model.safetensors.
        transport: carries frames.
        said: called with every log line, for example `print`.
        members: returns the current members if they may change; called repeatedly. None: the clients of `terms`.
    Raises:
        InputError: the folder belongs to another plan or policy, was altered, is in use by another server, or the disk
            is full; a client's key is missing, too short, or the same as another's.
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
        self._held: set[ClientId] = set()  # clients that have the final model
        self._sent: Counter[ClientId] = Counter()  # bytes of letters to each client since this start
        self._received: Counter[ClientId] = Counter()  # bytes from it; a repeated letter counts once
        self._last_letters: dict[ClientId, bytes] = {}  # digest of the last letter to each client
        self._remarks: Counter[ClientId | None] = Counter()  # log lines on each client's letters, in this round
        self._refusals_sent: set[tuple[ClientId, bool]] = set()  # (client, about this round's letter), in this round
        self._welcomes: Counter[ClientId] = Counter()  # greetings, in this round
        self._unread: set[Address] = set()  # sources of frames in this round that no key opens
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
        """All remaining rounds; each is committed when it is yielded.

        Raises:
            Diverged: `patience` rounds in a row were discarded. The model is the last good one.
            TooFewReplies: `patience` attempts in a row were missed.
            InputError: the disk cannot be written. In all three cases the same command continues the run.
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
            self._record("SELECTED", attempt=self.at.attempt, cohort=self.terms.choose(self.at.round))

    def _collect(self) -> None:
        """Ask the cohort until enough replies have come, no client is pending, or the deadline passes."""
        self._resend_until("waiting", lambda: self._pending, self._ask, self.terms.deadline)

    def _hand_out(self) -> None:
        """Send every client the final model and its last counted letter, so that it commits its pending state."""

        def missing() -> list[ClientId]:
            return [c for c in self.terms.clients if c not in self._held]

        self._resend_until("handing out", missing, self._give, min(self.terms.deadline, HAND_OUT))
        if left := missing():
            self.log("not handed out", round=self.at.round, clients=left)

    def _resend_until(
        self,
        event: str,
        pending: Callable[[], list[ClientId]],
        send: Callable[[list[ClientId]], None],
        seconds: float,
    ) -> None:
        """Resend to pending clients, and process frames, until none is pending or the time is over."""
        now = self.transport.now
        again, end = now(), now() + seconds
        while (silent := pending()) and now() < end:
            if now() >= again:
                again = now() + self.terms.again
                self._meet()
                send(silent)
                self.log(event, round=self.at.round, attempt=self.at.attempt, clients=silent,
                         accepted=len(self.at.accepted), wanted=self.terms.wanted, enough=self._enough,
                         seconds_left=round(end - now(), 1))  # fmt: skip
            arrived = self._inbox.receive(max(0.0, min(again, end) - now()))
            if arrived is not None:
                self._take(*arrived)

    def _meet(self) -> None:
        """Update the members: a new one joins from the next round; a removed one is ignored from now on."""
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
        """Aggregate; persist the model before journaling it."""
        groups = [MessageBatch([c], tree.stack([self._message(self.at.accepted[c])])) for c in sorted(self.at.accepted)]
        outcome = self._outcome(groups)
        snapshot = self.at.snapshot
        if not outcome.discarded:
            snapshot = self.journal.store(trees_to_bytes({"state": outcome.state}))
        refused = {str(c): why for c, why in outcome.refused.items()}
        good = outcome.replies if outcome.discarded is None else None
        info = {name: float(value) for name, value in good.info.items()} if good else {}
        norm = _norm(good) if good else 0.0
        self._record("AGGREGATED", attempt=self.at.attempt, clients=list(outcome.clients), refused=refused,
                     snapshot=snapshot, info=info, norm=norm, discarded=outcome.discarded)  # fmt: skip

    def _commit(self) -> Round:
        aggregated = self.at.aggregated
        assert aggregated is not None
        clients = aggregated["clients"]
        while (left := self._inbox.next_fetched()) is not None:  # these frames cannot belong to the next round
            self._take(*left)
        self._record("COMMITTED", snapshot=aggregated["snapshot"])
        self.state = self._load(aggregated["snapshot"])
        self._forget_remarks()
        with (
            explain_write_errors(self.folder / "metrics.jsonl", go_on=RESTART_SERVER),
            open(self.folder / "metrics.jsonl", "a") as file,
        ):
            file.write(_metrics(aggregated))
        self.journal.sweep(self.at.needed)
        self._tell(clients)
        self.log("traffic", round=aggregated["round"], sent=dict(self._sent), got=dict(self._received))
        refused = {int(c): why for c, why in aggregated["refused"].items()}
        return Round(aggregated["round"], self.state, clients, _info(aggregated), refused=refused)

    def _outcome(self, groups: Sequence[MessageBatch]) -> RoundOutcome:
        """Validate, reduce and step as a simulation does; discard the result if it is not sound."""
        at, algorithm = self.at, self._algorithm
        groups, unfit = self._gate.admit(groups, list(at.accepted), schema=self.plan.schema)
        refused = {**{c: str(r["why"]) for c, r in at.refused.items()}, **unfit}
        clients = [c for group in groups for c in group.clients]
        if len(clients) < self.terms.enough(len(refused)):
            return RoundOutcome(self.state, None, [], refused, f"only {len(clients)} messages passed validation")
        try:
            replies = gather(algorithm, groups, len(self.terms.clients))
        except TooFewMessages as why:
            return RoundOutcome(self.state, None, [], refused, str(why))
        state = algorithm.server(self.state, replies)
        discarded = self._unsound(state, replies)
        return RoundOutcome(state, replies, [] if discarded else clients, refused, discarded)

    def _unsound(self, state: ServerState, replies: Replies) -> str | None:
        """Divergence guard: the reason to discard a round, or None."""
        if not (tree.is_finite(state) and tree.is_finite(replies.value) and tree.is_finite(dict(replies.info))):
            return "the model would contain NaN or infinite numbers"
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
                f"last good one. {self.folder / 'log.jsonl'} has the reasons; the same command continues the run"
            )

    # ---- letters ------------------------------------------------------------------------------------------------

    @property
    def _enough(self) -> int:
        """Messages needed for this round; a refused one does not count as missing."""
        return self.terms.enough(len(self.at.refused))

    @property
    def _pending(self) -> list[ClientId]:
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
        if self._last_letters.get(client) != letter.digest:
            self._last_letters[client] = letter.digest
            self._sent[client] += sum(map(len, frames))
        self.transport.send(address, frames, urgent=urgent)

    def _take(self, address: Address, frame: bytes) -> None:
        """Process a frame from any source. Whatever it contains, it can at worst be refused."""
        try:
            letter = self._assembler.take(frame)
        except FrameRefused as why:
            self._remark("frame refused", why=str(why))
            return self._answer_unread(address, frame, str(why))
        if letter is None:
            return None
        self._received[letter.client] += len(letter.payload)
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
            raise FrameRefused(f"{OTHERWISE}: {self._differences(letter)}")
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
        """Once per round, tell a sender that uses a client's name that its frames cannot be read.

        The sender may have another key. Then it cannot read this answer either, and logs that.
        """
        with suppress(FrameRefused):
            client = FrameHeader(frame).client
            if client in self._keys and address not in self._unread:
                self._unread.add(address)
                self._send_to(address, client, Action.REFUSAL, why.encode()[:TEXT])

    def _refuse(self, letter: Letter, address: Address, why: str) -> None:
        """Tell a client the reason, at most once per round for this round's letters and once for others."""
        kind = letter.client, (letter.round, letter.attempt) == (self.at.round, self.at.attempt)
        if kind not in self._refusals_sent:
            self._refusals_sent.add(kind)
            self._send_to(address, letter.client, Action.REFUSAL, why.encode()[:TEXT])

    def _welcome(self, client: ClientId) -> None:
        self._remark("hello", client=client)
        self._welcomes[client] += 1
        if self._welcomes[client] > WELCOMES:
            return  # it is asked with the next resend
        self._send(client, Action.NOTED)
        self._tell([client])
        if self.at.round > self.terms.rounds:
            self._give([client])
        elif client in self._pending:
            self._ask([client])

    def _late(self, letter: Letter) -> None:
        if self.at.counted.get(letter.client) == letter.digest.hex():
            return self._tell([letter.client])
        raise FrameRefused(
            f"round {letter.round} attempt {letter.attempt} is over: the letter came late; no action is needed"
        )

    def _current(self, letter: Letter) -> None:
        """Process a letter of the current round: a client's first one counts, and repeating it changes nothing."""
        at, client, digest = self.at, letter.client, letter.digest.hex()
        known = at.accepted.get(client) or at.refused.get(client, {}).get("letter")
        if known == digest:
            return self._send(client, Action.NOTED)
        if known is not None:
            raise FrameRefused(f"client {client} has sent a different letter in round {at.round} already")
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
        """Why a message is invalid by itself, or None; it has not affected the model yet."""
        if letter.action is not Action.REPLY:
            return f"the node failed: {letter.note}"
        try:
            message = as_message(self.plan.message.unpack(letter.payload))
        except FrameRefused as why:
            return str(why)
        gate = replace(self._gate, norm=None)  # the norm check needs the round's other messages: see _outcome
        group = MessageBatch([letter.client], tree.stack([message]))
        refused = gate.admit([group], [letter.client], schema=self.plan.schema).refused
        if not refused and self.plan.algorithm.reduce.linear and _largest(message) > self.terms.grid.clip:
            return f"a number is outside ±{self.terms.grid.clip:g}, the range of the grid"
        return refused.get(letter.client)

    def _remark(self, event: str, **about: Any) -> None:
        """Log an event that a client can cause; limited per round, so that no client can fill the disk."""
        client = about.get("client")
        self._remarks[client] += 1
        most = min(MAX_LOGGED_LETTERS, OF_ONE)
        if self._remarks[client] <= most:
            self.log(event, **about, **({"note": "the last in this round"} if self._remarks[client] == most else {}))

    def _forget_remarks(self) -> None:
        """Reset the limits that hold per round or attempt."""
        for limited in (self._remarks, self._refusals_sent, self._welcomes, self._unread):
            limited.clear()
        self._inbox.renew()

    def _differences(self, letter: Letter) -> str:
        """The parts of the protocol that differ, if the letter lists its own."""
        theirs = letter.note.splitlines() if letter.action is Action.HELLO else []
        parts = [name for name, value in self.plan.parts.items() if theirs and f"{name}={value}" not in theirs]
        return f"{', '.join(parts) or 'its plan'} differs; give both sides the same settings"

    # ---- on disk ------------------------------------------------------------------------------------------------

    def _record(self, state: str, **about: Any) -> None:
        about = about if state == "STOPPED" else {"round": self.at.round, **about}
        self.at = apply_record(self.at, self.journal.append({"state": state, **about}))
        self.log(state, **about)

    def _open(self) -> None:
        """Start the journal, or check that it belongs to this plan and policy."""
        own = {"run": self.plan.name, **self.plan.parts, **self._binding}
        if self.journal.first is None:
            snapshot = self.journal.store(trees_to_bytes({"state": self.plan.start}))
            self.journal.append({"state": "OPENED", "of": own, "snapshot": snapshot})
        stored = (self.journal.first or {}).get("of", {})
        different = [name for name in own if json.dumps(own[name]) != json.dumps(stored.get(name))]
        if different:
            raise InputError(
                f"{self.folder} has a run with other {', '.join(different)}: use another directory, or continue with "
                "that run's settings"
            )

    def _load(self, snapshot: str) -> ServerState:
        tensors = tensors_from_bytes(self.journal.load(snapshot), snapshot)
        state: ServerState = fill_template(self.plan.start, tensors, "state")
        return state

    def _message(self, digest: str) -> Message:
        """The message of an accepted letter."""
        return as_message(self.plan.message.unpack(self.journal.load(digest)[IDENTITY.size :]))

    def _write_metrics(self) -> None:
        """Rebuild metrics.jsonl from the journal."""
        lines, aggregated = [], None
        for record in self.journal.scan():
            if record["state"] == "COMMITTED" and aggregated is not None:
                lines.append(_metrics(aggregated))
            aggregated = record if record["state"] == "AGGREGATED" else aggregated
        write_atomically(self.folder / "metrics.jsonl", "".join(lines).encode(), go_on=RESTART_SERVER)


def _keys_of(clients: Sequence[ClientId], keys: Mapping[ClientId, bytes]) -> dict[ClientId, bytes]:
    missing = [client for client in clients if client not in keys]
    if missing:
        raise InputError(f"clients {missing} have no key: give each 32 random bytes (secrets.token_bytes)")
    own = {client: keys[client] for client in clients}
    refuse_weak(own)
    return own


def _metrics(aggregated: JournalRecord) -> str:
    return json.dumps({"round": aggregated["round"], "clients": aggregated["clients"], **_info(aggregated)}) + "\n"


def _info(aggregated: JournalRecord) -> dict[str, float]:
    """Numbers for metrics.jsonl: as in a simulation, plus whether the round was discarded."""
    refused = {"refused": float(len(aggregated["refused"]))} if aggregated["refused"] else {}
    return {**refused, **aggregated["info"], **({"discarded": 1.0} if aggregated["discarded"] else {})}


def _norm(replies: Replies) -> float:
    leaves: list[Tensor] = tree.leaves(replies.value)
    return float(torch.stack([leaf.double().norm() for leaf in leaves]).norm())


def _largest(message: Message) -> float:
    return max((float(leaf.double().abs().max()) for leaf in tree.leaves(message.value) if leaf.numel()), default=0.0)
