"""A peer on a network: its loop."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from seedbed.deployment.peers.peer import Peer
from seedbed.federated import ClientId
from seedbed.rounds.round import Round

MESSAGES_AT_ONCE = 256  # messages that are read before something else is done


class Carrier(Protocol):
    """What carries messages. It promises nothing but that a message arrives whole or not at all."""

    def send(self, to: ClientId, frames: Sequence[bytes]) -> None:
        """A peer that is not there is no error."""
        ...

    def receive(self, seconds: float) -> Sequence[bytes] | None:
        """The next message, or None after so many seconds without one."""
        ...

    def now(self) -> float:
        """Seconds, on a clock that only goes forward."""
        ...


def run_peer(peer: Peer, network: Carrier) -> Iterator[Round]:
    """A peer's rounds, as it closes them; ends when its neighbours need it no more.

    Raises:
        Diverged: the model is no longer finite.
        Alone: nobody was heard for too long.
    """
    while not peer.left:
        seconds = 0.0 if peer.busy else peer.terms.again
        for _ in range(MESSAGES_AT_ONCE):  # a neighbour that sends without end does not keep this peer from its work
            message = network.receive(seconds)
            if message is None:
                break
            peer.take(message, network.now())
            seconds = 0.0
        closed = peer.advance(network.now())
        for to, frames in peer.outbox(network.now()):
            network.send(to, frames)
        if closed is not None:
            yield closed
