"""Large populations, large cohorts, large models, and several ranks: time of a round and peak memory.

    population  1,000,000 clients on disk beside 10,000: opening them, rounds of 1,000 in turn, SCAFFOLD's memory
    cohorts     cohorts of 10 ... 10,000 clients and models of 1e3 ... 1e7 numbers, every message held or summed as it
                comes; with the slopes
    ranks       LEAF's FEMNIST CNN (FAST.md, workload b) on 1 rank and on 2, in turn

Bands: opening ≤ 1 s; a round from 1,000,000 clients within 10 % of one from 10,000; 2 ranks ≥ 1.8 × 1, where two cores
are free (`--busy`: not judged).

    python benchmarks/scale.py population --folder DIR      # 2.6 GB
    python benchmarks/scale.py cohorts
    python benchmarks/scale.py ranks
"""

import argparse
import json
import math
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from figures import Figure, arguments, progress, report
from rich.progress import Progress
from torch import Tensor, nn

from seedbed import randomness, tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.population import Population
from seedbed.data.readers import packed_writer, read
from seedbed.data.sampling import Sampled, batches
from seedbed.engines import ClientStateStore, Distributed, OneByOne, Vectorised
from seedbed.engines.process_group import current_group, init_group
from seedbed.federated import Algorithm, Engine
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model, mlp
from seedbed.rounds import Round, synchronous

FEATURES, HIDDEN, CLASSES, EXAMPLES, BATCH, LR = 60, 64, 10, 10, 10, 0.1
FEW, MANY, COHORT = 10_000, 1_000_000, 1_000  # clients of two populations, and of a round
OPENING, APART, FASTER = 1.0, 0.1, 1.8
COHORTS, NUMBERS = (10, 100, 1_000, 10_000), (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
HELD = 4e9  # bytes of messages that a cell may hold
ALONE = 100_000  # numbers above which clients are computed one by one
LOOP = "import time; t, c = time.perf_counter(), time.process_time()\nwhile time.perf_counter() < t + 2: pass"
KINDS = {"held": "every message held", "summed": "summed as it comes"}


# ---- a population of a million ------------------------------------------------------------------------------------


def packed(folder: Path, clients: int, bar: Progress) -> Path:
    """A population on disk, made if it is not there."""
    place, rng = folder / str(clients), torch.Generator().manual_seed(0)
    if not place.exists():
        with packed_writer(place, classes=[str(c) for c in range(CLASSES)]) as add:
            for client in bar.track(range(clients), description=f"writing {clients:,} clients"):
                y = torch.randint(CLASSES, (EXAMPLES,), generator=rng)
                add(f"client {client}", torch.randn(EXAMPLES, FEATURES, generator=rng), y)
    return place


def from_disk(settings: argparse.Namespace, bar: Progress) -> list[Figure]:
    """Opening, rounds in turn, and memory."""
    places = {clients: packed(settings.folder, clients, bar) for clients in (FEW, MANY)}
    opening, populations = {}, {}
    for clients, place in places.items():
        began = time.perf_counter()
        populations[clients] = read(str(place))
        opening[clients] = time.perf_counter() - began
    rounds = {clients: rounds_of(population) for clients, population in populations.items()}
    seconds: dict[int, list[float]] = {FEW: [], MANY: []}
    computed: dict[int, list[float]] = {FEW: [], MANY: []}  # of CPU: what other programs take is not in it
    for number in bar.track(range(settings.rounds + 1), description="rounds in turn"):
        for clients, each in rounds.items():
            began, begun = time.perf_counter(), time.process_time()
            next(each)
            if number:
                seconds[clients].append(time.perf_counter() - began)
                computed[clients].append(time.process_time() - begun)
    found = [
        Figure(f"opening {MANY:,} clients, s", opening[MANY], at_most=OPENING),
        Figure(f"a round of {COHORT:,} of {FEW:,}, s", statistics.median(seconds[FEW])),
        Figure(f"a round of {COHORT:,} of {MANY:,}, s", statistics.median(seconds[MANY])),
        Figure("the second over the first, median of pairs", over(seconds), at_least=1 - APART, at_most=1 + APART),
        Figure("the same in seconds of CPU", over(computed), at_least=1 - APART, at_most=1 + APART),
    ]
    for clients, place in places.items():
        cell = {"kind": "scaffold", "place": str(place), "kept": str(settings.folder / f"kept-{clients}")}
        said = measured(cell)
        found += [
            Figure(
                f"SCAFFOLD, kept on disk, 5 rounds of {COHORT:,} of {clients:,}: memory of its own, MB", said["own"]
            ),
            Figure(f"... its checkpoint of {said['clients']:,} clients, MB", said["checkpoint"]),
            Figure("... what they keep, on disk, MB", said["kept"]),
        ]
    return found


def over(times: dict[int, list[float]]) -> float:
    """The second population's time over the first's: the median of pairs."""
    return statistics.median(b / a for a, b in zip(times[FEW], times[MANY], strict=True))


def rounds_of(
    population: Population, algorithm: Algorithm | None = None, kept: ClientStateStore | None = None
) -> Iterator[Round]:
    """FAST.md's workload a, on this population: 20 steps of batch 10 a client."""
    with randomness.seeded_init(0):
        model = Model(mlp((FEATURES,), CLASSES, hidden=(HIDDEN,)))
    algorithm = algorithm or fedavg(supervised(model.predict, cross_entropy), local=sgd(LR))
    engine = Vectorised(Sampled(population, batches(BATCH, steps=20)), kept=kept)
    return synchronous(algorithm, engine, algorithm.init(model.params), cohort=COHORT)


def stateful(cell: dict[str, Any]) -> dict[str, Any]:
    """SCAFFOLD over a population on disk, in this process alone."""
    with randomness.seeded_init(0):
        model = Model(mlp((FEATURES,), CLASSES, hidden=(HIDDEN,)))
    store = ClientStateStore(Path(cell["kept"]))
    before = own_memory()
    rounds = rounds_of(read(cell["place"]), scaffold(supervised(model.predict, cross_entropy)), store)
    most = 0.0
    for _ in range(5):
        next(rounds)
        most = max(most, own_memory() - before)
    index = store.checkpoint()
    size = tree.nbytes(index)
    kept = sum(file.stat().st_blocks * 512 for file in store.folder.iterdir())
    return {"own": most, "checkpoint": size / 1e6, "kept": kept / 1e6, "clients": len(store)}


def own_memory() -> float:
    """MB of this process's own: not of files that are mapped, which the system takes back when it needs room."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


# ---- cohorts and models -------------------------------------------------------------------------------------------


def table(settings: argparse.Namespace, bar: Progress) -> list[Figure]:
    """Every cell in a process of its own, so that its peak is its own."""
    cells = [
        {"kind": kind, "cohort": cohort, "numbers": numbers}
        for numbers in NUMBERS
        for cohort in COHORTS
        for kind in KINDS
        if cohort * numbers <= settings.most and (kind == "summed" or 4 * cohort * numbers <= HELD)
    ]
    said = {}
    for cell in bar.track(cells, description="cells"):
        said[cell["kind"], cell["numbers"], cell["cohort"]] = one = measured(cell)
        bar.console.print(cell, one)  # so that a table that is stopped is not lost
    found = []
    for (kind, numbers, cohort), cell in said.items():
        name = f"{numbers:.0e} numbers, {cohort:,} clients, {KINDS[kind]}"
        found += [Figure(f"{name}: s of CPU a round", cell["seconds"]), Figure(f"{name}: peak, MB", cell["peak"])]
    for kind, what in KINDS.items():
        for numbers in NUMBERS:
            mine = {c: said[kind, numbers, c] for c in COHORTS if (kind, numbers, c) in said}
            found += [
                Figure(f"{numbers:.0e} numbers, {what}: slope of {measure} in the cohort", slope(mine, measure))
                for measure in ("seconds", "peak")
                if len(mine) > 1
            ]
    return found


def slope(cells: dict[int, dict[str, float]], measure: str) -> float:
    """Of log(measure) in log(cohort), by the largest two: 0 is flat, 1 proportional."""
    (a, x), (b, y) = list(pairwise(cells.items()))[-1]
    return math.log(y[measure] / x[measure]) / math.log(b / a)


def cell_of(cell: dict[str, Any]) -> dict[str, float]:
    """Seconds of CPU of a round, and the most memory that the process had."""
    cohort, inputs = cell["cohort"], 32
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(cohort * EXAMPLES, inputs, generator=rng)
    y = torch.randint(CLASSES, (len(x),), generator=rng)
    population = Population.from_arrays(x, y, torch.arange(cohort).repeat_interleave(EXAMPLES).numpy())
    hidden = max(1, round((cell["numbers"] - CLASSES) / (inputs + 1 + CLASSES)))
    with randomness.seeded_init(0):
        model = Model(mlp((inputs,), CLASSES, hidden=(hidden,)))
    source = Sampled(population, batches(BATCH, steps=2))
    engine: Engine = OneByOne(source) if cell["numbers"] > ALONE else Vectorised(source)
    engine = Distributed(engine, source) if cell["kind"] == "summed" else engine
    algorithm = fedavg(supervised(model.predict, cross_entropy), local=sgd(LR))
    start = algorithm.init(model.params)
    next(synchronous(algorithm, engine, start, cohort=min(cohort, 10)))  # warm
    rounds, seconds = synchronous(algorithm, engine, start), list[float]()
    while len(seconds) < 3 and sum(seconds) < 20:
        began = time.process_time()  # one thread: what other programs take is not in it
        next(rounds)
        seconds.append(time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": statistics.median(seconds), "peak": peak}


def measured(cell: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own says of a cell."""
    words = [sys.executable, __file__, "cell", "--cell", json.dumps(cell)]
    said: dict[str, Any] = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return said


# ---- ranks --------------------------------------------------------------------------------------------------------


def cnn() -> nn.Module:
    """LEAF's for FEMNIST: 6.6 million parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 2048), nn.ReLU(), nn.Linear(2048, 62)),
    )


def of_ranks(settings: argparse.Namespace, bar: Progress) -> list[Figure]:
    """Groups of 1 and of 2 ranks in turn, each with rounds of its own."""
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in bar.track(range(settings.turns), description="1 rank and 2 in turn"):
        for ranks, said in found.items():
            said.append(group(ranks, settings.rounds))
    medians = {ranks: statistics.median(s["seconds"] for s in said) for ranks, said in found.items()}
    pairs = list(zip(found[1], found[2], strict=True))
    ratio, by_cpu = (statistics.median(a[what] / b[what] for a, b in pairs) for what in ("seconds", "cpu"))
    parts = [
        Figure(f"{ranks} ranks: {what}, s a round", statistics.median(s[what] for s in said))
        for ranks, said in found.items()
        for what in ("clients", "adding", "all-reduce")
    ]
    return [
        *(Figure(f"{ranks} ranks: s a round", median) for ranks, median in medians.items()),
        Figure("2 ranks are faster than 1, times (median of pairs)", ratio, at_least=None if settings.busy else FASTER),
        Figure("the CPU of 1 rank over that of the busier of 2: the most that two free cores give", by_cpu),
        *parts,
        Figure("cores that were free meanwhile, by this process's clock", free_cores()),
    ]


def free_cores() -> float:
    """How many of two loops that only count run at full speed side by side: 2 where two cores are free."""
    loop = f"{LOOP}\nprint((time.process_time() - c) / 2)"
    both = [subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return sum(float(one.communicate()[0]) for one in both)


def group(ranks: int, rounds: int) -> dict[str, float]:
    """What rank 0 of so many says, and the most CPU that one of them took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    together = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "cell", "--cell", json.dumps({"kind": "rank", "rounds": rounds})]
    started = [
        subprocess.Popen(words, env={**os.environ, **together, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a rank failed")
    answers: list[dict[str, float]] = [json.loads(one) for one in said]
    return answers[0] | {"cpu": max(answer["cpu"] for answer in answers)}


def rank(cell: dict[str, Any]) -> dict[str, float]:
    """One rank's rounds: seconds of the whole, of its clients, of adding up its messages, and of the all-reduce."""
    clients, examples = 10, 100
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(clients * examples, 1, 28, 28, generator=rng)
    y = torch.randint(62, (len(x),), generator=rng)
    population = Population.from_arrays(x, y, torch.arange(clients).repeat_interleave(examples).numpy())
    with randomness.seeded_init(0):
        model = Model(cnn())
    algorithm = fedavg(supervised(model.predict, cross_entropy), local=sgd(LR))
    with init_group():
        source, spent = Sampled(population, batches(10, steps=10)), {"clients": 0.0, "all-reduce": 0.0}
        engine = Distributed(Clocked(OneByOne(source), spent), source, ranks=ClockedRanks(spent))
        rounds, found = synchronous(algorithm, engine, algorithm.init(model.params)), []
        next(rounds)
        for _ in range(cell["rounds"]):
            spent |= dict.fromkeys(spent, 0.0)
            began, begun = time.perf_counter(), time.process_time()
            next(rounds)
            seconds, cpu = time.perf_counter() - began, time.process_time() - begun
            found.append({"seconds": seconds, "cpu": cpu, **spent, "adding": seconds - sum(spent.values())})
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


class Clocked:
    """An engine whose clients' time is taken."""

    def __init__(self, engine: OneByOne, spent: dict[str, float]):
        self.engine, self.spent = engine, spent
        self.population, self.memory, self.recall = engine.population, engine.memory, engine.recall
        self.evaluate = engine.evaluate

    def ask(self, *asked: Any) -> Iterator[Any]:
        groups = self.engine.ask(*asked)
        while True:
            began = time.perf_counter()
            group = next(groups, None)
            self.spent["clients"] += time.perf_counter() - began
            if group is None:
                return
            yield group


class ClockedRanks:
    """Ranks whose talk is timed, waiting for the slowest included."""

    def __init__(self, spent: dict[str, float]):
        self.ranks, self.spent = current_group(), spent
        self.rank, self.size = self.ranks.rank, self.ranks.size

    def gather(self, data: bytes) -> Any:
        return self._timed(lambda: self.ranks.gather(data))

    def add(self, numbers: Tensor) -> None:
        self._timed(lambda: self.ranks.add(numbers))

    def _timed(self, call: Any) -> Any:
        began = time.perf_counter()
        found = call()
        self.spent["all-reduce"] += time.perf_counter() - began
        return found


PARTS = {"population": from_disk, "cohorts": table, "ranks": of_ranks}
CELLS = {"scaffold": stateful, "held": cell_of, "summed": cell_of, "rank": rank}


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("part", choices=[*PARTS, "cell"], help="what to measure (cell: one of it, for itself)")
    parser.add_argument("--folder", type=Path, default=Path("scale"), help="population: where to write it")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after one more")
    parser.add_argument("--turns", type=int, default=5, help="ranks: how often each has its turn")
    parser.add_argument("--most", type=float, default=1e9, help="cohorts: clients times numbers of a cell")
    parser.add_argument("--busy", action="store_true", help="ranks: other programs have the cores; do not judge")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    if settings.part == "cell":
        print(json.dumps(CELLS[settings.cell["kind"]](settings.cell)))
        return 0
    began = time.perf_counter()
    with progress() as bar:
        rows = PARTS[settings.part](settings, bar)
    return report(f"Scale: {settings.part}", rows, settings=settings, began=began)


if __name__ == "__main__":
    sys.exit(main())
