"""A workload's race: all its entrants on the same work, in turn."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import environments
import numpy as np
import torch
from contestant import Contestant, Left
from entrants import LETTERS, Entrant
from turns import Work, write

from seedbed.bench.race import GEMM, operations
from seedbed.bench.workloads import INNER_LR, LR, WORKLOADS

# How far parameters may be from the plain loop's after a round. In single precision a ReLU or a maximum that falls on
# the other side by rounding moves (b) by up to 1.2e-4; one step left out of a hundred moves it by 4e-4.
APART = 2e-4
Say = Callable[[str], None]


@dataclass
class Race:
    """What a workload gave.

    Attributes:
        first: seconds to the end of each one's first round, from the start of its process.
        apart: largest difference of a parameter to the plain loop's, after the first round.
        seconds: of a round, by contestant: one for each turn.
        memory: MB that all processes of a contestant take at most in a turn of its own after the others.
        left: who is not in it, and why.
        gemm: operations a second of one core, before every turn.
        when, command, versions, machine: of the measurement, in words; `versions` by contestant.
    """

    workload: str
    first: dict[str, float] = field(default_factory=dict)
    apart: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float | None] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    gemm: list[float] = field(default_factory=list)
    when: str = ""
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""

    def ratio(self, rival: str, ours: str) -> tuple[float, float, float]:
        """How many times faster `ours` is: lower quartile, median and upper quartile over the turns."""
        ratios = [a / b for a, b in zip(self.seconds[rival], self.seconds[ours], strict=True)]
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        return float(low), float(middle), float(high)

    def rate(self, name: str) -> float:
        """Steps a second; of MAML episodes."""
        made = WORKLOADS[LETTERS[self.workload]]
        return made.clients * made.steps / statistics.median(self.seconds[name])

    def percent(self, name: str, cores: int) -> float:
        """Of what so many cores reach in a large product."""
        shares = [numbers_of(self.workload) / s / g for s, g in zip(self.seconds[name], self.gemm, strict=True)]
        return 100 * statistics.median(shares) / cores


@cache
def numbers_of(letter: str) -> float:
    """Floating-point operations of a round."""
    made = WORKLOADS[LETTERS[letter]]
    return operations(made) * made.clients * made.steps


def work_of(letter: str) -> Work:
    """The batches of round 0 and the first weights, as Seedbed has them."""
    made = WORKLOADS[LETTERS[letter]]
    source = made.source()
    items = source.tasks(source.clients, 0).items
    parts = [*items.support[:2], *items.query[:2]] if made.meta else items[:2]
    params = {n: p.numpy() for n, p in made.model().params.items()}
    return Work(LETTERS[letter], LR, INNER_LR, params, *(part.numpy() for part in parts))


def race(letter: str, entrants: Sequence[Entrant], turns: int, folder: Path, say: Say) -> Race:
    """All entrants of this workload, in turn.

    Args:
        turns: of each.
        folder: where the work, what contestants print and their parameters are put.
        say: told in a line of what is done.
    """
    found, file = Race(letter), folder / f"{letter}.npz"
    write(str(file), work_of(letter))
    running: dict[str, Contestant] = {}
    try:
        started(running, found, entrants, file, say)
        names = list(running)
        for turn in range(turns):
            say(f"({letter}) turn {turn + 1} of {turns}")
            found.gemm.append(gemm())
            first = turn % max(1, len(names))
            for name in [n for n in names[first:] + names[:first] if n in running]:
                with leaving(running, found, name, say):
                    found.seconds.setdefault(name, []).append(running[name].turn())
        for name in list(running):
            with leaving(running, found, name, say):
                found.memory[name] = running[name].memory()
    finally:
        for contestant in running.values():
            contestant.stop()
    return found


def started(running: dict[str, Contestant], found: Race, entrants: Sequence[Entrant], work: Path, say: Say) -> None:
    """Put those that compute the same into `running`, each after its first round; the first is who they are beside."""
    reference: dict[str, Any] = {}
    for entrant in entrants:
        name, place = entrant.name, work.with_name(f"{found.workload} {entrant.name}")
        say(f"({found.workload}) {name}: first round")
        with leaving(running, found, name, say):
            running[name] = Contestant(entrant, work, place.with_name(f"{place.name}.log"))
            found.first[name] = running[name].first()
            after = running[name].params(place.with_name(f"{place.name}.npz"))
            reference = reference or after
            found.apart[name] = difference(reference, after)
            if not found.apart[name] <= APART:
                raise Left(f"computes something else: {found.apart[name]:.2g} apart after a round")
            running[name].settle()


@contextmanager
def leaving(running: dict[str, Contestant], found: Race, name: str, say: Say) -> Iterator[None]:
    """Whoever cannot go on is ended, has no figures and is named, and the others go on."""
    try:
        yield
    except (Left, environments.NotInstalled) as reason:
        say(f"({found.workload}) {name} is left out: {reason}")
        found.left[name] = str(reason)
        found.seconds.pop(name, None)
        if name in running:
            running.pop(name).stop()


def difference(reference: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest of any parameter; infinite where names or shapes differ."""
    if {n: p.shape for n, p in reference.items()} != {n: p.shape for n, p in other.items()}:
        return float("inf")
    return max(float(np.abs(p - other[n]).max()) for n, p in reference.items())


def gemm() -> float:
    """Operations a second of one core in a large product: the best of some, for it is a limit."""
    a, b, best = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM), []
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(a, b)
        best.append(time.perf_counter() - began)
    return 2 * GEMM**3 / min(best)
