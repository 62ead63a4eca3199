"""The benchmark: contestants take turns, one round each, so that other load on the machine affects all alike."""

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

GEMM = 1024  # size of the square matrix product that serves as the limit
PLAIN, AUTO = "plain", "auto"


@dataclass(frozen=True)
class BenchRow:
    """The result of one executor on one workload.

    Attributes:
        steps_per_s: training steps of all clients per second (for maml, episodes), in the median round.
        ratio_to_loop: speed relative to the plain PyTorch loop.
        percent_of_gemm: percentage of the speed of a large matrix product on as many cores as there are threads. The
            arithmetic of a plain step is counted, so an executor that saves arithmetic counts as faster.
        peak_memory: MB that a round needed in addition to the memory before it, worker processes included; None: the
            system does not report it.
        chosen: the executor that `auto` chose.
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
    """Run the benchmark.

    Args:
        names: workloads; empty: all.
        repeat: timed rounds of each contestant, after one for warm-up; medians count.
        threads: over clients, or worker processes; None: one per core. The plain loop uses one.
        device: where clients compute.
        show: progress display.
    Raises:
        InputError: a workload is unknown.
    """
    show, threads, torch_device = show or Show(), threads or cores(), usable_device(device)
    for name in names:
        if name not in WORKLOADS:
            raise InputError(f"unknown workload {name!r}: {closest_name(name, WORKLOADS)}")
    rows = []
    for name in names or WORKLOADS:
        tick = show.stage(name, repeat + 1)
        rows += race_contestants(name, WORKLOADS[name], repeat, threads, torch_device, tick, show.note)
    return rows


def gpus(device: str) -> str:
    """The device that the rows refer to, and a hint if a GPU could be compared."""
    if not torch.cuda.is_available():
        return "of the CPU: there is no GPU here"
    if device == "cpu":
        return "of the CPU: --device cuda for the GPU's"
    return f"of {torch.cuda.get_device_name(device)}"


def write_json(path: Path, rows: Sequence[BenchRow]) -> None:
    """Write the rows as a JSON list of objects."""
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
    contestants: dict[str, Iterator[Params]] = {PLAIN: _plain_rounds(workload, device)}
    chosen: dict[str, str] = {}
    inside: dict[str, float] = {}
    for executor in (*workload.executors, AUTO):
        if _runs(executor, device):
            contestants[executor] = _rounds(workload, executor, threads, device, chosen, say, inside)
    seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    memory: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    limits = []
    for number in range(repeat + 1):
        for contestant, rounds in contestants.items():
            before = _reset_memory(device)
            spent = _time_round(rounds, device)
            if number:
                seconds[contestant].append(spent)
                if before is not None:
                    memory[contestant].append(_peak_memory(device) - before + inside.get(contestant, 0.0))
        limits.append(_gemm(device))
        tick(f"{_steps(workload) / min(min(s, default=1) for s in seconds.values()):.0f} steps/s" if number else "")
    limit, numbers = statistics.median(limits), operations(workload)
    limit *= threads if device.type == "cpu" else 1
    rates = {contestant: _steps(workload) / statistics.median(spent) for contestant, spent in seconds.items()}
    return [
        BenchRow(
            name,
            contestant,
            rate,
            rate / rates[PLAIN],
            100 * rate * numbers / limit,
            max(memory[contestant]) if memory[contestant] else None,
            chosen.get(contestant, ""),
        )
        for contestant, rate in rates.items()
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
    """Whether the executor runs on this device: `fused` needs a CPU, and worker processes are not available
    everywhere."""
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
    """Yield the parameters after each round; record the executor chosen and the workers' memory in the dicts."""
    model, source = workload.model().to(device), workload.source()
    messages: list[str] = []
    plans = TuningCache(say=messages.append if executor == AUTO else no_log if IN_PROCESSES in executor else say)
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
        chosen[executor] = messages[0].removeprefix("executor ") if messages else ""
        inside[executor] = engine.peak if isinstance(engine, AutoEngine | Processes) else 0.0
        yield round.state.params


def _time_round(rounds: Iterator[Any], device: torch.device) -> float:
    with one_thread():
        began = time.perf_counter()
        next(rounds)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began


def _gemm(device: torch.device) -> float:
    """Operations per second of one core, or of a whole GPU, in a large matrix product."""
    size = GEMM if device.type == "cpu" else 8 * GEMM
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    products = (torch.mm(a, b) for _ in range(5))
    return 2.0 * size**3 / min(_time_round(products, device) for _ in range(5))


def _steps(workload: Workload) -> int:
    return workload.clients * workload.steps


# ---- memory, if the system reports it (Linux, CUDA) ------------------------------------------------------------------


def _reset_memory(device: torch.device) -> float | None:
    """Release free memory and reset the peak; returns the MB in use."""
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
