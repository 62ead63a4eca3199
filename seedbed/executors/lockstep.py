"""Clients in lockstep: they train together, and where all of them multiply by one matrix, it is one product.

A product of a few rows with a large matrix reads the matrix for each client; one of all clients' rows reads it once.
Each client runs in a thread of its own, as plain code, and waits where it trains until every other client is there too,
or done (`Meeting`); then the thread of the engine trains all of them. If that is dealt out to several threads, they
wait for one another at products with large matrices (`Products`). Who meets whom follows from the clients' tasks alone,
so the result does not depend on how many threads compute.

Shapes: B rows of a client, I and O the sides of the matrix.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from seedbed.learning.training import LocalWork, TrainResult

A = TypeVar("A")
B = TypeVar("B")
TrainTogether = Callable[
    [Sequence[LocalWork], int], Sequence[TrainResult]
]  # trains clients together, in so many threads

COLUMN_PARTS = 4  # that the columns of a common product are dealt out in: the same however many threads there are
NUMBERS = 2**20  # a matrix with fewer stays in the cache, and every client multiplies by itself

_here: ContextVar[Callable[[TrainTogether, LocalWork], TrainResult] | None] = ContextVar("here", default=None)


def current_lockstep() -> Callable[[TrainTogether, LocalWork], TrainResult] | None:
    """How a client that is in a meeting trains with the others; None: it is in none."""
    return _here.get()


class Lockstep:
    """Some clients that train together.

    Args:
        clients: how many.
        workers: how many of them compute at a time.
    """

    def __init__(self, clients: int, workers: int):
        self._active, self._workers, self._changed = clients, workers, threading.Condition()
        self._slots = threading.Semaphore(workers)
        self._asked: dict[int, tuple[TrainTogether, LocalWork]] = {}
        self._given: dict[int, TrainResult | BaseException] = {}
        self._over: BaseException | None = None

    def attend(self, seat: int, run: Callable[[A], B], item: A) -> B:
        """run(item), as the client of this seat."""
        with self._slots:
            token = _here.set(lambda together, local: self._train(seat, together, local))
            try:
                return run(item)
            finally:
                _here.reset(token)
                with self._changed:
                    self._active -= 1
                    self._changed.notify_all()

    def lead(self) -> None:
        """Train those who wait whenever all that are still there do, until none is."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._asked) >= self._active)
                    asked, self._asked = self._asked, {}
                if not asked:
                    return
                given = self._trained(asked)
                with self._changed:
                    self._given |= given
                    self._changed.notify_all()
        except BaseException as error:  # such as an interrupt: nobody may wait for ever
            with self._changed:
                self._over = error
                self._changed.notify_all()
            raise

    def _trained(self, asked: dict[int, tuple[TrainTogether, LocalWork]]) -> dict[int, TrainResult | BaseException]:
        given: dict[int, TrainResult | BaseException] = {}
        by_way: dict[TrainTogether, list[int]] = {}
        for seat in sorted(asked):
            by_way.setdefault(asked[seat][0], []).append(seat)
        for together, seats in by_way.items():
            try:
                ends: Sequence[TrainResult | BaseException] = together([asked[s][1] for s in seats], self._workers)
            except Exception as error:  # every one of them is told
                ends = [error] * len(seats)
            given.update(zip(seats, ends, strict=True))
        return given

    def _train(self, seat: int, together: TrainTogether, local: LocalWork) -> TrainResult:
        self._slots.release()
        with self._changed:
            self._asked[seat] = together, local
            self._changed.notify_all()
            self._changed.wait_for(lambda: seat in self._given or self._over is not None)
            found = self._given.pop(seat, self._over)
        self._slots.acquire()
        if isinstance(found, TrainResult):
            return found
        raise found if found is not None else AssertionError("woken for nothing")


class SharedProducts:
    """Products of threads that wait for one another, each with the rows of some clients.

    Args:
        seats: how many threads.
        helpers: what the parts of a product are dealt out to.
    """

    def __init__(self, seats: int, helpers: ThreadPoolExecutor):
        self._active, self._helpers, self._changed = seats, helpers, threading.Condition()
        self._asked: dict[int, tuple[Tensor, Tensor]] = {}
        self._given: dict[int, Tensor | BaseException] = {}

    def leave(self) -> None:
        """One of the threads is done."""
        with self._changed:
            self._active -= 1
            self._settle()

    def multiply(self, seat: int, x: Tensor, matrix: Tensor) -> Tensor:
        """x·matrix: [B, I] -> [B, O]."""
        if matrix.numel() < NUMBERS:
            return x @ matrix
        with self._changed:
            self._asked[seat] = x, matrix
            self._settle()
            self._changed.wait_for(lambda: seat in self._given)
            found = self._given.pop(seat)
        if isinstance(found, BaseException):
            raise found
        return found

    def _settle(self) -> None:
        """If all that are still there wait for a product, compute them."""
        if not self._asked or len(self._asked) < self._active:
            return
        asked, self._asked = self._asked, {}
        by_matrix: dict[tuple[Any, ...], list[int]] = {}
        for seat in sorted(asked):
            matrix = asked[seat][1]
            same = matrix.data_ptr(), matrix.shape, matrix.stride()  # a square one and its transpose are not
            by_matrix.setdefault(same, []).append(seat)
        for seats in by_matrix.values():
            rows = [asked[s][0] for s in seats]
            try:
                product = split_columns(torch.cat(rows), asked[seats[0]][1], self._helpers)
                products: Sequence[Tensor | BaseException] = torch.split(product, [len(x) for x in rows])
            except Exception as error:  # every one of them is told
                products = [error] * len(seats)
            self._given.update(zip(seats, products, strict=True))
        self._changed.notify_all()


def split_columns(x: Tensor, matrix: Tensor, helpers: ThreadPoolExecutor | None = None) -> Tensor:
    """x·matrix: [B, I] -> [B, O], of a large matrix some columns at a time; None: by this thread."""
    if matrix.numel() < NUMBERS:
        return x @ matrix
    product, some = x.new_empty(len(x), matrix.shape[1]), -(-matrix.shape[1] // COLUMN_PARTS)

    def part(start: int) -> Tensor:
        columns = slice(start, start + some)
        with torch.no_grad():
            return torch.mm(x, matrix[:, columns], out=product[:, columns])

    list((map if helpers is None else helpers.map)(part, range(0, matrix.shape[1], some)))
    return product


def run_in_lockstep(run: Callable[[A], B], items: Sequence[A], clients: int, workers: int) -> Iterator[B]:
    """map, in order, over so many clients together at a time."""
    for start in range(0, len(items), clients):
        some = items[start : start + clients]
        meeting = Lockstep(len(some), workers)
        with ThreadPoolExecutor(len(some)) as pool:
            seats = [pool.submit(meeting.attend, seat, run, item) for seat, item in enumerate(some)]
            meeting.lead()
            yield from [seat.result() for seat in seats]
