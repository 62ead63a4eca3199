"""Clients in lockstep: where all of them multiply by one matrix, it is one product of all their rows.

A product of a few rows with a large matrix reads the matrix for each client; one of all clients' rows reads it once.
Each client runs in a thread of its own, as plain code, and waits at such a product until every other client is at one
too, or is done. Who meets whom follows from the clients' steps alone, so the result does not depend on how many threads
compute.

Shapes: B rows of a client, I and O the sides of the matrix.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from seedbed.factored import multiplied_by

A = TypeVar("A")
B = TypeVar("B")

PARTS = 2  # that the rows of a common product are dealt out in: the same however many threads there are
NUMBERS = 2**20  # a matrix with fewer stays in the cache, and every client multiplies by itself


class Meeting:
    """Some clients that are computed together.

    Args:
        clients: how many.
        workers: how many of them compute at a time.
    """

    def __init__(self, clients: int, workers: int):
        self._active, self._changed = clients, threading.Condition()
        self._slots = threading.Semaphore(workers)
        self._helpers = ThreadPoolExecutor(PARTS) if workers > 1 else None
        self._asked: dict[int, tuple[Tensor, Tensor]] = {}
        self._given: dict[int, Tensor | BaseException] = {}

    def attend(self, seat: int, run: Callable[[A], B], item: A) -> B:
        """run(item), as the client of this seat."""
        with self._slots:
            try:
                with multiplied_by(lambda x, matrix: self._multiply(seat, x, matrix)):
                    return run(item)
            finally:
                with self._changed:
                    self._active -= 1
                    self._settle()

    def close(self) -> None:
        if self._helpers is not None:
            self._helpers.shutdown()

    def _multiply(self, seat: int, x: Tensor, matrix: Tensor) -> Tensor:
        """x·matrix: [B, I] -> [B, O]."""
        if matrix.numel() < NUMBERS:
            return x @ matrix
        with self._changed:
            self._asked[seat] = x, matrix
            self._settle()
            waits = seat not in self._given
            if waits:
                self._slots.release()
                self._changed.wait_for(lambda: seat in self._given)
            found = self._given.pop(seat)
        if waits:
            self._slots.acquire()
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
            try:
                products: Sequence[Tensor | BaseException] = self._together(
                    [asked[s][0] for s in seats], asked[seats[0]][1]
                )
            except Exception as error:  # every one of them is told
                products = [error] * len(seats)
            self._given.update(zip(seats, products, strict=True))
        self._changed.notify_all()

    def _together(self, rows: Sequence[Tensor], matrix: Tensor) -> Sequence[Tensor]:
        parts = torch.cat(list(rows)).chunk(PARTS if len(rows) > 1 else 1)
        deal: Callable[..., Iterable[Tensor]] = map if self._helpers is None else self._helpers.map
        product = torch.cat(list(deal(lambda part: part @ matrix, parts)))
        return torch.split(product, [len(x) for x in rows])


def in_lockstep(run: Callable[[A], B], items: Sequence[A], clients: int, workers: int) -> Iterator[B]:
    """map, in order, over so many clients together at a time."""
    for start in range(0, len(items), clients):
        some = items[start : start + clients]
        meeting = Meeting(len(some), workers)
        try:
            with ThreadPoolExecutor(len(some)) as pool:
                seats = [pool.submit(meeting.attend, seat, run, item) for seat, item in enumerate(some)]
                yield from [seat.result() for seat in seats]
        finally:
            meeting.close()
