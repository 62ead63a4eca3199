"""A peer on a network: its loop."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from seedbed.federated import ClientId
from seedbed.peers.peer import Peer
from seedbed.rounds.round import Round


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


def run(peer: Peer, network: Carrier) -> Iterator[Round]:
    """A peer's rounds, as it closes them; ends when its neighbours need it no more.

    Raises:
        Diverged: the model is no longer finite.
        Alone: nobody was heard for too long.
    """
    while not peer.left:
        message = network.receive(0.0 if peer.busy else peer.terms.again)
        while message is not None:
            peer.take(message, network.now())
            message = network.receive(0.0)
        closed = peer.advance(network.now())
        for to, frames in peer.outbox(network.now()):
            network.send(to, frames)
        if closed is not None:
            yield closed
