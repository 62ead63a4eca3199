"""Worker processes: forked from this one, so that they begin with all it has, and replaced when they die.

A worker is handed pieces of work, one at a time, and hands back what it makes of each (`engines.handing`). It computes
with one thread and does not outlive its parent. What is dealt to whom changes nothing: results come by their numbers,
and an error is that of the first piece, by number, that fails.
"""

import ctypes
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, NoReturn, TextIO

import torch
from torch import Tensor

from seedbed.engines import process_group
from seedbed.engines.handing import SharedMemory, SharedPiece
from seedbed.engines.memory_info import keep_freed_memory, memory_use
from seedbed.errors import InputError
from seedbed.serialization import find_loaded_class
from seedbed.tree import Tree

MAX_TRIES = 3  # of a piece of work whose worker dies
# Seconds after which a worker is taken to be stuck, and replaced: at least, as many times what the longest piece has
# taken, and before there is one.
PATIENCE, SLOWER, AT_FIRST = 60.0, 20.0, 600.0
STOPPING = (signal.SIGINT, signal.SIGTERM)
DIES_WITH_ITS_PARENT = 1  # PR_SET_PDEATHSIG
FIRST_TO_GO = "500"  # where memory runs out: a worker can be replaced, its parent cannot
TOLD = struct.Struct("=5q")  # a call's number, and the pieces of what is known in it and of what is to be done
MADE = struct.Struct("=2q")  # a piece

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded now: a worker must not
_registry: dict[Any, Any] = {}  # of warnings that were passed on, so that each is said once

Do = Callable[[Any, Tree], tuple[Any, Tree]]  # words and a tree -> others


def why_no_workers() -> str | None:
    """Why no worker processes can be used here, and the way out; None: they can."""
    if sys.platform != "linux":
        return f"worker processes need Linux, and this is {sys.platform}: use threads (processes=false)"
    if not Path("/proc/self/status").exists():
        return "worker processes need /proc, which is not mounted here: use threads (processes=false)"
    if process_group.is_torchrun():
        return "under torchrun each rank is a process already: start more of them, or use threads (processes=false)"
    if torch.accelerator.is_available():
        return (
            "PyTorch sees a GPU here, and a forked process cannot use its autograd then: hide it "
            "(CUDA_VISIBLE_DEVICES=), or use threads (processes=false)"
        )
    return None


class WorkItem(NamedTuple):
    """A piece of work."""

    words: Any  # as JSON takes them
    whole: Tree
    called: str  # what it is, for people


@dataclass
class Worker:
    """A worker process, seen from its parent.

    Attributes:
        at: the piece that it works on; None: it waits.
    """

    process: int
    line: socket.socket
    at: int | None = None
    began: float = 0.0  # when it was told to

    def tell(self, number: int, call: int, memory: SharedMemory, known: SharedPiece, given: SharedPiece) -> None:
        self.at, self.began = number, time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which is heard soon
            socket.send_fds(self.line, [TOLD.pack(call, *known, *given)], [memory.file])

    def heard(self, known: Sequence[Tensor]) -> tuple[Any, Tree] | None:
        """What it has made; None: it is dead."""
        data, files = b"", list[int]()
        with suppress(ConnectionResetError):
            data, files, _, _ = socket.recv_fds(self.line, MADE.size, 1)
        if not data:
            return None
        with SharedMemory(files[0]) as memory:
            return memory.read(SharedPiece(*MADE.unpack(data)), known)

    def end(self) -> int:
        """Its status."""
        self.line.close()
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        except ChildProcessError:  # SIGCHLD is ignored here, so that nobody can tell
            return 0


class WorkerPool:
    """Workers that all do the same, forked when there is something to do and kept until `close`.

    Args:
        do: what they do with a piece.
        size: how many there are at most.
    Attributes:
        peak: MB that a worker took at most beyond what it began with.
    """

    def __init__(self, do: Do, size: int):
        self.do, self.size, self.peak, self._calls = do, size, 0.0, 0
        self._longest = 0.0  # seconds that a piece has taken
        self._workers: dict[int, Worker] = {}
        weakref.finalize(self, _dismiss, self._workers, os.getpid())

    def close(self) -> None:
        _dismiss(self._workers, os.getpid())

    def run(
        self, give: Callable[[int], WorkItem], order: Sequence[int], known: Sequence[Tensor]
    ) -> dict[int, tuple[Any, Tree]]:
        """{number: what comes of the piece}.

        Args:
            give: the piece of a number.
            order: of the numbers: which are begun first.
            known: tensors that pieces and what comes of them may have in common: they are handed over once.
        Raises:
            InputError: a piece's workers died so often that it must be its fault.
            Exception: what the first of the pieces that failed has raised.
        """
        call = PoolCall(give, deque(order), known)
        self._calls += 1
        try:
            while len(self._workers) < min(self.size, len(order)):
                self._hire()
            with SharedMemory() as memory:
                there = memory.write({}, list(known))

                def tell(worker: Worker, number: int) -> None:
                    words, whole, _ = give(number)
                    worker.tell(number, self._calls, memory, there, memory.write(words, whole, known))

                for worker in self._workers.values():
                    if call.left:
                        tell(worker, call.left.popleft())
                while any(worker.at is not None for worker in self._workers.values()):
                    self._end_the_stuck()
                    for worker in self._heard():
                        made, number = worker.heard(known), worker.at
                        if made is None:
                            again = call.died(number, self._bury(worker))
                            if again is not None:
                                tell(self._hire(memory.file), again)
                            continue
                        worker.at = None
                        self._longest = max(self._longest, time.monotonic() - worker.began)
                        if number is not None:
                            self._pass_on(made[0])
                            call.done(number, made)
                        if call.left:
                            tell(worker, call.left.popleft())
            if call.failed:
                raise call.failed[min(call.failed)]
        except BaseException:
            self.close()
            raise
        return call.found

    def _heard(self) -> list[Worker]:
        """The workers who have said something, or died; nobody after a second, in which a signal may have come that
        another thread was shown."""
        poll = select.poll()
        for file in self._workers:
            poll.register(file, select.POLLIN)
        return [self._workers[file] for file, _ in poll.poll(1000)]

    def _end_the_stuck(self) -> None:
        """A forked process may find a lock that nobody will open, in a library that is not made for forks."""
        patience = max(PATIENCE, SLOWER * self._longest) if self._longest else AT_FIRST
        for worker in self._workers.values():
            if worker.at is not None and time.monotonic() - worker.began > patience:
                with suppress(ProcessLookupError):
                    os.kill(worker.process, signal.SIGKILL)  # it is heard to be dead, and replaced

    def _pass_on(self, words: Any) -> None:
        self.peak = max(self.peak, words["peak"])
        for module, name, text, file, number in words["warned"]:
            category = find_loaded_class(Warning, module, name) or UserWarning
            warnings.warn_explicit(text, category, file, number, registry=_registry)

    def _hire(self, *files: int) -> Worker:
        """A new worker, for whom these open files are not."""
        with _undisturbed():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            others, parent = [ours.fileno(), *self._workers, *files], os.getpid()
            try:
                process = _forked()
                if process == 0:
                    _be_a_worker(self.do, parent, theirs, others)
                worker = self._workers[ours.fileno()] = Worker(process, ours)
            except OSError as error:
                ours.close()
                raise InputError(
                    f"cannot start a worker process ({error.strerror}): use threads (processes=false)"
                ) from error
            finally:
                theirs.close()
        return worker

    def _bury(self, worker: Worker) -> int:
        with _undisturbed():
            del self._workers[worker.line.fileno()]
            return worker.end()


@dataclass
class PoolCall:
    """How far the pieces of a call are."""

    give: Callable[[int], WorkItem]
    left: deque[int]
    known: Sequence[Tensor]
    found: dict[int, tuple[Any, Tree]] = field(default_factory=dict)
    failed: dict[int, BaseException] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)

    def done(self, number: int, made: tuple[Any, Tree]) -> None:
        words, _ = self.found[number] = made
        if "error" in words:
            self.failed[number] = _error(words["error"])
            self.left = deque(n for n in self.left if n < number)  # one of them may fail too, and comes before

    def died(self, number: int | None, status: int) -> int | None:
        """Over a piece, or none: which is to be begun again."""
        if number is None:
            return None
        self.deaths[number] += 1
        if self.deaths[number] == MAX_TRIES:
            raise InputError(_died(self.give(number).called, status))
        return number


def _dismiss(workers: dict[int, Worker], parent: int) -> None:
    """No worker is left."""
    if os.getpid() != parent:
        return  # a fork of the parent: they are not its own
    with _undisturbed():
        while workers:
            workers.popitem()[1].end()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What Python does about signals that stop the process waits, so that no worker is forgotten."""
    if threading.current_thread() is not threading.main_thread():
        yield  # it is done in the main thread
        return
    heard: list[int] = []
    usual = {int(s): handler for s in STOPPING if callable(handler := signal.getsignal(s))}
    for number in usual:
        signal.signal(number, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        for number in heard:
            signal.raise_signal(number)


def _forked() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and later warn where there are other threads, whose locks a child would find locked. A worker uses
        # none of theirs: it has streams of its own, and Python, glibc and PyTorch's allocator are ready for a fork.
        warnings.filterwarnings(
            "ignore", message=r".*use of fork\(\) may lead to deadlocks", category=DeprecationWarning
        )
        return os.fork()


# ---- in a worker ------------------------------------------------------------------------------------------------


def _be_a_worker(do: Do, parent: int, line: socket.socket, others: Sequence[int]) -> NoReturn:
    try:
        _settle_in(parent, others)
        begun, last, known = memory_use("VmRSS"), 0, list[Tensor]()
        while True:
            data, files, _, _ = socket.recv_fds(line, TOLD.size, 1)
            call, *places = TOLD.unpack(data)
            with SharedMemory(files[0]) as memory:
                if call != last:
                    last, known = call, memory.read(SharedPiece(*places[:2]))[1]
                words, whole = memory.read(SharedPiece(*places[2:]), known)
            with SharedMemory() as memory:
                piece = _made(do, words, whole, memory, known, begun)
                del whole
                socket.send_fds(line, [MADE.pack(*piece)], [memory.file])
    finally:
        os._exit(1)  # without what Python does at its end, which is for the parent to do


def _settle_in(parent: int, others: Sequence[int]) -> None:
    gc.freeze()  # what is there stays where it is, and shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the parent thinks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if _libc is not None:
        _libc.prctl(DIES_WITH_ITS_PARENT, signal.SIGKILL)
    keep_freed_memory()
    if os.getppid() != parent:
        os._exit(1)  # it was too late
    for file in others:
        os.close(file)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    sys.stdout, sys.stderr = _stream(1), _stream(2)
    torch.set_num_threads(1)


def _stream(file: int) -> TextIO:
    """The parent's, without its locks."""
    return open(file, "w", buffering=1, errors="replace", closefd=False)


def _made(do: Do, words: Any, whole: Tree, memory: SharedMemory, known: Sequence[Tensor], begun: float) -> SharedPiece:
    """Where what comes of a piece is, or what went wrong."""
    with warnings.catch_warnings(record=True) as warned:
        try:
            words, whole = do(words, whole)
            return memory.write({**words, **_about(warned, begun)}, whole, known)
        except BaseException as error:  # whatever it is, the parent raises it
            return memory.write({**_about(warned, begun), "error": _described(error)}, {})


def _about(warned: Sequence[warnings.WarningMessage], begun: float) -> dict[str, Any]:
    passed_on = [(w.category.__module__, w.category.__qualname__, str(w.message), w.filename, w.lineno) for w in warned]
    return {"warned": passed_on, "peak": memory_use("VmHWM") - begun}


# ---- errors that cross over -------------------------------------------------------------------------------------


def _described(error: BaseException) -> dict[str, Any]:
    plain = all(isinstance(part, str | int | float | None) for part in error.args)
    return {
        "module": type(error).__module__,
        "name": type(error).__qualname__,
        "args": list(error.args) if plain else [str(error)],
        "said": str(error),
        "trace": "".join(traceback.format_exception(error)),
    }


def _error(words: Any) -> BaseException:
    """The error that a worker has described: of its class, if that can be made from what it says."""
    kind: Any = find_loaded_class(BaseException, words["module"], words["name"])
    found = None
    with suppress(Exception):
        found = kind(*words["args"]) if kind is not None and not _has_own_code(kind) else None
    if found is None or str(found) != words["said"]:
        found = RuntimeError(f"{words['name']}: {words['said']}")
    found.add_note("in a worker process:\n" + words["trace"])
    return found


def _has_own_code(kind: type) -> bool:
    """Whether making one runs more than Python's own."""
    return isinstance(kind.__init__, FunctionType) or isinstance(kind.__new__, FunctionType)  # type: ignore[misc]


def _died(what: str, status: int) -> str:
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended by itself with code {status}"
    why = ", as the system does where memory runs out" if status == -signal.SIGKILL else ""
    return (
        f"a worker process {how}{why}, {MAX_TRIES} times in a row over {what}: use fewer workers (workers=1), or "
        "threads (processes=false); what came before is intact"
    )
