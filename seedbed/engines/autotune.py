"""Which executor is fastest for a model, an algorithm and a machine: measured on a few steps, and kept on disk.

All executors give the same result up to rounding, so a choice costs time at most. A run keeps its choices in its own
directory, so that a resumed one ends with the same bits.
"""

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.sampling import TaskSource, TaskSourceWrapper
from seedbed.data.types import Task
from seedbed.engines.one_by_one import OneByOne
from seedbed.engines.processes import Processes
from seedbed.engines.vectorised import Vectorised
from seedbed.errors import InputError
from seedbed.executors.cpp_compiler import cache, library, library_path, processor
from seedbed.executors.factored import FactoredExecutor, examples_per_task, is_worthwhile
from seedbed.executors.fused import FusedExecutor
from seedbed.executors.fused.cpp_launch import KERNEL
from seedbed.federated import Algorithm, ClientId, MessageBatch, ServerState
from seedbed.learning.objectives import Metric
from seedbed.learning.optimizers import Optimizer
from seedbed.learning.training import Log, no_log
from seedbed.limits import from_json
from seedbed.serialization import write_atomically
from seedbed.tree import Tree

Owner = OneByOne | Vectorised | Processes
Make = Callable[[TaskSource], Owner]

TRIAL_CLIENTS = {
    "loop": 3,
    "factored": 8,
}  # clients that are tried one after another, or in lockstep; those at once are tried all
MAX_TRIAL_CLIENTS = 256  # clients that are tried at once
WHOLE, TIMES = 0.1, 3  # seconds of a trial below which it is repeated with all steps; how often
SHORT, LONG = 1, 3  # steps of a trial: what a step costs is half of the difference
COMPILING = 0.005  # seconds of a round from which on it is worth while to compile a kernel for it
IN_PROCESSES = " in processes"  # after the name of an executor: its workers are processes, not threads
HANDING = 0.05  # seconds of a round from which on it is worth while to hand its work to processes
DEPTH = 4  # how deep into closures an algorithm is described


class Choice(NamedTuple):
    """An executor, and why it was chosen."""

    executor: str
    why: str


class Trial(NamedTuple):
    """What trying an executor gave: seconds that a round would take, or why it cannot."""

    seconds: float
    refused: str = ""


@dataclass(frozen=True)
class TuningCache:
    """Choices on disk.

    Args:
        own: a file of the run, whose choices go first; None: none.
        shared: a folder of choices for all runs on this machine; None: none.
        say: told in a line of each choice.
    """

    own: Path | None = None
    shared: Path | None = None
    say: Log = no_log

    def known(self, what: str, size: str) -> Choice | None:
        """The choice for what is computed, in this run or at this size in any."""
        own = self._own().get(_key(what))
        if own is not None:
            return Choice(*own)
        place = self._place(what, size)
        with suppress(OSError, ValueError, TypeError):
            if place is not None:
                return Choice(*from_json(place.read_text()))
        return None

    def keep(self, what: str, size: str, choice: Choice) -> Choice:
        """Write it down; where another process was quicker, its choice is taken."""
        place = self._place(what, size)
        if place is not None:
            with suppress(OSError):
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _write_first(place, json.dumps(choice))
                choice = self.known(what, size) or choice
        return choice

    def settle(self, what: str, choice: Choice) -> None:
        """Write it into the run's own file, before anything is computed by it."""
        if self.own is None or _key(what) in (all_own := self._own()):
            return
        write_atomically(self.own, json.dumps({**all_own, _key(what): choice}, indent=1).encode())

    def _own(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            if self.own is not None:
                return dict(from_json(self.own.read_text()))
        return {}

    def _place(self, what: str, size: str) -> Path | None:
        return None if self.shared is None else self.shared / f"{_key(what + chr(0) + size)}.json"


def shared_tuning_cache() -> Path:
    """Where the choices of this user's runs lie."""
    return cache() / "plans"


class AutoEngine:
    """An engine that measures which of several is fastest for what it is asked, and asks that one.

    Args:
        makes: the engines by the name of their executor, made for a source; the first is the one to fall back on.
        judge: the name of the one that evaluates.
        plans: where choices are kept.
        workers: how many the engines have.
    """

    def __init__(
        self, source: TaskSource, makes: Mapping[str, Make], *, judge: str, plans: TuningCache, workers: int = 1
    ):
        self.source, self._makes, self._judge, self._plans, self._workers = source, makes, judge, plans, workers
        self._engine, self._name = makes[judge](source), judge
        self._for: Algorithm | None = None

    @property
    def population(self) -> Sequence[ClientId]:
        return self.source.clients

    @property
    def executor(self) -> str:
        """The one that was used last."""
        return self._name

    @property
    def peak(self) -> float:
        """MB that its worker processes take at most beyond what they share; 0: it has none."""
        return self._engine.peak if isinstance(self._engine, Processes) else 0.0

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        if sent and algorithm is not self._for:
            self._use(self._chosen(algorithm, sent, round).executor)
            self._for = algorithm
            if isinstance(self._engine, Processes):
                self._engine.say = self._plans.say
        yield from self._engine.ask(algorithm, sent, round)

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> Mapping[ClientId, Tensor]:
        judge = self._makes[self._judge](self.source)
        judge.recall(self._engine.memory())
        return judge.evaluate(algorithm, state, source, metric)

    def memory(self) -> Mapping[ClientId, Tree]:
        return self._engine.memory()

    def recall(self, memory: Mapping[ClientId, Tree]) -> None:
        self._engine.recall(memory)

    def _use(self, name: str) -> None:
        if name != self._name:
            engine = self._makes[name](self.source)
            engine.recall(self._engine.memory())
            self._engine, self._name = engine, name

    def _chosen(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Choice:
        what, size = self._what(algorithm, sent), f"{len(sent).bit_length()}"
        choice = self._plans.known(what, size)
        if choice is None or choice.executor not in self._makes or not _can(choice.executor, sent):
            choice = self._plans.keep(what, size, self._measured(algorithm, sent, round))
            self._plans.say(f"executor {choice.executor}: {choice.why}")
        else:
            self._plans.say(f"executor {choice.executor}, as measured before: {choice.why}")
        self._plans.settle(what, choice)
        return choice

    def _what(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree]) -> str:
        """What is computed, in words that are the same in every process."""
        model = [(name, str(leaf.dtype), tuple(leaf.shape)) for name, leaf in tree.named_leaves(_any(sent)).items()]
        machine = (processor(), torch.__version__, os.cpu_count(), self._workers, _device_name(_device(sent)))
        return repr((describe_function(algorithm.client), model, sorted(self._makes), machine))

    def _measured(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Choice:
        began = time.perf_counter()
        found: dict[str, Trial] = {}
        for name in self._makes:
            reason = self._hopeless(name, found, sent)
            found[name] = Trial(math.inf, reason) if reason else self._tried(name, algorithm, sent, round)
        best = min(found, key=lambda name: found[name].seconds)
        words = [f"{name} {_said(tried)}" for name, tried in sorted(found.items(), key=lambda pair: pair[1].seconds)]
        spent = time.perf_counter() - began
        return Choice(best, f"a round of {len(sent)} clients takes {'; '.join(words)}; tried in {spent:.1f} s")

    def _hopeless(self, name: str, found: Mapping[str, Trial], sent: Mapping[ClientId, Tree]) -> str:
        """Why it need not be tried, as others have shown; empty: it must be."""
        quickest = min((tried.seconds for tried in found.values()), default=math.inf)
        if _compiles(name, sent) and quickest < COMPILING and not library_path(KERNEL).exists():
            return "a round is too short to compile for"
        threads = found.get(name.removesuffix(IN_PROCESSES))
        if threads is None:
            return ""
        if threads.refused:
            return threads.refused
        if quickest < HANDING:
            return "a round is too short to be handed to processes"
        far = threads.seconds / self._workers > quickest  # as if threads gave nothing at all, and processes everything
        return "as in threads, it is too slow" if far else ""

    def _tried(self, name: str, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Trial:
        """Predict a round's seconds from trials of few steps; nothing that clients keep is changed."""
        at_once = name in GROUPED_EXECUTORS
        some = sorted(sent, key=lambda c: (self.source.size(c), c))
        some = some[:: -(-len(some) // MAX_TRIAL_CLIENTS)] if at_once else some[len(some) // 2 :][: self._few(name)]
        whole = self.source.tasks([some[-1]], round)
        steps, seconds, engines = len(whole.real[0]), dict[int, float](), dict[int, Owner]()

        def time_of(cut: int) -> float:
            if cut not in engines:
                engines[cut] = self._made(name, cut, sent, round)
            return self._timed(name, engines[cut], algorithm, {c: sent[c] for c in some}, round)

        try:
            if _compiles(name, sent):
                library(KERNEL)
            if name.startswith("factored"):
                _refuse_small(sent[some[-1]], examples_per_task(whole))
            for cut in (SHORT, LONG, SHORT, LONG):  # the better of two: the first warms up, and others use the machine
                seconds[cut] = min(time_of(cut), seconds.get(cut, math.inf))
            a_step = max(0.0, seconds[LONG] - seconds[SHORT]) / (LONG - SHORT)
            found = seconds[SHORT] + a_step * max(0, steps - SHORT)
            if found < WHOLE:  # too little to be told from what others do meanwhile, and quickly done whole
                found = min(time_of(steps) for _ in range(TIMES))
        except (ExecutorRefused, InputError) as reason:
            return Trial(math.inf, str(reason))
        except Exception as error:
            if name == self._judge or _device(sent).type == "cpu":
                raise
            return Trial(math.inf, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")  # a GPU's own, as OOM
        finally:
            for engine in engines.values():
                if isinstance(engine, Processes):
                    engine.close()
        return Trial(found * len(sent) / len(some))

    def _made(self, name: str, cut: int, sent: Mapping[ClientId, Tree], round: int) -> Owner:
        """An engine whose clients take so many steps at most."""
        engine = self._makes[name](_Cut(self.source, cut))
        if isinstance(engine, Processes) and (lack := engine.lack(sent, round)):
            raise ExecutorRefused(lack)
        return engine

    def _timed(
        self, name: str, engine: Owner, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int
    ) -> float:
        engine.recall({c: kept for c, kept in self._engine.memory().items() if c in sent})
        began = time.perf_counter()
        messages = [group.messages for group in engine.ask(algorithm, sent, round)]
        if algorithm.reduce.linear and not algorithm.unlike:
            values, weights = [m.value for m in messages], [m.weight for m in messages]
            tree.form_unformed(algorithm.reduce(tree.concatenate(values), torch.cat(weights)))
        if (device := _device(sent)).type != "cpu":
            torch.accelerator.synchronize(device)  # it computes on while Python is done
        spent = time.perf_counter() - began
        executor = None if isinstance(engine, Processes) else engine.executor  # in processes it is another's copy
        if isinstance(executor, FusedExecutor | FactoredExecutor) and not executor.trained:
            raise ExecutorRefused(next(iter(executor.refused), "clients do not train by `train`"))
        return spent

    def _few(self, name: str) -> int:
        """How many clients to try: as many for each worker, for one that idles would count against the executor."""
        return -(-TRIAL_CLIENTS[name.removesuffix(IN_PROCESSES)] // self._workers) * self._workers


class ExecutorRefused(Exception):
    """An executor cannot do what it is tried on."""


def _refuse_small(sent: Tree, rows: int) -> None:
    """A trial is of few steps: whether factored matrices pay depends on all."""
    if not any(leaf.ndim == 2 and rows < is_worthwhile(leaf) for leaf in tree.leaves(sent)):
        raise ExecutorRefused(f"no dense layer is large enough for {rows} examples of a client")


GROUPED_EXECUTORS = ("stacked", "batched", "fused")  # whose clients are computed together


class _Cut(TaskSourceWrapper):
    """The same tasks, of so many items at most."""

    def __init__(self, source: TaskSource, items: int):
        super().__init__(source)
        self.items = items

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        items, real, examples = self.source.tasks(clients, round)
        return Task(tree.map(lambda x: x[:, : self.items], items), real[:, : self.items], examples)


def _device(sent: Mapping[ClientId, Tree]) -> torch.device:
    """Where clients compute."""
    return next((leaf.device for leaf in tree.leaves(_any(sent))), torch.device("cpu"))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _compiles(executor: str, sent: Mapping[ClientId, Tree]) -> bool:
    """Whether it is the kernel of processors, which a compiler makes."""
    return executor == "fused" and _device(sent).type == "cpu"


def _can(executor: str, sent: Mapping[ClientId, Tree]) -> bool:
    """Whether this machine still can: a compiler may be gone."""
    if not _compiles(executor, sent):
        return True
    try:
        library(KERNEL)
    except InputError:
        return False
    return True


def _said(tried: Trial) -> str:
    return f"cannot ({tried.refused})" if tried.refused else f"{1000 * tried.seconds:.3g} ms"


def _any(sent: Mapping[ClientId, Tree]) -> Tree:
    return next(iter(sent.values()))


def describe_function(value: Any, depth: int = DEPTH) -> str:
    """A function and what it closes over, in words that are the same in every process.

    >>> from seedbed.learning.optimizers import sgd
    >>> describe_function(sgd(0.5))
    'sgd(lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0)'
    """
    if isinstance(value, Optimizer) or value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if depth == 0:
        return type(value).__qualname__
    if is_dataclass(value) and not isinstance(value, type):
        inside = [describe_function(getattr(value, field.name), depth - 1) for field in fields(value)]
    else:
        cells = getattr(value, "__closure__", None) or ()
        inside = [describe_function(cell.cell_contents, depth - 1) for cell in cells if _is_full(cell)]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{getattr(value, '__module__', '')}.{name}({', '.join(inside)})"


def _is_full(cell: Any) -> bool:
    try:
        return bool(cell.cell_contents is not None)
    except ValueError:
        return False


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write_first(place: Path, text: str) -> None:
    """Write a file whole unless there is one: two processes that write keep the first's."""
    with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as file:
        file.write(text)
    try:
        os.link(file.name, place)
    except FileExistsError:
        pass
    finally:
        os.unlink(file.name)
