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
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from seedbed import tree
from seedbed.bench.plain_loop import Params, plain_loop
from seedbed.bench.workloads import INNER_LR, WORKLOADS, Workload
from seedbed.engines import AutoEngine, Processes, TuningCache, cores, make, one_thread
from seedbed.engines.autotune import IN_PROCESSES
from seedbed.engines.crew import why_no_workers
from seedbed.engines.memory_info import memory_use
from seedbed.errors import InputError, closest_name
from seedbed.experiments.builder import usable_device
from seedbed.experiments.stages import Show
from seedbed.learning.training import no_log
from seedbed.rounds import synchronous
from seedbed.serialization import write_atomically

GEMM = 1024  # the size of the square product that is the limit
PLAIN, AUTO = "plain", "auto"


@dataclass(frozen=True)
class BenchRow:
    """What one executor gave on one workload.

    Attributes:
        steps_per_s: steps of all clients, of maml episodes, a second: of the median round.
        ratio_to_loop: times the plain PyTorch loop's.
        percent_of_gemm: of what as many cores as there are threads reach in a large product of matrices; what the
            arithmetic of a plain step takes is counted, so that saving some of it counts as speed.
        peak_memory: MB that a round took at most beyond what was there, in worker processes too; None: the system does
            not tell.
        chosen: what `auto` has chosen.
    """

    workload: str
    executor: str
    steps_per_s: float
    ratio_to_loop: float
    percent_of_gemm: float
    peak_memory: float | None
    chosen: str = ""


def run_bench(
    names: Sequence[str] = (),
    *,
    repeat: int = 5,
    threads: int | None = None,
    device: str = "cpu",
    show: Show | None = None,
) -> list[BenchRow]:
    """Time the workloads of these names, all by default.

    Args:
        repeat: timed rounds of each contestant, after one that warms up; medians count.
        threads: over clients, or processes; None: one for each core. The plain loop has one.
        device: where clients compute.
    """
    show, threads, there = show or Show(), threads or cores(), usable_device(device)
    for name in names:
        if name not in WORKLOADS:
            raise InputError(f"unknown workload {name!r}: {closest_name(name, WORKLOADS)}")
    rows = []
    for name in names or WORKLOADS:
        tick = show.stage(name, repeat + 1)
        rows += race_contestants(name, WORKLOADS[name], repeat, threads, there, tick, show.note)
    return rows


def gpus(device: str) -> str:
    """Where the rows are from, and whether there is a GPU to compare."""
    if not torch.cuda.is_available():
        return "of the CPU: there is no GPU here"
    if device == "cpu":
        return "of the CPU: --device cuda for the GPU's"
    return f"of {torch.cuda.get_device_name(device)}"


def write_json(path: Path, rows: Sequence[BenchRow]) -> None:
    """The rows, as a list of objects."""
    write_atomically(path, (json.dumps([asdict(row) for row in rows], indent=1) + "\n").encode())


def race_contestants(
    name: str,
    workload: Workload,
    repeat: int,
    threads: int,
    device: torch.device,
    tick: Callable[[str], None],
    say: Callable[[str], None],
) -> list[BenchRow]:
    rivals: dict[str, Iterator[Params]] = {PLAIN: _plain_rounds(workload, device)}
    chosen: dict[str, str] = {}
    inside: dict[str, float] = {}
    for executor in (*workload.executors, AUTO):
        if _runs(executor, device):
            rivals[executor] = _rounds(workload, executor, threads, device, chosen, say, inside)
    seconds: dict[str, list[float]] = {rival: [] for rival in rivals}
    memory: dict[str, list[float]] = {rival: [] for rival in rivals}
    limits = []
    for number in range(repeat + 1):
        for rival, rounds in rivals.items():
            before = _settled_memory(device)
            spent = _timed(rounds, device)
            if number:
                seconds[rival].append(spent)
                memory[rival] += [] if before is None else [_peak_memory(device) - before + inside.get(rival, 0.0)]
        limits.append(_gemm(device))
        tick(f"{_steps(workload) / min(min(s, default=1) for s in seconds.values()):.0f} steps/s" if number else "")
    limit, numbers = statistics.median(limits), operations(workload)
    limit *= threads if device.type == "cpu" else 1
    rates = {rival: _steps(workload) / statistics.median(spent) for rival, spent in seconds.items()}
    return [
        BenchRow(
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


def _runs(executor: str, device: torch.device) -> bool:
    """Whether there: the fused kernel is for processors, and worker processes are not everywhere."""
    if executor.endswith(IN_PROCESSES):
        return why_no_workers() is None
    return device.type == "cpu" or executor != "fused"


def _plain_rounds(workload: Workload, device: torch.device) -> Iterator[Params]:
    for params, _ in plain_loop(workload, device):
        yield params


def _rounds(
    workload: Workload,
    executor: str,
    threads: int,
    device: torch.device,
    chosen: dict[str, str],
    say: Callable[[str], None],
    inside: dict[str, float],
) -> Iterator[Params]:
    """The params after each round; what `auto` has chosen, and what worker processes take, goes into the dicts."""
    model, source = workload.model().to(device), workload.source()
    said: list[str] = []
    plans = TuningCache(say=said.append if executor == AUTO else no_log if IN_PROCESSES in executor else say)
    processes = None if executor == AUTO else executor.endswith(IN_PROCESSES)
    engine = make(
        "auto",
        source,
        model.module,
        workers=threads,
        executor=executor.removesuffix(IN_PROCESSES),
        processes=processes,
        plans=plans,
    )
    algorithm = workload.algorithm(model)
    for round in synchronous(algorithm, engine, algorithm.init(model.params)):
        chosen[executor] = said[0].removeprefix("executor ") if said else ""
        inside[executor] = engine.peak if isinstance(engine, AutoEngine | Processes) else 0.0
        yield round.state.params


def _timed(rounds: Iterator[Any], device: torch.device) -> float:
    with one_thread():
        began = time.perf_counter()
        next(rounds)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began


def _gemm(device: torch.device) -> float:
    """Operations a second of one core, or of a whole GPU, in a large product."""
    size = GEMM if device.type == "cpu" else 8 * GEMM
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    products = (torch.mm(a, b) for _ in range(5))
    return 2.0 * size**3 / min(_timed(products, device) for _ in range(5))


def _steps(workload: Workload) -> int:
    return workload.clients * workload.steps


# ---- memory, where the system tells (Linux, CUDA) -----------------------------------------------------------------


def _settled_memory(device: torch.device) -> float | None:
    """MB in use, after what is free is given back and the peak is set to it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return memory_use("VmRSS")
    return None


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return memory_use("VmHWM")
