"""One peer: its rounds, its messages, and its waiting. It has no clock and no socket of its own: see `peer_loop`.

A round: train, offer, receive the neighbours' offers, mix what counts (`link`), write to disk, report. Training
continues if a neighbour is silent for too long: its share then stays with this peer, as with a failed link in
simulation. A peer that comes back continues in its neighbours' current round.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from seedbed import tree
from seedbed.data.sampling import TaskSource
from seedbed.deployment.federation.event_log import EventLog
from seedbed.deployment.federation.protocol import FederationProtocol
from seedbed.deployment.peers.exchange import add_flow, exchange_flow
from seedbed.deployment.peers.link import NEVER, PeerLink
from seedbed.deployment.peers.messages import (
    Offer,
    PeerMessages,
    PeerStatus,
    StatusMessage,
    mixed_part,
    with_mixed_part,
)
from seedbed.deployment.peers.output import PeerOutput
from seedbed.deployment.peers.peer_policy import PeerPolicy
from seedbed.deployment.peers.peer_state import RESTART_PEER, PeerState, load_peer_state, save_peer_state, state_owner
from seedbed.deployment.wire import FrameRefused
from seedbed.engines.one_by_one import OneByOne
from seedbed.errors import InputError
from seedbed.federated import ClientId, Message, params_of
from seedbed.limits import refuse_links
from seedbed.locks import lock_file
from seedbed.rounds.gossip import consensus_distance, local_server_step
from seedbed.rounds.round import Round, one_by_one, refuse_infinite
from seedbed.tree import Tree

MAX_LOGGED_REMARKS = 100  # different log lines about others' messages, per round
LONGEST_TRY = 60.0  # longest time in seconds before an offer is resent


class NoPeersHeard(InputError):
    """No message arrived from any peer for too long."""


class Peer:
    """One peer of a run.

    Args:
        plan: the same for all peers; `plan.start` is the start of a new peer.
        terms: the peers' policy, the same for all.
        own: its number.
        source: its tasks, under its number: `Sampled(population, sampler, first=own)`.
        keys: for each contact [32] bytes, shared only with it.
        folder: for its state, metrics, log and model; created if missing.
        started: a number that grows with each start of this peer; None: the time in nanoseconds.
        said: also called with each line of the log.
    Raises:
        InputError: the folder belongs to another peer, was altered, or is in use by another process.
    """

    def __init__(
        self,
        plan: FederationProtocol,
        terms: PeerPolicy,
        own: ClientId,
        source: TaskSource,
        keys: Mapping[ClientId, bytes],
        folder: Path,
        *,
        started: int | None = None,
        said: Callable[[str], object] | None = None,
    ):
        self.plan, self.terms, self.own, self.folder = plan, terms, own, folder
        contacts = terms.contacts(own)
        self.letters = PeerMessages(plan, terms, own, {c: keys[c] for c in contacts})
        self._of = state_owner(plan, terms, own)
        self._engine = OneByOne(source)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = lock_file(folder / "lock", "process")
        self.log, self._output = EventLog(folder / "log.jsonl", said), PeerOutput(folder)
        try:
            refuse_links(folder)
            stored = load_peer_state(folder, plan, self._of) or self._new()
        except BaseException:
            self.close()
            raise
        self.new = stored.session == 0  # never started before
        self.session = max(stored.session + 1, time.time_ns() if started is None else started)
        self.state, self.round, self._kept, self._owed = stored.state, stored.round, stored.kept, dict(stored.owed)
        self.links = {c: PeerLink(c, stored.counted[c], stored.doubt[c]) for c in contacts}
        if not self.new:
            for link in self.links.values():
                link.started_again(self.round)
        self._at = self.state  # the state that is mixed in this round
        self._offer: Offer | None = None
        self._message: Message | None = None
        self._since: float | None = None  # start of waiting
        self._packed: dict[int, bytes] = {}
        self._remarks: set[tuple[object, ...]] = set()
        self._output.forget_after(self.round)
        self._save()
        self._begin()
        self._next_heartbeat, self._next_report, self._left = 0.0, 0.0, False
        contacted = self._names(self.links.values())
        self.log("open", peer=self._name(own), round=self.round, rounds=terms.rounds, contacts=contacted)

    def close(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def finished(self) -> bool:
        """Whether all rounds are closed; neighbours may still need this peer."""
        return self.round >= self.terms.rounds

    @property
    def busy(self) -> bool:
        """Whether there is something to compute."""
        return not self.finished and (self._offer is None or self._message is None)

    @property
    def left(self) -> bool:
        """Whether no neighbour needs this peer any more."""
        return self._left

    # ---- incoming messages --------------------------------------------------------------------------------------

    def take(self, frames: Sequence[bytes], now: float) -> None:
        """Process a message from any source. Whatever it contains, it can at worst be refused."""
        try:
            note = self.letters.read(frames)
        except FrameRefused as why:
            self._remark("message refused", why=str(why))
            return
        link = self.links[note.sender]
        again = link.session not in (0, note.status.session)
        if not link.hear(note.status, self.session, now):
            return
        if link.away or again:
            self.log("back", peer=self._name(note.sender), round=self.round, at=link.at)
        link.away = False
        self._take_offer(link, note)
        if link.theirs > link.counted and link.theirs not in (self.round, link.doubt):
            self._remark("old state restored", peer=self._name(link.other), round=link.theirs)
            link.counted = link.theirs  # this peer never gave that offer: its folder was restored from a backup

    def _take_offer(self, link: PeerLink, note: StatusMessage) -> None:
        if note.payload is None:
            return
        gives = float(self.terms.weights(note.round)[self.own, link.other]) != 0
        try:
            offered: Offer = self.letters.mould.unpack(note.payload) if gives else {}
            if not tree.is_finite(offered):
                raise FrameRefused("its offer is not finite")
        except FrameRefused as why:
            link.unfit = note.round
            self._remark("offer refused", peer=self._name(link.other), round=note.round, why=str(why))
            return
        link.hold(note.round, offered, self.round)

    # ---- outgoing messages --------------------------------------------------------------------------------------

    def outbox(self, now: float) -> Iterator[tuple[ClientId, list[bytes]]]:
        """Messages to send now: changed statuses, offers that are missing at the other end, and heartbeats."""
        heartbeat = now >= self._next_heartbeat
        if heartbeat:
            self._next_heartbeat = now + self.terms.again
        for link in self.links.values():
            status = PeerStatus(self.session, link.session, self.round, link.holds(self.round), link.counted)
            if status.has == self.round:
                link.acknowledged = self.round
            round = self._due(link, now)
            if round != NEVER:
                yield link.other, self.letters.write(link.other, status, round, self._payload(link.other, round))
            elif heartbeat or status != link.told:
                yield link.other, self.letters.write(link.other, status)
            else:
                continue
            link.told = status

    def _due(self, link: PeerLink, now: float) -> int:
        """The round whose offer to send now, or NEVER."""
        round = NEVER
        if link.session == 0 or link.away:
            return NEVER
        if link.lacks and link.counted in self._owed:
            round = link.counted
        elif self._offer and link.other in self._linked and link.has != self.round and link.at <= self.round:
            round = self.round
        if round == NEVER:
            return NEVER
        if link.offered != (link.session, round):
            link.offered, link.tries = (link.session, round), 0
        elif now < link.next_try:
            return NEVER
        link.next_try = now + min(self.terms.again * 2**link.tries, LONGEST_TRY)
        link.tries += 1
        return round

    def _payload(self, to: ClientId, round: int) -> bytes:
        """The packed offer; empty if the other only sends."""
        if float(self.terms.weights(round)[to, self.own]) == 0:
            return b""
        if round not in self._packed:
            offered = self._offer if round == self.round else self._owed[round]
            self._packed[round] = self.letters.mould.pack(dict(offered or {}))
        return self._packed[round]

    # ---- a round ------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> Round | None:
        """Do the next step that is possible now, one at a time so that offers can be sent in between.

        Returns:
            The round that this step closed, or None.
        Raises:
            Diverged: the model contains NaN or infinite numbers.
            NoPeersHeard: no message arrived for `patience` seconds.
        """
        if self.finished:
            self._finish(now)
        elif self._offer is None:
            if self.terms.order == "adapt_then_combine":
                self._train()
                self._at = local_server_step(self.plan.algorithm, self.own, self.state, self._own_message)
            self._offer = mixed_part(self._at)
        elif self._message is None:
            self._train()
        elif not self._waits(now):
            return self._close_round()
        return None

    def _begin(self) -> None:
        """Start a round: nothing is computed yet."""
        self._at, self._offer, self._message, self._since = self.state, None, None, None
        self._packed, self._remarks = {}, set()
        self._linked = [] if self.finished else self.terms.neighbours(self.own, self.round)

    def _train(self) -> None:
        algorithm = self.plan.algorithm
        self._engine.recall({} if self._kept is None else {self.own: self._kept})
        asked = {self.own: algorithm.send(self.state, self.own)}
        self._message = one_by_one(self._engine.ask(algorithm, asked, self.round))[self.own]

    @property
    def _own_message(self) -> Message:
        assert self._message is not None
        return self._message

    def _waits(self, now: float) -> bool:
        """Whether to keep waiting; marks neighbours that were silent for too long as away."""
        if self._since is None:
            self._since, self._next_report = now, now + self.terms.deadline / 4
        awaited = [self.links[c] for c in self._linked if self.links[c].awaited(self.round)]
        self._miss(self.links.values(), self._since, now)
        awaited = [link for link in awaited if not link.away]
        isolated = all(link.away for link in self.links.values())
        if (awaited or isolated) and now >= self._next_report:
            self.log("waiting", round=self.round, peers=self._names(awaited or self.links.values()))
            self._next_report = now + self.terms.deadline / 4
        last = max([self._since, *(link.heard for link in self.links.values())])
        if isolated and now - last > self.terms.patience:
            raise NoPeersHeard(
                f"{self._name(self.own)} received no message for {self.terms.patience:g} seconds in round "
                f"{self.round + 1} of {self.terms.rounds}: check that the other peers run and are reachable; "
                f"{RESTART_PEER}"
            )
        return bool(awaited) or isolated

    def _miss(self, links: Iterable[PeerLink], since: float, now: float) -> None:
        """Mark links as away that have been silent for too long, counted from the start of waiting."""
        for link in links:
            longest = self.terms.patience if self.new and not link.session else self.terms.deadline
            if not link.away and now - max(link.heard, since) > longest:
                link.away = True
                self.log("silent", peer=self._name(link.other), round=self.round, seconds=longest)

    def _close_round(self) -> Round:
        """Mix the offers that count, write the state to disk, and start the next round."""
        counting = [self.links[c] for c in self._linked if self.links[c].ready(self.round)]
        info = self._info(counting)
        mixed = add_flow(self._at, [self._flow(link, self.round) for link in counting] + self._make_up())
        if self.terms.order == "combine_then_adapt":
            mixed = local_server_step(self.plan.algorithm, self.own, mixed, self._own_message)
        refuse_infinite(mixed, self.round + 1, self._own_message.info)
        self._settle(counting)
        self.state, self._kept = mixed, self._engine.memory().get(self.own)
        clients = sorted([self.own, *(link.other for link in counting)])
        number = self.round + 1
        self._output.note({"round": number, "peers": [self._name(c) for c in clients], **info})
        self.log("closed", round=number, peers=self._names(counting), info=info)
        self.round = self._next()
        self._save()
        self._begin()
        if self.finished:
            self._write_model()
        return Round(number, self.state, clients, info)

    def _settle(self, counting: Sequence[PeerLink]) -> None:
        """Update the links when this round is closed."""
        offer = self._offer or {}
        self._owed[self.round] = offer
        for link in self.links.values():
            link.close(self.round, any(link is counted for counted in counting))
        links = self.links.values()
        needed = {link.counted for link in links if link.theirs < link.counted} | {link.doubt for link in links}
        self._owed = {round: owed for round, owed in self._owed.items() if round in needed}

    def _make_up(self) -> list[Offer]:
        """Flows of rounds in doubt that the other end has counted; from now on they count here too."""
        flows = []
        for link in self.links.values():
            round = link.late
            if round != NEVER and round in self._owed:
                flows.append(self._flow(link, round))
                link.counted, link.doubt = round, NEVER
                self.log("made up for", peer=self._name(link.other), round=round)
        return flows

    def _flow(self, link: PeerLink, round: int) -> Offer:
        mine = (self._offer if round == self.round else None) or self._owed[round]
        return exchange_flow(self.terms.weights(round), self.own, link.other, mine, link.offers[round])

    def _next(self) -> int:
        """The next round that at least one reachable neighbour has not closed yet."""
        round = self.round + 1
        present = [link for link in self.links.values() if link.session and not link.away]
        while round < self.terms.rounds:
            linked = [link for link in present if link.other in self.terms.neighbours(self.own, round)] or present
            if not linked or any(link.at <= round for link in linked):
                break
            round += 1
        if round > self.round + 1:
            self.log("catching up", missed=round - self.round - 1, round=round)
        return round

    # ---- the end ------------------------------------------------------------------------------------------------

    def _finish(self, now: float) -> None:
        """Linger until every live neighbour has closed its last round and agrees on counted exchanges."""
        if self._since is None:
            self._since, self._next_report = now, now + self.terms.deadline / 4
        if any(link.late != NEVER for link in self.links.values()):
            self.state = add_flow(self.state, self._make_up())
            self._save()
            self._write_model()
        links = self.links.values()
        waiting = [link for link in links if link.at < self.terms.rounds or not link.even or link.doubt != NEVER]
        self._miss(waiting, self._since, now)
        waiting = [link for link in waiting if not link.away]
        if not waiting:
            self._left = True
            self.log("finished", rounds=self.terms.rounds)
        elif now >= self._next_report:
            self.log("staying for", peers=self._names(waiting))
            self._next_report = now + self.terms.deadline / 4

    @property
    def model(self) -> Tree:
        """The parameters that this peer would send to a client."""
        return params_of(self.plan.algorithm.send(self.state, self.own))

    # ---- on disk ------------------------------------------------------------------------------------------------

    def _new(self) -> PeerState:
        nothing = [NEVER] * len(self.terms.names)
        return PeerState(self.plan.start, None, 0, 0, nothing, nothing, {})

    def _save(self) -> None:
        counted, doubt = ([NEVER] * len(self.terms.names) for _ in range(2))
        for c, link in self.links.items():
            counted[c], doubt[c] = link.counted, link.doubt
        current = PeerState(self.state, self._kept, self.round, self.session, counted, doubt, self._owed)
        save_peer_state(self.folder, current, self._of)
        for link in self.links.values():
            link.saved_doubt = link.doubt

    def _write_model(self) -> None:
        self._output.write_model(self.model)

    def _info(self, counting: Sequence[PeerLink]) -> dict[str, float]:
        """Metrics: this peer's own, and the consensus distance of the models mixed here, before mixing."""
        algorithm, states = self.plan.algorithm, [self._at]
        states += [with_mixed_part(self._at, link.offers[self.round]) for link in counting if link.offers[self.round]]
        consensus = consensus_distance([algorithm.send(state, self.own) for state in states])
        return {**{n: float(v) for n, v in self._own_message.info.items()}, "consensus": float(consensus)}

    # ---- log ----------------------------------------------------------------------------------------------------

    def _name(self, peer: ClientId) -> str:
        return self.terms.names[peer]

    def _names(self, links: Iterable[PeerLink]) -> list[str]:
        return [self._name(link.other) for link in links]

    def _remark(self, event: str, **about: object) -> None:
        """Log an event that others can cause: once per round and content, and a limited number."""
        line = (event, *about.values())
        if line not in self._remarks and len(self._remarks) < MAX_LOGGED_REMARKS:
            self._remarks.add(line)
            self.log(event, **about)
