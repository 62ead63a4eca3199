"""Peers and plain loops beside Seedbed: the same work, in turn, in one run.

    python benchmarks/peers/run.py                                  # all workloads, all peers
    python benchmarks/peers/run.py --only a b --peers flower jax    # these
    python benchmarks/peers/run.py --write docs/performance.md      # also puts the tables there

Each peer is installed once, with pinned versions, in an environment of its own (environments.py), and runs as a process
of its own. All get the same made-up batches and the same first weights; a contestant whose parameters after the first
round are further than 1e-4 from the plain loop's computes something else and is left out, with the distance. Then all
take turns, a block of rounds each and the first to go another each time, while the others wait; between the turns a
large product of matrices is timed, which is the limit. Ratios are of neighbours in time, so that what else the machine
does falls on both; a ratio is their median, with the quartiles.
"""

import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import environments
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from turns import Work, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import Figure, arguments, report

from seedbed.errors import InputError
from seedbed.runs.bench.race import GEMM, operations
from seedbed.runs.bench.workloads import INNER_LR, LR, WORKLOADS

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
LETTERS = {"a": "mlp", "b": "cnn", "b2": "small_cnn", "c": "lstm", "d": "maml"}
APART = 1e-4  # how far parameters may be from the plain loop's after a round
BLOCK = 0.5  # seconds that a turn should last, so that its ends weigh little
PATIENCE = 300  # seconds for an answer
LOOP = "plain loop"
MARK = "<!-- peers {}: begin -->\n{}\n<!-- peers {}: end -->"


@dataclass(frozen=True)
class Entrant:
    """Who may take part.

    Attributes:
        script: and its arguments, after the file with the work.
        peer: whose environment it needs; None: Seedbed's own.
        processes: or threads over clients that compute at once.
    """

    name: str
    script: tuple[str, ...]
    workloads: str
    peer: str | None = None
    processes: int = 1


OURS = "Seedbed, "
ENTRANTS = (
    Entrant(LOOP, ("by_loop.py", "1"), "a b b2 c d"),
    Entrant("plain loop, 2 processes", ("by_loop.py", "2"), "a b b2 c d", processes=2),
    Entrant("Seedbed, stacked", ("by_seedbed.py", "stacked"), "a"),
    Entrant("Seedbed, stacked, bare", ("by_seedbed.py", "stacked", "bare"), "a"),
    Entrant("Seedbed, fused", ("by_seedbed.py", "fused"), "a", processes=2),
    Entrant("Seedbed, fused, bare", ("by_seedbed.py", "fused", "bare"), "a", processes=2),
    Entrant("Seedbed, factored", ("by_seedbed.py", "factored"), "b b2", processes=2),
    Entrant("Seedbed, factored, bare", ("by_seedbed.py", "factored", "bare"), "b b2", processes=2),
    Entrant("Seedbed, loop", ("by_seedbed.py", "loop"), "b2 c d", processes=2),
    Entrant("Flower (Ray)", ("by_flower.py",), "a b b2 c", "flower", processes=2),
    Entrant("pfl", ("by_pfl.py", "1"), "a b b2 c", "pfl"),
    Entrant("pfl, 2 processes", ("by_pfl.py", "2"), "a b b2 c", "pfl", processes=2),
    Entrant("JAX", ("by_jax.py",), "a b", "jax", processes=2),
    Entrant("FedJAX", ("by_fedjax.py",), "a b", "fedjax", processes=2),
    Entrant("higher", ("by_higher.py",), "d", "higher"),
)


@dataclass(frozen=True)
class Aim:
    """`ours` takes part at `times` its rival's speed at least."""

    workload: str
    ours: str
    rival: str
    times: float


AIMS = (
    Aim("a", "Seedbed, stacked", "Flower (Ray)", 60),
    Aim("a", "Seedbed, stacked", "pfl, 2 processes", 15),
    Aim("a", "Seedbed, fused", "Flower (Ray)", 200),
    Aim("a", "Seedbed, fused", "pfl, 2 processes", 50),
    Aim("b", "Seedbed, factored", "Flower (Ray)", 2.5),
    Aim("b", "Seedbed, factored", "pfl, 2 processes", 1.8),
    Aim("b2", "Seedbed, factored", "plain loop, 2 processes", 1.25),
    Aim("c", "Seedbed, loop", "plain loop, 2 processes", 1.0),
    Aim("d", "Seedbed, loop", "higher", 2.0),
)
LIMITS = (  # workload, who, cores of which it is the share, per cent
    ("a", "Seedbed, fused", 1, 50.0),
    ("b", "Seedbed, factored", 2, 60.0),
)
COSTS = (("a", "Seedbed, stacked"), ("a", "Seedbed, fused"), ("b", "Seedbed, factored"))  # with all beside bare
COST, FIRST = 1.10, ("a", "Seedbed, stacked", 3.0)  # at most that much, and those seconds to the first round's end


class Left(Exception):
    """A contestant is out, and why."""


class Contestant:
    """A running entrant."""

    def __init__(self, entrant: Entrant, work: Path, log: Path):
        home = sys.executable if entrant.peer is None else str(environments.python(entrant.peer))
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = {"PYTHONPATH": str(ROOT if entrant.peer is None else HERE)}
        self.entrant, self.log, self.began = entrant, log, time.perf_counter()
        script, *rest = entrant.script
        with log.open("w") as said:
            self.process = subprocess.Popen(
                [home, str(HERE / script), str(work), *rest],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=work.parent,
                env=os.environ | one | path | QUIET,
                start_new_session=True,
            )
        self.rounds, self.one = 1, 0.0  # of a turn; seconds of the first round

    def first(self) -> float:
        """Seconds from the start of its process to the end of its first round."""
        self._answer()
        self.one = self.go(1)
        return time.perf_counter() - self.began

    def quick(self) -> float:
        """Seconds a round, from one that is not the first; where rounds are long, from the first."""
        return self.one if self.one > 4 * BLOCK else self.go(1)

    def params(self, file: Path) -> dict[str, Any]:
        self._tell({"save": str(file)})
        self._answer()
        with np.load(file, allow_pickle=False) as found:
            return dict(found)

    def go(self, rounds: int) -> float:
        """Seconds a round."""
        self._tell({"go": rounds})
        return float(self._answer()["seconds"]) / rounds

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        try:
            self._tell({"stop": True})
            self.process.wait(20)
        except (OSError, Left, subprocess.TimeoutExpired):
            self._end()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it did not hear
                    pipe.close()

    def _end(self) -> None:
        """With the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _tell(self, what: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise Left(self._last_words()) from None

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        late = threading.Timer(PATIENCE, self._end)
        late.start()
        try:
            line = self.process.stdout.readline()
        finally:
            late.cancel()
        if not line:
            raise Left(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return next((line for line in reversed(said) if re.match(r"\S*(Error|Exception)", line)), *said[-1:] or [""])


QUIET = {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "JAX_PLATFORMS": "cpu"}


@dataclass
class Race:
    """What a workload gave.

    Attributes:
        first: seconds to the end of each one's first round, from the start of its process.
        apart: largest difference of a parameter to the plain loop's, after the first round.
        seconds: of a round, by contestant: one for each turn.
        left: who is not in it, and why.
        gemm: operations a second of one core.
    """

    workload: str
    first: dict[str, float] = field(default_factory=dict)
    apart: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    gemm: list[float] = field(default_factory=list)

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


def race(letter: str, entrants: Sequence[Entrant], turns: int, folder: Path, say: Any) -> Race:
    """All entrants of this workload, in turn."""
    found, file = Race(letter), folder / f"{letter}.npz"
    write(str(file), work_of(letter))
    running: dict[str, Contestant] = {}
    reference: dict[str, Any] = {}
    try:
        for entrant in entrants:
            try:
                say(f"({letter}) {entrant.name}: first round")
                contestant = Contestant(entrant, file, folder / f"{letter} {entrant.name}.log")
                running[entrant.name] = contestant
                found.first[entrant.name] = contestant.first()
                after = contestant.params(folder / f"{letter} {entrant.name}.npz")
                reference = reference or after
                found.apart[entrant.name] = difference(reference, after)
                if not found.apart[entrant.name] <= APART:
                    raise Left(f"computes something else: {found.apart[entrant.name]:.2g} apart after a round")
                contestant.rounds = max(1, min(100, round(BLOCK / contestant.quick())))
            except (Left, environments.NotInstalled) as reason:
                found.left[entrant.name] = str(reason)
                say(f"({letter}) {entrant.name} is left out: {reason}")
                if entrant.name in running:
                    running.pop(entrant.name).stop()
        names = list(running)
        for turn in range(turns):
            say(f"({letter}) turn {turn + 1} of {turns}")
            found.gemm.append(gemm())
            first = turn % max(1, len(names))
            for name in names[first:] + names[:first]:
                found.seconds.setdefault(name, []).append(running[name].go(running[name].rounds))
    finally:
        for contestant in running.values():
            contestant.stop()
    return found


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


def best_of_ours(found: Race) -> str | None:
    """Our fastest with all features on."""
    ours = [name for name in found.seconds if name.startswith(OURS) and not name.endswith("bare")]
    return max(ours, key=found.rate, default=None)


def rows(found: Race) -> list[tuple[str, ...]]:
    """Of the table, by `heads`."""
    best, made = best_of_ours(found), []
    for entrant in ENTRANTS:
        name = entrant.name
        if name not in found.seconds:
            continue
        low, middle, high = found.ratio(name, best) if best else (0, 0, 0)
        over = "1" if name == best else f"{middle:.3g} ({low:.3g}–{high:.3g})" if best else ""
        made.append(
            (
                name,
                f"{found.rate(name):,.0f}",
                f"{found.ratio(LOOP, name)[1]:.3g}" if LOOP in found.seconds else "",
                over,
                f"{found.percent(name, 1):.3g}",
                f"{found.first[name]:.1f}",
                f"{found.apart[name]:.0e}",
            )
        )
    return made


def heads(found: Race) -> tuple[str, ...]:
    unit = "tasks/s" if WORKLOADS[LETTERS[found.workload]].meta else "steps/s"
    ours = f"{best_of_ours(found) or 'Seedbed'} is faster, times"
    return ("", unit, "× plain loop", ours, "% of one core's limit", "first round, s", "apart")


def markdown(found: Race) -> str:
    """The table, and who is left out."""
    lines = [heads(found), tuple("---" for _ in heads(found)), *rows(found)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    left = "".join(f"\n\nLeft out: {name}: {reason}." for name, reason in found.left.items())
    return f"\n{table}{left}\n"


def figures(found: Race) -> list[Figure]:
    """The aims of this workload whose contestants took part."""
    letter, made = found.workload, []
    for aim in AIMS:
        if aim.workload == letter and {aim.ours, aim.rival} <= found.seconds.keys():
            low, middle, high = found.ratio(aim.rival, aim.ours)
            name = f"({letter}) {aim.ours} × {aim.rival}"
            made.append(Figure(name, middle, (high - low) / 2, at_least=aim.times))
    for workload, name, cores, percent in LIMITS:
        if workload == letter and name in found.seconds:
            what = f"({letter}) {name}, % of the limit of {cores} core(s)"
            made.append(Figure(what, found.percent(name, cores), at_least=percent))
    for workload, name in COSTS:
        if workload == letter and {name, f"{name}, bare"} <= found.seconds.keys():
            low, middle, high = found.ratio(name, f"{name}, bare")
            made.append(Figure(f"({letter}) {name}, time over bare's", middle, (high - low) / 2, at_most=COST))
    workload, name, seconds = FIRST
    if workload == letter and name in found.seconds:
        made.append(Figure(f"({letter}) {name}, first round after, s", found.first[name], at_most=seconds))
    return made


def put(file: Path, found: Race) -> None:
    """Write the table between its marks in this page."""
    letter, text = found.workload, file.read_text()
    begin, _, end = MARK.format(letter, "\0", letter).partition("\0")
    if begin not in text or end not in text:
        lines = f"{begin.strip()} and {end.strip()}"
        raise InputError(f"{file} has no place for workload {letter}: put the lines {lines} where its table belongs")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    file.write_text(before + begin + markdown(found) + end + after)


def main() -> int:
    parser = arguments(__doc__ or "")
    known = sorted({e.peer for e in ENTRANTS if e.peer})
    parser.add_argument("--only", nargs="+", choices=LETTERS, default=list(LETTERS), help="workloads")
    parser.add_argument("--peers", nargs="*", choices=known, default=known, help="without a name: none")
    parser.add_argument("--turns", type=int, default=9, help="of every contestant, each of about half a second")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what contestants print here")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that contestants are ended
    began, console, races = time.perf_counter(), Console(), []
    say = partial(console.print, style="dim", highlight=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for letter in settings.only:
            entrants = [
                e for e in ENTRANTS if letter in e.workloads.split() and (e.peer is None or e.peer in settings.peers)
            ]
            found = race(letter, entrants, settings.turns, folder.resolve(), say)
            races.append(found)
            table = Table(*heads(found), title=f"({letter}) {WORKLOADS[LETTERS[letter]].what}", title_justify="left")
            for row in rows(found):
                table.add_row(*row)
            console.print(table)
            if settings.write:
                put(settings.write, found)
    notes = [f"({f.workload}) left out: {name}: {reason}" for f in races for name, reason in f.left.items()]
    notes.append(f"one core's limit: {statistics.median(g for f in races for g in f.gemm) / 1e9:.0f} GFLOP/s")
    notes += [f"{peer}: {environments.versions(peer)}" for peer in settings.peers] + [platform.platform()]
    every = [figure for found in races for figure in figures(found)]
    code = report("Beside peers, on the same work in turn", every, settings=settings, began=began, notes=notes)
    if settings.json:
        whole = json.loads(settings.json.read_text()) | {"races": [asdict(found) for found in races]}
        settings.json.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
