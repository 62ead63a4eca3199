"""Worker processes: what they hand over, who dies and is replaced, what is said, and that nobody is left behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.scaffold import scaffold
from seedbed.engines import ClientStateStore, OneByOne, Processes, crew, make, processes
from seedbed.engines.handing import SharedMemory
from seedbed.errors import Diverged, InputError
from seedbed.executors.factored import FactoredExecutor
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.train_stage import run_train_stage
from seedbed.federated import Algorithm
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import adam, sgd
from seedbed.lowrank.factored_matrix import Factored, OuterProducts, StackedFactored
from seedbed.rounds import Round, synchronous

from .bench import clients, model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")


def algorithm() -> Algorithm:
    return fedavg(supervised(model().predict, cross_entropy), local=sgd(0.2))


def trained(engine: Any, algorithm: Algorithm, count: int = 2) -> tuple[Any, Any]:
    """The state after so many rounds, and what clients keep."""
    schedule = synchronous(algorithm, engine, algorithm.init(model().params), cohort=4, seed=3)
    state = [next(schedule).state for _ in range(count)][-1]
    memory = dict(engine.memory())
    return state, [memory[c] for c in sorted(memory)]


def same(a: Any, b: Any) -> bool:
    """Bit for bit, types and layouts too."""
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and x.stride() == y.stride() and torch.equal(x, y) for x, y in pairs)


def in_processes(**given: Any) -> Processes:
    return Processes(OneByOne(clients(), workers=2), **given)


def children() -> set[int]:
    """Processes that this one has started, and that are there."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
    return found


@pytest.fixture(autouse=True)
def nobody_is_left_behind() -> Iterator[None]:
    before, files = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) == files


def doing(what: Callable[[int], None]) -> Algorithm:
    """FedAvg whose clients do this first, told how many examples they have: 8 and their number."""
    plain = algorithm()

    def client(sent: Any, kept: Any, task: Any) -> Any:
        what(int(task.examples) - 8)
        return plain.client(sent, kept, task)

    return replace(plain, client=client)


# ---- what is handed over -----------------------------------------------------------------------------------------


class Pair(NamedTuple):
    one: Any
    other: Any


def test_a_tree_comes_out_as_it_went_in() -> None:
    """Types, layouts, nesting; nothing; several pieces in one memory; what is known is the very same tensor."""
    g = torch.Generator().manual_seed(0)
    known = [torch.randn(3, 2, generator=g), torch.ones(1)]
    trees = [
        {"a": torch.tensor(1.5), "b": (torch.zeros(0, 4), [torch.tensor([True, False])])},
        Pair(torch.randn(3, 4, generator=g).bfloat16(), {7: torch.arange(5)}),
        torch.randn(2, 3, 4, 5, generator=g).contiguous(memory_format=torch.channels_last),
        torch.randn(3, 4, 5, generator=g, dtype=torch.float64).permute(2, 0, 1),
        {},
    ]
    with SharedMemory() as memory:
        pieces = [memory.write({"n": n}, whole) for n, whole in enumerate(trees)]
        named = memory.write({}, {"w": known[0], "v": known[0].clone()}, known)
        found = [memory.read(piece) for piece in pieces]
        _, whole = memory.read(named, known)
    assert [words for words, _ in found] == [{"n": n} for n in range(len(trees))]
    for (_, got), want in zip(found, trees, strict=True):
        assert tree.structure_of(got) == tree.structure_of(want)
        assert same(got, want)
    assert whole["w"] is known[0]
    assert same(whole["v"], known[0])


def test_a_factored_matrix_stays_factored() -> None:
    """As its rows and the given matrix, which both sides have: not its numbers."""
    g = torch.Generator().manual_seed(0)
    base, rows = torch.randn(300, 200, generator=g), OuterProducts(room=3)
    rows.add(torch.randn(4, 200, generator=g), torch.randn(4, 300, generator=g))
    matrix = Factored(((0.1, base),), ((-0.3 * torch.ones(4), rows),), base)
    with SharedMemory() as memory:
        piece = memory.write({}, {"one": matrix, "many": StackedFactored([matrix, 2 * matrix])}, [base])
        _, whole = memory.read(piece, [base])
    assert piece.length < 4 * base.numel() / 2
    assert isinstance(whole["one"], Factored)
    assert whole["one"].bases[0][1] is base
    assert isinstance(whole["many"], StackedFactored)
    assert torch.equal(whole["one"].dense(), matrix.dense())
    assert torch.equal(whole["many"].dense(), torch.stack([matrix.dense(), (2 * matrix).dense()]))


# ---- the same answer ---------------------------------------------------------------------------------------------


def test_clients_in_lockstep_stay_together() -> None:
    """The factored executor: bit for bit as so many in lockstep in one process, however many workers there are."""

    def engine(workers: int) -> OneByOne:
        return OneByOne(clients(), workers=workers, executor=FactoredExecutor(always=True), lockstep=2)

    want = trained(engine(1), algorithm())
    for workers in (1, 2, 3):
        assert same(want, trained(Processes(engine(workers)), algorithm()))


def test_what_clients_keep_on_disk_is_written_by_the_parent(tmp_path: Path) -> None:
    taught = scaffold(supervised(model().predict, cross_entropy))
    want = trained(OneByOne(clients()), taught)
    found = trained(Processes(OneByOne(clients(), workers=2, kept=ClientStateStore(tmp_path))), taught)
    assert want[1]
    assert same(want, found)


def test_workers_stay_for_all_rounds_of_an_algorithm() -> None:
    engine, before = in_processes(), children()
    schedule = synchronous(one := algorithm(), engine, one.init(model().params))
    forked = [(next(schedule), children() - before)[1] for _ in range(3)]
    assert len(forked[0]) == 2
    assert forked[0] == forked[1] == forked[2]
    trained(engine, algorithm(), count=1)
    assert len(children() - before) == 2
    assert not forked[0] & children()


def test_a_layout_is_kept_on_the_way() -> None:
    """What clients get lies as it does in one process: operations on another layout round otherwise."""
    plain = algorithm()

    def client(sent: Any, kept: Any, task: Any) -> Any:
        message, kept = plain.client(sent, kept, task)
        return message._replace(info={"stride": torch.tensor(float(sent["0.weight"].stride(0)))}), kept

    params = {n: p.T.contiguous().T if p.ndim == 2 else p for n, p in model().params.items()}
    schedule = synchronous(replace(plain, client=client), in_processes(), plain.init(params))
    assert next(schedule).info["stride"] == 1


# ---- who dies ----------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_changed(tmp_path: Path) -> None:
    """SIGKILL by its id from another thread of the parent, while it computes: the same bits."""
    dead = tmp_path / "killed"

    def waits_to_be_killed(client: int) -> None:
        if client == 2 and not dead.exists():
            (tmp_path / "new").write_text(str(os.getpid()))
            (tmp_path / "new").rename(tmp_path / "here")
            time.sleep(60)

    def kill() -> None:
        while not (tmp_path / "here").exists():
            time.sleep(0.005)
        dead.touch()
        os.kill(int((tmp_path / "here").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    engine, slow = in_processes(), doing(waits_to_be_killed)
    schedule = synchronous(slow, engine, slow.init(model().params))
    ends = [next(schedule).state for _ in range(2)]
    killer.join()
    plain = algorithm()
    want = synchronous(plain, OneByOne(clients()), plain.init(model().params))
    assert dead.exists()
    assert all(same(found, next(want).state) for found in ends)


def test_one_who_always_dies_is_named_and_the_engine_goes_on() -> None:
    def dies(client: int) -> None:
        if client == 4:
            os.kill(os.getpid(), signal.SIGXCPU)

    engine, mortal = in_processes(), doing(dies)
    with pytest.raises(InputError, match=r"was ended by SIGXCPU, 3 times in a row over client 4: use fewer workers"):
        next(synchronous(mortal, engine, mortal.init(model().params)))
    assert same(trained(OneByOne(clients()), algorithm()), trained(engine, algorithm()))


def test_a_run_whose_workers_are_killed_again_and_again_stops_and_can_be_resumed(tmp_path: Path) -> None:
    """From round 3 on whoever computes client 4 is killed; then no more: the end is that of one never disturbed."""
    deadly = tmp_path / "deadly"

    def is_killed(client: int) -> None:
        if client == 4 and deadly.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(round: Round) -> None:
        if round.number == 3 and disturbed:
            deadly.touch()

    def train(run: RunDirectory) -> Any:
        mortal = doing(is_killed)
        return run_train_stage(
            run,
            "main",
            mortal,
            in_processes(),
            model().params,
            schedule=lambda algorithm, engine, start, done, rest: synchronous(algorithm, engine, start, done=done),
            rounds=5,
            checkpoint_seconds=0,
            watch=watch,
        )

    disturbed = False
    want = train(RunDirectory.create(tmp_path / "whole", {}))
    disturbed = True
    run = RunDirectory.create(tmp_path / "run", {})
    with pytest.raises(InputError, match=r"was ended by SIGKILL, as the system does where memory runs out, 3 times"):
        train(run)
    deadly.unlink()
    found = run.latest("main")
    assert found is not None
    assert found[0] == 3
    disturbed = False
    assert same(want, train(run))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


ORPHANS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from engines.test_processes import Path, children, doing, in_processes, model, synchronous

def wait(client):
    time.sleep(60)

slow = doing(wait)
import threading
def tell():
    while len(children()) < 2:
        time.sleep(0.005)
    print(*children(), flush=True)
threading.Thread(target=tell, daemon=True).start()
next(synchronous(slow, in_processes(), slow.init(model().params)))
"""


def test_no_worker_outlives_a_killed_parent() -> None:
    """SIGKILL of the parent, whose workers are in the middle of a round."""
    words = [sys.executable, "-c", ORPHANS, str(Path(__file__).parents[1])]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [Path(f"/proc/{word}/stat") for word in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(_lives(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not [worker for worker in workers if _lives(worker)]


def _lives(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_ends_workers_too() -> None:
    """SIGINT to the process while it waits for them."""
    before = children()

    def interrupt() -> None:
        while len(children() - before) < 2:
            time.sleep(0.005)
        time.sleep(0.2)  # what begins the second has returned
        os.kill(os.getpid(), signal.SIGINT)

    slow, other = doing(lambda client: time.sleep(60)), threading.Thread(target=interrupt)
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # of a background job it would be ignored
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(synchronous(slow, in_processes(), slow.init(model().params)))
    finally:
        signal.signal(signal.SIGINT, heard)
        other.join()
    assert children() == before


# ---- what is said ------------------------------------------------------------------------------------------------


class Odd(Exception):
    """One that cannot be made from what it says."""

    def __init__(self, number: int, also: Tensor):
        super().__init__(f"odd {number}")


def test_an_error_is_that_of_one_process() -> None:
    """The first client's, by order, that fails, though the longest are begun first; its class and message; where in the
    worker it was is in a note. A class that cannot be made is a RuntimeError that names it."""

    def fails(client: int) -> None:
        if client in (1, 4):
            raise Diverged(f"client {client} left the finite numbers")

    def is_odd(client: int) -> None:
        raise Odd(client, torch.ones(1))

    for engine in (OneByOne(clients()), in_processes()):
        broken = doing(fails)
        with pytest.raises(Diverged, match=r"^client 1 left the finite numbers") as caught:
            next(synchronous(broken, engine, broken.init(model().params)))
        assert str(caught.value) == "client 1 left the finite numbers"
    assert "in fails" in caught.value.__notes__[0]
    broken = doing(is_odd)
    with pytest.raises(RuntimeError, match=r"^Odd: odd 0"):
        next(synchronous(broken, in_processes(), broken.init(model().params)))


def test_warnings_and_lines_are_passed_on() -> None:
    said: list[str] = []
    source = clients()
    engine = make("one_by_one", source, model().module, workers=2, executor="factored", processes=True)
    assert isinstance(engine, Processes)
    engine.say = said.append
    plain = fedavg(supervised(model().predict, cross_entropy), local=adam(0.01))

    def client(sent: Any, kept: Any, task: Any) -> Any:
        warnings.warn("careful", UserWarning, stacklevel=1)
        return plain.client(sent, kept, task)

    warned = replace(plain, client=client)
    with pytest.warns(UserWarning, match="careful"):
        next(synchronous(warned, engine, warned.init(model().params)))
    lines = [line for line in said if "not linear in the gradients" in line]
    assert len(lines) == 1


def test_how_much_memory_they_take_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the start, by the model, the tasks and the messages; after the first round, as measured."""
    said: list[str] = []
    engine = in_processes(say=said.append)
    trained(engine, algorithm())
    assert len(said) == 2
    assert re.fullmatch(
        r"processes: 2 workers and the messages of 4 clients need about 0 MB beside what they share; \d+ are available",
        said[0],
    )
    assert re.fullmatch(r"processes: a worker took \d+ MB at most beyond what it shares", said[1])
    assert 0 < engine.peak < 1000
    monkeypatch.setattr(processes, "available_memory", lambda: 0.0)
    trained(engine, algorithm())
    assert "but 0 are available: use fewer workers (workers=1), or smaller rounds" in said[2]


def test_where_there_are_none_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason and the way out; `auto` then does without."""
    wanted = {
        "fused": "computes many clients at once, in one process: leave processes=true out",
        "loop": r"forked process cannot use its autograd then: hide it \(CUDA_VISIBLE_DEVICES=\), or use threads",
    }
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for executor, words in wanted.items():
        with pytest.raises(InputError, match=words):
            make("auto", clients(), model().module, executor=executor, processes=True)
    assert all("processes" not in name for name in make("auto", clients(), model().module, workers=2)._makes)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(crew.sys, "platform", "darwin")
        reason = crew.why_no_workers()
    assert reason == "worker processes need Linux, and this is darwin: use threads (processes=false)"
    meta = {n: torch.empty_like(p, device="meta") for n, p in model().params.items()}
    with pytest.raises(InputError, match="compute on the CPU, and the model is on meta: use threads"):
        list(in_processes().ask(algorithm(), {0: meta}, 0))


def test_a_worker_that_is_stuck_is_ended_and_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first to be asked waits for ever; the one after it answers."""
    monkeypatch.setattr(crew, "AT_FIRST", 0.5)

    def do(words: Any, whole: Any) -> tuple[Any, Any]:
        try:
            (tmp_path / "asked").touch(exist_ok=False)
        except FileExistsError:
            return {}, whole
        threading.Event().wait()
        raise AssertionError

    workers = crew.WorkerPool(do, 1)
    try:
        found = workers.run(lambda number: crew.WorkItem({}, {"x": torch.ones(2)}, "a piece"), [0], [])
        assert torch.equal(found[0][1]["x"], torch.ones(2))
    finally:
        workers.close()
