"""The law table's column of recordings: clients that were recorded and are replayed are the plain ones.

There need be no GPU: a trace of PyTorch's operations is what a CUDA graph of them is, a list of them with nothing left
to decide. On a GPU, the graphs themselves are replayed too.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from seedbed import tree
from seedbed.data.types import Task
from seedbed.engines import OneByOne, TuningCache, Vectorised, make
from seedbed.executors import cuda_graphs
from seedbed.executors.cuda_graphs import FlatFunction, GraphRecorder
from seedbed.executors.fused import FusedExecutor

from .bench import CLASSES, INPUTS, KINDS, SIZES, TOLERANCE, Row, apart, clients, module, run, runs_apart
from .rows import ROWS

DEFAULT = ("fedavg-adam", "scaffold", "fedmeta-exact", "ditto")  # stacked; the others, and all alone, take minutes
CASES = [
    pytest.param(
        row,
        kind,
        id=f"{kind.__name__}-{row}",
        marks=[] if kind is Vectorised and str(row) in DEFAULT else pytest.mark.slow,
    )
    for row in ROWS
    for kind in KINDS
]


def traced(function: FlatFunction, inputs: Sequence[Tensor]) -> FlatFunction:
    """The operations of one run, to be done again on other inputs."""
    found: FlatFunction = make_fx(function)(*inputs)
    return found


def test_the_rows_by_default_are_rows() -> None:
    assert {str(row) for row in ROWS} >= {*DEFAULT}


@pytest.mark.parametrize(("row", "kind"), CASES)
def test_replayed_clients_are_the_plain_ones(row: Row, kind: type[OneByOne | Vectorised]) -> None:
    """The first time they are computed plainly, the second time compared, the third time replayed."""
    said: list[str] = []
    engine = kind(clients(row.items), recorder=GraphRecorder(traced, said.append))
    want = run(row, kind(clients(row.items)), cohort=len(SIZES))
    assert runs_apart(want, run(row, engine, cohort=len(SIZES))) <= TOLERANCE
    assert not said
    assert engine.recorder is not None
    assert engine.recorder.replayed >= 2


@pytest.mark.parametrize("name", ["fedprox", "fedavg-momentum, finetuned"])
def test_batched_clients_can_be_recorded(name: str) -> None:
    """Where it is not looked at what is real: it is computed, and moves nothing."""
    row = replace(next(row for row in ROWS if str(row) == name), net=module)
    batched = FusedExecutor(compiled=False, looks=False)
    said: list[str] = []
    recorder = GraphRecorder(traced, said.append)
    engine = Vectorised(clients(row.items), executor=batched, recorder=recorder)
    want = run(row, OneByOne(clients(row.items)), cohort=len(SIZES))
    assert runs_apart(want, run(row, engine, cohort=len(SIZES))) <= 1e-12
    assert not said
    assert recorder.replayed
    assert batched.trained


def times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: factor * x


def test_a_recording_is_of_one_owner_and_one_kind() -> None:
    recorder, double, triple = GraphRecorder(traced), times(2.0), times(3.0)
    for k in range(3):
        for x in (torch.full((2,), 1.0 + k), torch.full((3,), 1.0 + k), torch.full((2,), 1 + k)):
            assert torch.equal(recorder.run(double, double, x), 2.0 * x)
            assert torch.equal(recorder.run(triple, triple, x), 3.0 * x)
    assert recorder.replayed == 2 * 2 * 3


def test_what_decides_by_a_number_is_computed_plainly_and_it_is_said() -> None:
    said: list[str] = []
    recorder = GraphRecorder(traced, said.append)

    def size(x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x

    for k in (1.0, -2.0, 3.0):
        assert torch.equal(recorder.run(size, size, torch.full((2,), k)), torch.full((2,), abs(k)))
    assert recorder.replayed == 0
    assert len(said) == 1
    assert said[0].startswith("clients cannot be recorded (")


@pytest.mark.parametrize("executor", ["stacked", "batched", "loop"])
def test_people_are_told_what_cannot_be_recorded(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By engines as the command line makes them."""

    def fails(function: FlatFunction, inputs: Sequence[Tensor]) -> FlatFunction:
        raise RuntimeError("it waits")

    monkeypatch.setattr(cuda_graphs, "cuda_graph", fails)
    monkeypatch.setattr(GraphRecorder, "records", lambda recorder, sent: True)
    row, said = replace(next(row for row in ROWS if str(row) == "fedavg"), net=module), list[str]()
    net = nn.Linear(INPUTS, CLASSES)
    engine = make("auto", clients(row.items), net, executor=executor, workers=1, plans=TuningCache(say=said.append))
    run(row, engine, count=1)
    assert said[0] == "clients cannot be recorded (it waits), so that their operations are launched one by one"


def test_a_recording_that_gives_something_else_is_not_used() -> None:
    """A number of Python's that changes: it is found out at the second run, which gives the right result."""
    said: list[str] = []
    recorder, calls = GraphRecorder(traced, said.append), []

    def counting(x: Tensor) -> Tensor:
        calls.append(x)
        return x + len(calls)

    ends = [float(recorder.run(counting, counting, torch.zeros(()))) for _ in range(4)]
    assert ends == [1, 3, 4, 5]  # the recording itself was the second call
    assert recorder.replayed == 1
    assert said == ["recorded clients gave something else than plainly computed ones: the recording is not used"]


def test_only_so_many_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_RECORDINGS", 2)
    recorded: list[int] = []

    def record(function: FlatFunction, inputs: Sequence[Tensor]) -> FlatFunction:
        recorded.append(len(inputs[0]))
        return function

    recorder, double = GraphRecorder(record), times(2.0)
    for n in (1, 2, 1, 3, 1, 2):  # 3 takes the place of 2
        recorder.run(double, double, torch.ones(n))
    assert recorded == [1, 2, 3, 2]


def test_tasks_are_of_few_lengths() -> None:
    """A quarter of the steps are added at most."""
    found = {n: cuda_graphs.pad_lengths(Task((), torch.ones(1, n), torch.ones(1))).real for n in range(1, 129)}
    assert all(n <= len(real[0]) <= n * 1.25 and real.sum() == n for n, real in found.items())
    assert len({len(real[0]) for real in found.values()}) == 24


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_that_are_added_change_nothing(
    kind: type[OneByOne | Vectorised], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths of 1, 2 and 4 instead of 3 to 5."""
    monkeypatch.setattr(cuda_graphs, "EXACT_LENGTHS", 1)
    row = next(row for row in ROWS if str(row) == "fedavg-adam")
    recorder = GraphRecorder(lambda function, inputs: function)
    found = run(row, kind(clients(row.items), recorder=recorder), cohort=len(SIZES))
    assert recorder.replayed
    assert runs_apart(run(row, kind(clients(row.items)), cohort=len(SIZES)), found) <= TOLERANCE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEFAULT)
def test_graphs_on_a_gpu(name: str, kind: type[OneByOne | Vectorised]) -> None:
    row, said = next(row for row in ROWS if str(row) == name), list[str]()
    engine = kind(clients(row.items), recorder=GraphRecorder(say=said.append))
    start = tree.map(lambda x: x.cuda(), row.start)
    found = run(row, engine, state=start, cohort=len(SIZES)).rounds[-1].state
    want = run(row, kind(clients(row.items)), cohort=len(SIZES)).rounds[-1].state
    assert apart(tree.map(lambda x: x.cpu(), found), want) <= TOLERANCE
    assert not said
    assert engine.recorder is not None
    assert engine.recorder.replayed >= 2
