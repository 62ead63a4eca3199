"""A transport wrapper that injects every kind of network fault; all faults are drawn from a seed."""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import count

from seedbed import randomness
from seedbed.deployment.federation.transport import Address, Transport


@dataclass(frozen=True)
class FaultRates:
    """The probability of each fault per frame, in both directions.

    Args:
        delay: by up to `longest` seconds.
        reorder: delayed behind frames that follow within 1 s.
        truncate: cut at a random byte.
        flip: one bit.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    reorder: float = 0.0
    truncate: float = 0.0
    flip: float = 0.0
    longest: float = 100.0

    @classmethod
    def of(cls, p: float) -> "FaultRates":
        """The same probability for all faults."""
        return cls(**{field.name: p for field in fields(cls) if field.name != "longest"})


class FaultyTransport:
    """A transport with injected faults.

    Attributes:
        happened: the number of faults, by name.
    """

    def __init__(self, inner: Transport, faults: FaultRates, *, seed: int):
        self.inner, self.faults = inner, faults
        self.happened: Counter[str] = Counter()
        self._rng = randomness.generator(seed, "faults")
        self._order = count()
        self._outgoing: list[tuple[float, int, Address, bytes]] = []  # heaps, ordered by due time
        self._incoming: list[tuple[float, int, Address, bytes]] = []

    def send(self, address: Address, frames: Sequence[bytes], *, urgent: bool = True) -> None:
        for frame in frames:
            self._suffer(self._outgoing, address, frame)
        self._deliver()

    def receive(self, seconds: float) -> tuple[Address, bytes] | None:
        end = self.now() + seconds
        while True:
            self._deliver()
            if self._incoming and self._incoming[0][0] <= self.now():
                return heapq.heappop(self._incoming)[2:]
            due = min([end, *(heap[0][0] for heap in (self._outgoing, self._incoming) if heap)])
            arrived = self.inner.receive(max(0.0, due - self.now()))
            if arrived is not None:
                self._suffer(self._incoming, *arrived)
            elif self.now() >= end:
                return None

    def now(self) -> float:
        return self.inner.now()

    def _deliver(self) -> None:
        while self._outgoing and self._outgoing[0][0] <= self.now():
            _, _, address, frame = heapq.heappop(self._outgoing)
            self.inner.send(address, [frame])

    def _suffer(self, heap: list[tuple[float, int, Address, bytes]], address: Address, frame: bytes) -> None:
        """Queue a frame, after applying the faults drawn for it."""
        if self._strikes("drop"):
            return
        for _ in range(1 + self._strikes("duplicate")):
            late = self._rng.uniform(0, self.faults.longest) if self._strikes("delay") else 0.0
            late += self._rng.uniform(0, 1) if self._strikes("reorder") else 0.0
            heapq.heappush(heap, (self.now() + late, next(self._order), address, self._alter(frame)))

    def _alter(self, frame: bytes) -> bytes:
        changes: list[tuple[str, Callable[[bytes], bytes]]] = [("truncate", self._cut), ("flip", self._flip_bit)]
        for name, change in changes:
            if frame and self._strikes(name):
                frame = change(frame)
        return frame

    def _cut(self, frame: bytes) -> bytes:
        return frame[: int(self._rng.integers(len(frame)))]

    def _flip_bit(self, frame: bytes) -> bytes:
        changed = bytearray(frame)
        changed[int(self._rng.integers(len(frame)))] ^= 1 << int(self._rng.integers(8))
        return bytes(changed)

    def _strikes(self, fault: str) -> bool:
        struck = bool(self._rng.random() < getattr(self.faults, fault))
        self.happened[fault] += struck
        return struck
