"""What one peer knows of another, and when an exchange between them counts.

In round t each gives the other its offer, and says `has` = t once it holds the other's. A peer counts the exchange when
it holds the other's offer and knows that the other holds its own; it says so (`counted`) once that is on its disk. Two
ends can never be sure that both close a round alike: the last word may be lost. So who acknowledged, but had to close
the round without an acknowledgement, is in doubt and follows the other's word later:

    the other counted it          -> it is made up for: the same flow is added now, with the offers of that round
    the other closed it without   -> it never was

Whoever counted keeps its offer until the other has counted too, or has said that it never will; until then the two
exchange nothing new. What flows over a link is the same at both ends up to its sign, so that the sum over peers is kept
whatever is lost.

A peer that is started again is in the round in which it died: it does the same work again (work is a function of the
round and of what was on its disk), and so gives the same offer; a neighbour that had counted it gives its own again.
Sessions, larger with each start, keep apart what was said to the process that died.
"""

from dataclasses import dataclass, field

from seedbed.deployment.peers.messages import Offer, PeerStatus
from seedbed.federated import ClientId

NEVER = -1  # of rounds


@dataclass
class PeerLink:
    """One peer's view of one other. `counted` and `doubt` are on disk with each closed round."""

    other: ClientId
    counted: int = NEVER  # the last round whose exchange is in this peer's state
    doubt: int = NEVER  # a round that was acknowledged, and closed without knowing whether the other counted it
    saved_doubt: int = NEVER  # as it is on disk
    # what was heard
    session: int = 0  # 0: never heard
    knows: bool = False  # whether the other knows this peer's session
    at: int = NEVER
    has: int = NEVER
    theirs: int = NEVER  # the last round that the other counted
    offers: dict[int, Offer] = field(default_factory=dict)  # what it gave, by round
    unfit: int = NEVER  # a round in which its offer was none that can be used
    heard: float = 0.0  # when it was heard last
    away: bool = False  # silent for too long; not waited for until it is heard again
    # what was said
    told: PeerStatus | None = None
    acknowledged: int = NEVER
    offered: tuple[int, int] = (0, NEVER)  # to which session, of which round
    tries: int = 0
    next_try: float = 0.0

    @property
    def even(self) -> bool:
        """Both ends have counted the same."""
        return self.counted == self.theirs

    def hear(self, status: PeerStatus, own_session: int, now: float) -> bool:
        """Take in what the other says of itself; False if it was said by a process that is no more, or out of order."""
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
            self.doubt = NEVER  # it closed that round without, too
        return True

    def hold(self, round: int, offered: Offer, own_round: int) -> None:
        """Keep an offer; of others only those that may still be needed."""
        wanted = {own_round, self.at, self.theirs, self.doubt}
        self.offers = {r: o for r, o in {**self.offers, round: offered}.items() if r in wanted}

    def ready(self, round: int) -> bool:
        """Whether this round's exchange counts."""
        both_hold = self.even and self.at == self.has == round
        return round in self.offers and (both_hold or self.theirs == round)

    def awaited(self, round: int) -> bool:
        """Whether something that this round needs may still come."""
        if self.away or self.unfit == round or self.ready(round):
            return False
        if self.theirs > self.counted:
            return self.theirs not in self.offers
        return self.at <= round

    def holds(self, round: int) -> int:
        """What to say of its offer of this round. This binds: whoever says it may be counted, and is in doubt.

        With a doubt on disk nothing is said, so that a peer that dies is in doubt of one round alone.
        """
        held = round in self.offers and (self.even or self.theirs == round)
        return round if held and self.saved_doubt == NEVER else NEVER

    def close(self, round: int, counting: bool) -> None:
        """What is so after this round."""
        may_have = self.acknowledged == round and not (self.at > round and self.theirs < round)
        if counting:
            self.counted = round
        elif may_have or self.theirs == round:
            self.doubt = round

    def started_again(self, round: int) -> None:
        """The process that died in this round may have acknowledged its offer."""
        self.saved_doubt = self.doubt
        if self.doubt == NEVER:
            self.acknowledged = round

    @property
    def lacks(self) -> bool:
        """Whether it has not counted what this peer did, and must be given that round's offer again."""
        missed = self.at > self.counted or (self.at == self.counted and self.has != self.counted)
        return self.session > 0 and self.theirs < self.counted and missed

    @property
    def late(self) -> int:
        """A round in doubt that the other turns out to have counted, and can be made up for; or NEVER."""
        found = self.doubt if self.theirs == self.doubt > self.counted else NEVER
        return found if found in self.offers else NEVER
