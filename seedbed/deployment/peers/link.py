"""One peer's view of another, and when an exchange between them counts.

In round t each peer sends the other its offer, and reports `has` = t once it holds the other's offer. A peer counts the
exchange when it holds the other's offer and knows that the other holds its own. It reports the exchange as `counted`
once that is on disk. Two ends can never be certain to close a round alike, because the last message may be lost. So a
peer that acknowledged an offer, but closed the round without an acknowledgement, is in doubt. Later it follows the
other:

    the other counted the exchange  -> compensate: add the same flow now, with the offers of that round
    the other did not count it      -> the exchange did not happen

A peer that counted an exchange keeps its offer until the other has counted it too, or has reported that it never will.
Until then the two exchange nothing new. The flow over a link is equal at both ends up to its sign, so the sum over
peers is preserved whatever is lost.

A restarted peer repeats the round in which it died. Its work is a function of the round and of its disk, so it sends
the same offer; a neighbour that had counted the exchange sends its own offer again. Session numbers grow with each
start; they separate messages to the dead process from current ones.
"""

from dataclasses import dataclass, field

from seedbed.deployment.peers.messages import Offer, PeerStatus
from seedbed.federated import ClientId

NEVER = -1  # no round


@dataclass
class PeerLink:
    """One peer's view of one other peer. `counted` and `doubt` are on disk with each closed round."""

    other: ClientId
    counted: int = NEVER  # the last round whose exchange is in this peer's state
    doubt: int = NEVER  # a round that was acknowledged, and closed without knowing whether the other counted it
    saved_doubt: int = NEVER  # `doubt` on disk
    # received from the other
    session: int = 0  # 0: nothing received yet
    knows: bool = False  # whether the other knows this peer's session
    at: int = NEVER
    has: int = NEVER
    theirs: int = NEVER  # the last round that the other counted
    offers: dict[int, Offer] = field(default_factory=dict)  # the other's offers, by round
    unfit: int = NEVER  # a round in which its offer was invalid
    heard: float = 0.0  # time of its last message
    away: bool = False  # silent for too long; not waited for until its next message
    # sent to the other
    told: PeerStatus | None = None
    acknowledged: int = NEVER
    offered: tuple[int, int] = (0, NEVER)  # session and round of the last offer
    tries: int = 0
    next_try: float = 0.0

    @property
    def even(self) -> bool:
        """Whether both ends have counted the same exchanges."""
        return self.counted == self.theirs

    def hear(self, status: PeerStatus, own_session: int, now: float) -> bool:
        """Process the other's status; False if it comes from an earlier process or is out of order."""
        if (status.session, status.at) < (self.session, self.at if status.session == self.session else NEVER):
            return False
        if status.session > self.session:
            self.session, self.has, self.unfit, self.told = status.session, NEVER, NEVER, None
            self.offers, self.offered = {}, (0, NEVER)
        self.knows = status.heard == own_session
        self.at, self.theirs = status.at, max(self.theirs, status.counted)
        self.has = status.has if self.knows else NEVER
        self.heard = now
        if NEVER < self.doubt < self.at and self.theirs < self.doubt:
            self.doubt = NEVER  # the other closed that round without the exchange, too
        return True

    def hold(self, round: int, offered: Offer, own_round: int) -> None:
        """Store an offer, and drop offers that are no longer needed."""
        wanted = {own_round, self.at, self.theirs, self.doubt}
        self.offers = {r: o for r, o in {**self.offers, round: offered}.items() if r in wanted}

    def ready(self, round: int) -> bool:
        """Whether this round's exchange counts."""
        both_hold = self.even and self.at == self.has == round
        return round in self.offers and (both_hold or self.theirs == round)

    def awaited(self, round: int) -> bool:
        """Whether a message that this round needs may still arrive."""
        if self.away or self.unfit == round or self.ready(round):
            return False
        if self.theirs > self.counted:
            return self.theirs not in self.offers
        return self.at <= round

    def holds(self, round: int) -> int:
        """The `has` to report for this round's offer. It is binding: the other may then count the exchange.

        Nothing is acknowledged while a doubt is on disk, so that a peer that dies is in doubt of only one round.
        """
        holding = round in self.offers and (self.even or self.theirs == round)
        return round if holding and self.saved_doubt == NEVER else NEVER

    def close(self, round: int, counting: bool) -> None:
        """Update the link when this round is closed."""
        may_have = self.acknowledged == round and not (self.at > round and self.theirs < round)
        if counting:
            self.counted = round
        elif may_have or self.theirs == round:
            self.doubt = round

    def started_again(self, round: int) -> None:
        """After a restart: the process that died in this round may have acknowledged the other's offer."""
        self.saved_doubt = self.doubt
        if self.doubt == NEVER:
            self.acknowledged = round

    @property
    def lacks(self) -> bool:
        """Whether the other has not counted an exchange that this peer did, and needs that round's offer again."""
        missed = self.at > self.counted or (self.at == self.counted and self.has != self.counted)
        return self.session > 0 and self.theirs < self.counted and missed

    @property
    def late(self) -> int:
        """A round in doubt that the other has counted and that can be compensated now; or NEVER."""
        round = self.doubt if self.theirs == self.doubt > self.counted else NEVER
        return round if round in self.offers else NEVER
