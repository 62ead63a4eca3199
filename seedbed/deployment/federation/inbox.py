"""A fair inbox: clients take turns, so that one that sends thousands of frames does not delay the others."""

from collections import Counter, deque

from seedbed.deployment.federation.transport import Address, Transport

FRAMES_AT_ONCE = 256  # frames fetched from the transport before one is processed


class Inbox:
    """A fair queue with a rate limit, in front of a transport.

    Args:
        most: frames that an address may send per span, and that are queued for it. Further frames are dropped unread;
            the server resends its requests.
        seconds: the length of a span.
    """

    def __init__(self, transport: Transport, most: int, seconds: float):
        self._transport, self._most, self._seconds = transport, most, seconds
        self._waiting: dict[Address, deque[bytes]] = {}  # in the order of turns
        self._sent: Counter[Address] = Counter()  # frames of each address in this span
        self._since = transport.now()
        self.dropped = 0

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        """The next frame of the next address in turn; None after `seconds` without a frame."""
        for _ in range(FRAMES_AT_ONCE):
            arrived = self._transport.receive(0.0 if self._waiting else seconds)
            if arrived is None:
                break
            self._keep(*arrived)
        return self.next_fetched()

    def next_fetched(self) -> tuple[Address, bytes] | None:
        """The next frame of those fetched already; None if there is none."""
        if not self._waiting:
            return None
        address = next(iter(self._waiting))
        frames = self._waiting.pop(address)
        frame = frames.popleft()
        if frames:
            self._waiting[address] = frames  # behind the others
        return address, frame

    def renew(self) -> None:
        """Start a new span: each address may send `most` frames again."""
        self._sent.clear()
        self._since = self._transport.now()

    def _keep(self, address: Address, frame: bytes) -> None:
        if self._transport.now() >= self._since + self._seconds:
            self.renew()
        self._sent[address] += 1
        if self._sent[address] > self._most or len(self._waiting.get(address, ())) >= self._most:
            self.dropped += 1
        else:
            self._waiting.setdefault(address, deque()).append(frame)
