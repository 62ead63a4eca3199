"""The loop of a peer on a network."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from seedbed.deployment.peers.peer import Peer
from seedbed.federated import ClientId
from seedbed.rounds.round import Round

MESSAGES_AT_ONCE = 256  # messages read before other work is done


class Carrier(Protocol):
    """Carries messages. It guarantees only that a message arrives complete or not at all."""

    def send(self, to: ClientId, frames: Sequence[bytes]) -> None:
        """Send a message; an unreachable peer is not an error."""
        ...

    def receive(self, seconds: float) -> Sequence[bytes] | None:
        """The next message; None after `seconds` without one."""
        ...

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        ...


def run_peer(peer: Peer, network: Carrier) -> Iterator[Round]:
    """Run a peer; yields each round when it is closed, and ends when no neighbour needs the peer any more.

    Raises:
        Diverged: the model contains NaN or infinite numbers.
        NoPeersHeard: no message arrived for too long.
    """
    while not peer.left:
        seconds = 0.0 if peer.busy else peer.terms.again
        for _ in range(MESSAGES_AT_ONCE):  # a flooding neighbour must not stop this peer's work
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
