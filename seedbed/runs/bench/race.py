"""The race: a round of each contestant in turn, so that what else the machine does falls on all alike."""

import ctypes
import ctypes.util
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from seedbed import tree
from seedbed.engines import Plans, cores, make, one_thread
from seedbed.errors import InputError, nearest
from seedbed.rounds import synchronous
from seedbed.runs.bench.plain import Params, plain
from seedbed.runs.bench.workloads import INNER_LR, WORKLOADS, Workload
from seedbed.runs.pipeline import Show
from seedbed.stored import write_atomically

GEMM = 1024  # the size of the square product that is the limit
PLAIN, AUTO = "plain", "auto"


@dataclass(frozen=True)
class Row:
    """What one executor gave on one workload.

    Attributes:
        steps_per_s: steps of all clients, of maml episodes, a second: of the median round.
        ratio_to_loop: times the plain PyTorch loop's.
        percent_of_gemm: of what as many cores as there are threads reach in a large product of matrices; what the
            arithmetic of a plain step takes is counted, so that saving some of it counts as speed.
        peak_memory: MB that a round took at most beyond what was there; None: the system does not tell.
        chosen: what `auto` has chosen.
    """

    workload: str
    executor: str
    steps_per_s: float
    ratio_to_loop: float
    percent_of_gemm: float
    peak_memory: float | None
    chosen: str = ""


def bench(
    names: Sequence[str] = (), *, repeat: int = 5, threads: int | None = None, show: Show | None = None
) -> list[Row]:
    """Time the workloads of these names, all by default.

    Args:
        repeat: timed rounds of each contestant, after one that warms up; medians count.
        threads: over clients; None: one for each core. The plain loop has one.
    """
    show, threads = show or Show(), threads or cores()
    for name in names:
        if name not in WORKLOADS:
            raise InputError(f"unknown workload {name!r}: {nearest(name, WORKLOADS)}")
    rows = []
    for name in names or WORKLOADS:
        tick = show.stage(name, repeat + 1)
        rows += raced(name, WORKLOADS[name], repeat, threads, tick, show.note)
    return rows


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """The rows, as a list of objects."""
    write_atomically(path, (json.dumps([asdict(row) for row in rows], indent=1) + "\n").encode())


def raced(
    name: str,
    workload: Workload,
    repeat: int,
    threads: int,
    tick: Callable[[str], None],
    say: Callable[[str], None],
) -> list[Row]:
    rivals: dict[str, Iterator[Params]] = {PLAIN: _plain_rounds(workload)}
    chosen: dict[str, str] = {}
    for executor in (*workload.executors, AUTO):
        rivals[executor] = _rounds(workload, executor, threads, chosen, say)
    seconds: dict[str, list[float]] = {rival: [] for rival in rivals}
    memory: dict[str, list[float]] = {rival: [] for rival in rivals}
    limits = []
    for number in range(repeat + 1):
        for rival, rounds in rivals.items():
            before = _settled_memory()
            spent = _timed(rounds)
            if number:
                seconds[rival].append(spent)
                memory[rival] += [] if before is None else [_peak_memory() - before]
        limits.append(_gemm())
        tick(f"{_steps(workload) / min(min(s, default=1) for s in seconds.values()):.0f} steps/s" if number else "")
    limit, numbers = threads * statistics.median(limits), operations(workload)
    rates = {rival: _steps(workload) / statistics.median(spent) for rival, spent in seconds.items()}
    return [
        Row(
            name,
            rival,
            rate,
            rate / rates[PLAIN],
            100 * rate * numbers / limit,
            max(memory[rival]) if memory[rival] else None,
            chosen.get(rival, ""),
        )
        for rival, rate in rates.items()
    ]


def operations(workload: Workload) -> float:
    """Floating-point operations of a plain step, forward and backward."""
    if workload.numbers is not None:
        return workload.numbers
    model, task = workload.model(), workload.source().tasks([0], 0)
    params = {n: p.clone().requires_grad_() for n, p in model.params.items()}
    item = tree.index(tree.index(task.items, 0), 0)
    with FlopCounterMode(display=False) as counter:
        if workload.meta:
            loss = F.cross_entropy(model.predict(params, item.support.x), item.support.y)
            steps = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            fast = {n: p - INNER_LR * g for (n, p), g in zip(params.items(), steps, strict=True)}
            loss = F.cross_entropy(model.predict(fast, item.query.x), item.query.y)
        else:
            loss = F.cross_entropy(model.predict(params, item.x), item.y)
        torch.autograd.grad(loss, list(params.values()))
    return float(counter.get_total_flops())


def _plain_rounds(workload: Workload) -> Iterator[Params]:
    for params, _ in plain(workload):
        yield params


def _rounds(
    workload: Workload, executor: str, threads: int, chosen: dict[str, str], say: Callable[[str], None]
) -> Iterator[Params]:
    model, source = workload.model(), workload.source()
    said: list[str] = []
    plans = Plans(say=said.append if executor == AUTO else say)
    engine = make("auto", source, model.module, workers=threads, executor=executor, plans=plans)
    algorithm = workload.algorithm(model)
    for round in synchronous(algorithm, engine, algorithm.init(model.params)):
        chosen[executor] = said[0].removeprefix("executor ") if said else ""
        yield round.state.params


def _timed(rounds: Iterator[Params]) -> float:
    with one_thread():
        began = time.perf_counter()
        next(rounds)
        return time.perf_counter() - began


def _gemm() -> float:
    """Operations a second of one core in a large product."""
    a, b = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
    best = []
    with one_thread():
        for _ in range(5):
            began = time.perf_counter()
            torch.mm(a, b)
            best.append(time.perf_counter() - began)
    return 2 * GEMM**3 / min(best)


def _steps(workload: Workload) -> int:
    return workload.clients * workload.steps


# ---- memory, where the system tells (Linux) -----------------------------------------------------------------------


def _settled_memory() -> float | None:
    """MB in use, after what is free is given back and the peak is set to it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _megabytes("VmRSS")
    return None


def _peak_memory() -> float:
    return _megabytes("VmHWM")


def _megabytes(field: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024
