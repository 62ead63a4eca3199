"""One peer: its rounds, what it says to whom, whom it waits for. No clock and no socket of its own: see `running`.

A round goes: work, offer, hear the neighbours, mix what counts (`link`), write to disk, say so. A neighbour that is
silent for too long is gone on without: what it would have given stays with this peer, as with a failed link in
simulation. A peer that was away takes part again from the round that its neighbours are in.
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

MAX_LOGGED_REMARKS = 100  # unlike lines on what others sent, a round
LONGEST_TRY = 60.0  # seconds between two sendings of the same offer, at most


class NoPeersHeard(InputError):
    """Nobody was heard for too long."""


class Peer:
    """One peer of a run.

    Args:
        plan: the same for all; `plan.start` is where a new peer starts.
        own: its number.
        source: its tasks, under its number: `Sampled(population, sampler, first=own)`.
        keys: of each contact, [32], shared with it alone.
        folder: of its memory, metrics, log and model; made if it is not there.
        started: larger at each start of this peer, such as the time in nanoseconds.
        said: also called with each line of the log.
    Raises:
        InputError: the folder is another's, was altered, or is held by another process.
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
        self.log, self._diary = EventLog(folder / "log.jsonl", said), PeerOutput(folder)
        try:
            refuse_links(folder)
            memory = load_peer_state(folder, plan, self._of) or self._new()
        except BaseException:
            self.close()
            raise
        self.new = memory.session == 0  # never started before
        self.session = max(memory.session + 1, time.time_ns() if started is None else started)
        self.state, self.round, self._kept, self._owed = memory.state, memory.round, memory.kept, dict(memory.owed)
        self.links = {c: PeerLink(c, memory.counted[c], memory.doubt[c]) for c in contacts}
        if not self.new:
            for link in self.links.values():
                link.started_again(self.round)
        self._at = self.state  # what is mixed in this round
        self._offer: Offer | None = None
        self._message: Message | None = None
        self._since: float | None = None  # when it began to wait
        self._packed: dict[int, bytes] = {}
        self._remarks: set[tuple[object, ...]] = set()
        self._diary.forget_after(self.round)
        self._save()
        self._begin()
        self._next_sign, self._next_word, self._left = 0.0, 0.0, False
        contacted = self._names(self.links.values())
        self.log("open", peer=self._name(own), round=self.round, rounds=terms.rounds, contacts=contacted)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def finished(self) -> bool:
        """All rounds are closed; neighbours may still need something."""
        return self.round >= self.terms.rounds

    @property
    def busy(self) -> bool:
        """There is something to compute."""
        return not self.finished and (self._offer is None or self._message is None)

    @property
    def left(self) -> bool:
        """Nobody needs it any more."""
        return self._left

    # ---- what comes ---------------------------------------------------------------------------------------------

    def take(self, frames: Sequence[bytes], now: float) -> None:
        """A message from somewhere. Nothing that it holds can do more than be refused."""
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
            self._remark("memory of an earlier day", peer=self._name(link.other), round=link.theirs)
            link.counted = link.theirs  # what it counted this peer has never given: somebody put a folder back

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

    # ---- what goes out ------------------------------------------------------------------------------------------

    def outbox(self, now: float) -> Iterator[tuple[ClientId, list[bytes]]]:
        """What is to be said to whom: what has changed, what is still missing there, and signs of life."""
        sign = now >= self._next_sign
        if sign:
            self._next_sign = now + self.terms.again
        for link in self.links.values():
            status = PeerStatus(self.session, link.session, self.round, link.holds(self.round), link.counted)
            if status.has == self.round:
                link.acknowledged = self.round
            round = self._due(link, now)
            if round != NEVER:
                yield link.other, self.letters.write(link.other, status, round, self._payload(link.other, round))
            elif sign or status != link.told:
                yield link.other, self.letters.write(link.other, status)
            else:
                continue
            link.told = status

    def _due(self, link: PeerLink, now: float) -> int:
        """The round whose offer the other is to be sent now, or NEVER."""
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
        """Nothing where the other only gives."""
        if float(self.terms.weights(round)[to, self.own]) == 0:
            return b""
        if round not in self._packed:
            offered = self._offer if round == self.round else self._owed[round]
            self._packed[round] = self.letters.mould.pack(dict(offered or {}))
        return self._packed[round]

    # ---- a round ------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> Round | None:
        """Do what can be done now: a step at a time, so that what each gives can be sent. The round that this closed.

        Raises:
            Diverged: the model is no longer finite.
            Alone: nobody was heard for `patience` seconds.
        """
        if self.finished:
            self._finish(now)
        elif self._offer is None:
            if self.terms.order == "adapt_then_combine":
                self._work()
                self._at = local_server_step(self.plan.algorithm, self.own, self.state, self._made)
            self._offer = mixed_part(self._at)
        elif self._message is None:
            self._work()
        elif not self._waits(now):
            return self._closed()
        return None

    def _begin(self) -> None:
        """In a new round nothing is done yet."""
        self._at, self._offer, self._message, self._since = self.state, None, None, None
        self._packed, self._remarks = {}, set()
        self._linked = [] if self.finished else self.terms.neighbours(self.own, self.round)

    def _work(self) -> None:
        algorithm = self.plan.algorithm
        self._engine.recall({} if self._kept is None else {self.own: self._kept})
        asked = {self.own: algorithm.send(self.state, self.own)}
        self._message = one_by_one(self._engine.ask(algorithm, asked, self.round))[self.own]

    @property
    def _made(self) -> Message:
        assert self._message is not None
        return self._message

    def _waits(self, now: float) -> bool:
        """Whether to wait on; who was silent for too long is away from now on."""
        if self._since is None:
            self._since, self._next_word = now, now + self.terms.deadline / 4
        awaited = [self.links[c] for c in self._linked if self.links[c].awaited(self.round)]
        self._miss(self.links.values(), self._since, now)
        awaited = [link for link in awaited if not link.away]
        alone = all(link.away for link in self.links.values())
        if (awaited or alone) and now >= self._next_word:
            self.log("waiting", round=self.round, peers=self._names(awaited or self.links.values()))
            self._next_word = now + self.terms.deadline / 4
        last = max([self._since, *(link.heard for link in self.links.values())])
        if alone and now - last > self.terms.patience:
            raise NoPeersHeard(
                f"{self._name(self.own)} heard nobody for {self.terms.patience:g} seconds in round {self.round + 1} of "
                f"{self.terms.rounds}: see that the others run and can be reached; {RESTART_PEER}"
            )
        return bool(awaited) or alone

    def _miss(self, links: Iterable[PeerLink], since: float, now: float) -> None:
        """Mark who has been silent for too long: since this peer began to wait, or longer."""
        for link in links:
            longest = self.terms.patience if self.new and not link.session else self.terms.deadline
            if not link.away and now - max(link.heard, since) > longest:
                link.away = True
                self.log("silent", peer=self._name(link.other), round=self.round, seconds=longest)

    def _closed(self) -> Round:
        """Mix what counts, write it down, and go to the next round."""
        counting = [self.links[c] for c in self._linked if self.links[c].ready(self.round)]
        info = self._info(counting)
        mixed = add_flow(self._at, [self._flow(link, self.round) for link in counting] + self._make_up())
        if self.terms.order == "combine_then_adapt":
            mixed = local_server_step(self.plan.algorithm, self.own, mixed, self._made)
        refuse_infinite(mixed, self.round + 1, self._made.info)
        self._settle(counting)
        self.state, self._kept = mixed, self._engine.memory().get(self.own)
        clients = sorted([self.own, *(link.other for link in counting)])
        number = self.round + 1
        self._diary.note({"round": number, "peers": [self._name(c) for c in clients], **info})
        self.log("closed", round=number, peers=self._names(counting), info=info)
        self.round = self._next()
        self._save()
        self._begin()
        if self.finished:
            self._write_model()
        return Round(number, self.state, clients, info)

    def _settle(self, counting: Sequence[PeerLink]) -> None:
        """What the links are after this round is closed."""
        offer = self._offer or {}
        self._owed[self.round] = offer
        for link in self.links.values():
            link.close(self.round, any(link is one for one in counting))
        links = self.links.values()
        needed = {link.counted for link in links if link.theirs < link.counted} | {link.doubt for link in links}
        self._owed = {round: owed for round, owed in self._owed.items() if round in needed}

    def _make_up(self) -> list[Offer]:
        """The flows of rounds in doubt that the other end turns out to have counted; from now on they count here."""
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
        """The next round that is not over for all with whom this peer could exchange in it."""
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
        """Wait until nobody needs this peer: all that are there have closed their last round, and count the same."""
        if self._since is None:
            self._since, self._next_word = now, now + self.terms.deadline / 4
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
        elif now >= self._next_word:
            self.log("staying for", peers=self._names(waiting))
            self._next_word = now + self.terms.deadline / 4

    @property
    def model(self) -> Tree:
        """The params that this peer would start a client from."""
        return params_of(self.plan.algorithm.send(self.state, self.own))

    # ---- on disk ------------------------------------------------------------------------------------------------

    def _new(self) -> PeerState:
        nothing = [NEVER] * len(self.terms.names)
        return PeerState(self.plan.start, None, 0, 0, nothing, nothing, {})

    def _save(self) -> None:
        counted, doubt = ([NEVER] * len(self.terms.names) for _ in range(2))
        for c, link in self.links.items():
            counted[c], doubt[c] = link.counted, link.doubt
        memory = PeerState(self.state, self._kept, self.round, self.session, counted, doubt, self._owed)
        save_peer_state(self.folder, memory, self._of)
        for link in self.links.values():
            link.saved_doubt = link.doubt

    def _write_model(self) -> None:
        self._diary.write_model(self.model)

    def _info(self, counting: Sequence[PeerLink]) -> dict[str, float]:
        """Numbers for people: this peer's own, and how far the models are apart that meet here, before mixing."""
        algorithm, states = self.plan.algorithm, [self._at]
        states += [with_mixed_part(self._at, link.offers[self.round]) for link in counting if link.offers[self.round]]
        consensus = consensus_distance([algorithm.send(state, self.own) for state in states])
        return {**{n: float(v) for n, v in self._made.info.items()}, "consensus": float(consensus)}

    # ---- words --------------------------------------------------------------------------------------------------

    def _name(self, peer: ClientId) -> str:
        return self.terms.names[peer]

    def _names(self, links: Iterable[PeerLink]) -> list[str]:
        return [self._name(link.other) for link in links]

    def _remark(self, event: str, **about: object) -> None:
        """A line of the log that others can provoke: each once a round, and so many."""
        line = (event, *about.values())
        if line not in self._remarks and len(self._remarks) < MAX_LOGGED_REMARKS:
            self._remarks.add(line)
            self.log(event, **about)
