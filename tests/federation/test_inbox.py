"""A client that sends thousands of letters holds up nothing: each address in its turn, and so many frames of each."""

from collections import Counter, deque
from pathlib import Path

from seedbed.deployment.federation.inbox import Inbox
from seedbed.deployment.federation.transport import Address, InProcess
from seedbed.deployment.wire import Action, Letter, seal_frames
from seedbed.deployment.wire.frames import FrameHeader

from .bench import CLIENTS, KEYS, nodes, plan, same, serve, simulated
from .test_server import events

LIAR = 3


class Queue:
    """A transport of frames that have arrived already, on a clock that is set by hand."""

    def __init__(self) -> None:
        self.coming: deque[tuple[Address, bytes]] = deque()
        self.clock = 0.0

    def send(self, address: Address, frames: object, *, urgent: bool = True) -> None:
        raise AssertionError

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        return self.coming.popleft() if self.coming else None

    def now(self) -> float:
        return self.clock


def test_each_address_in_its_turn() -> None:
    """A hundred frames of a, then one each of b and c: they are read second and third."""
    queue = Queue()
    queue.coming.extend([*(("a", b"%d" % i) for i in range(100)), ("b", b"x"), ("c", b"y")])
    inbox = Inbox(queue, 1000, 10)
    got = [inbox.receive(0) for _ in range(103)]
    assert got[:4] == [("a", b"0"), ("b", b"x"), ("c", b"y"), ("a", b"1")]
    assert [frame for address, frame in filter(None, got) if address == "a"] == [b"%d" % i for i in range(100)]
    assert got[-1] is None


def test_so_many_frames_of_an_address_and_more_once_time_has_passed() -> None:
    """No more are held than may be sent, and what is dropped is counted."""
    queue = Queue()
    inbox = Inbox(queue, 5, 10)
    for clock, want in ((0.0, 5), (9.0, 0), (10.0, 5), (25.0, 5)):
        queue.clock = clock
        queue.coming.extend(("a", b"x") for _ in range(300))
        got = 0
        while queue.coming or inbox._waiting:
            got += inbox.receive(0) is not None
        assert got == want
    assert inbox.dropped == 4 * 300 - 15


class Flooding(InProcess):
    """Client 3 answers each of its letters and sends 1,500 more, of rounds that do not exist, under its own key."""

    def __init__(self, folder: Path):
        super().__init__(nodes("fedavg", folder))
        agreed = plan()
        self.flood = [
            seal_frames(Letter(agreed.run, 100 + i, 0, LIAR, Action.REPLY, agreed.fingerprint, b""), KEYS[LIAR])[0]
            for i in range(1500)
        ]
        self.refusals: Counter[int] = Counter()
        self.sent = 0

    def send(self, address: Address, frames: list[bytes], *, urgent: bool = True) -> None:  # type: ignore[override]
        head = FrameHeader(frames[0])
        self.refusals[head.round] += address == LIAR and head.action is Action.REFUSAL
        self.sent += address == LIAR
        super().send(address, frames, urgent=urgent)
        if address == LIAR and head.action is Action.WORK:
            self._incoming.extend((LIAR, frame) for frame in self.flood)


def test_a_flood_of_letters_under_a_right_key(disk: Path) -> None:
    """The model is that of an undisturbed run; the liar is sent a refusal a round, and the log has some lines of it.

    Of its 1,500 letters a round no more are opened than may be sent; an honest answer waits for one of them at most.
    """
    transport = Flooding(disk)
    server = serve("fedavg", disk, transport)
    taken: list[tuple[int, Address]] = []
    take = server._take

    def took(address: Address, frame: bytes) -> None:
        taken.append((server.at.round, address))
        take(address, frame)

    server._take = took  # type: ignore[method-assign]
    rounds = list(server.rounds())
    server.close()
    assert same(rounds[-1].state, simulated("fedavg")[0][-1].state)
    assert [list(r.clients) for r in rounds] == [list(CLIENTS)] * 4
    assert set(transport.refusals.values()) <= {0, 1, 2}
    assert max(Counter(r for r, a in taken if a == LIAR).values()) <= 2 * server._inbox._most
    assert len(events(disk, "letter refused")) <= 4 * 20 + 20
    assert server._inbox.dropped > 4 * 1000


def test_greetings_are_answered_by_the_model_some_times_a_round(disk: Path) -> None:
    """A greeting is small and the model is large: a thousand greetings are not a thousand models."""
    all_ = nodes("fedavg", disk)
    transport = InProcess({c: all_[c] for c in CLIENTS if c != 0})
    server = serve("fedavg", disk, transport, rounds=1)
    hello = all_[0].hello()[0]
    sent: Counter[Action] = Counter()
    send = transport.send

    def counting(address: Address, frames: list[bytes], *, urgent: bool = True) -> None:
        sent[FrameHeader(frames[0]).action] += address == "new"
        send(address, frames, urgent=urgent)

    transport.send = counting  # type: ignore[method-assign, assignment]
    transport._incoming.extend(("new", hello) for _ in range(1000))
    assert len(list(server.rounds())) == 1
    server.close()
    assert 1 <= sent[Action.WORK] <= 8 + 600 / 10 + 1  # and with the others, every ten seconds
