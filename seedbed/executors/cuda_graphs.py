"""What clients compute on a GPU is recorded once, as a CUDA graph, and replayed for others with other numbers.

A small model's step is dozens of operations of some microseconds each, and to launch one takes longer than to compute
it. A recording is launched whole, whatever it holds. It is made for one algorithm and one kind of inputs, after
they were computed plainly once, and believed after it has given the same as plain computation on inputs that it was
not made with. What cannot be recorded, for it waits for a number to decide what to do, is computed plainly.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.sampling import pad_steps
from seedbed.data.types import Task
from seedbed.learning.training import Log, no_log
from seedbed.tree import Tree

FlatFunction = Callable[..., list[Tensor]]
RecordFunction = Callable[
    [FlatFunction, Sequence[Tensor]], FlatFunction
]  # a function and inputs that it may keep -> the same, recorded

MAX_RECORDINGS = 16  # recordings that are kept: each holds copies of its inputs and results
NEAR = 1e-3  # how far a replay may be from plain computation, as a part of the largest number
EXACT_LENGTHS = (
    8  # steps up to which tasks keep their length; longer ones are recorded in EXACT / 2 lengths to a doubling
)


def cuda_graph(function: FlatFunction, inputs: Sequence[Tensor]) -> FlatFunction:
    """A function of tensors of one GPU as a CUDA graph.

    Raises:
        RuntimeError: it does what cannot be recorded.
    """
    with torch.cuda.device(inputs[0].device):
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            function(*inputs)  # what libraries make at their first use on a stream is no part of a recording
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=_memory(inputs[0].device)):
            ends = function(*inputs)

    def replay(*given: Tensor) -> list[Tensor]:
        for mine, theirs in zip(inputs, given, strict=True):
            mine.copy_(theirs)
        graph.replay()
        return [x.clone() for x in ends]

    return replay


@functools.cache
def _memory(device: torch.device) -> Any:
    """What all graphs of a GPU compute in: one is done, and its results are copied, before another begins."""
    return torch.cuda.graph_pool_handle()


@dataclass
class _Recording:
    owner: Any  # whose function it is: held, so that no other has its id
    replay: FlatFunction | None  # None: it cannot be recorded
    like: Tree  # of what the function gives
    believed: bool = False


class GraphRecorder:
    """Runs functions of trees, those that it has recorded by replaying them.

    Args:
        record: how; None: as CUDA graphs, and nothing where there is no GPU.
        say: told in a line what cannot be recorded, and why.
    Attributes:
        replayed: how many times a recording was used.
    """

    def __init__(self, record: RecordFunction | None = None, say: Log = no_log):
        self._record, self._say = record or cuda_graph, say
        self._anywhere = record is not None
        self._known: dict[Any, _Recording] = {}
        self.replayed = 0

    def records(self, sent: Tree) -> bool:
        """Whether it does, where this lies."""
        return self._anywhere or any(leaf.is_cuda for leaf in tree.leaves(sent))

    def run(self, owner: Any, function: Callable[..., Tree], *trees: Tree) -> Tree:
        """function(*trees), which must depend on nothing that changes but these trees' numbers.

        Args:
            owner: by whom the function is known: another one's is another.
            trees: what the first holds says whether anything is recorded.
        """
        if not self.records(trees[0]):
            return function(*trees)
        key = id(owner), *(_kind(part) for part in trees)
        known = self._known.pop(key, None)
        if known is None:
            found = function(*trees)
            known = self._recorded(owner, function, trees, found)
        elif known.replay is None:
            found = function(*trees)
        else:
            found = tree.with_leaves(known.like, known.replay(*tree.leaves(trees)))
            self.replayed += 1
            if not known.believed:
                found = self._compared(known, found, function(*trees))
        self._known[key] = known  # last, as the one used last
        while len(self._known) > MAX_RECORDINGS:
            self._known.pop(next(iter(self._known)))
        return found

    def _recorded(self, owner: Any, function: Callable[..., Tree], trees: Sequence[Tree], found: Tree) -> _Recording:
        def flat(*leaves: Tensor) -> list[Tensor]:
            return tree.leaves(function(*tree.with_leaves(trees, leaves)))

        own = [leaf.clone() for leaf in tree.leaves(trees)]  # one that was given twice is two here
        try:
            replay = self._record(flat, own)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            self._say(f"clients cannot be recorded ({reason}), so that their operations are launched one by one")
            replay = None
        return _Recording(owner, replay, tree.map(lambda leaf: leaf.new_empty(0), found))

    def _compared(self, known: _Recording, found: Tree, want: Tree) -> Tree:
        known.believed = True
        if not all(agrees_up_to_rounding(a, b) for a, b in zip(tree.leaves(found), tree.leaves(want), strict=True)):
            known.replay = None
            self._say("recorded clients gave something else than plainly computed ones: the recording is not used")
        return want


def pad_lengths(task: Task) -> Task:
    """Tasks of [C, K, ...] with some more steps that are not real, so that few lengths are recorded.

    >>> from seedbed.data.types import Task
    >>> [len(pad_lengths(Task((), torch.ones(1, steps), torch.ones(1))).real[0]) for steps in (3, 8, 9, 17, 32)]
    [3, 8, 10, 20, 32]
    """
    steps = task.real.shape[1]
    grain = 1 if steps <= EXACT_LENGTHS else 2 ** ((steps - 1).bit_length() - EXACT_LENGTHS.bit_length() + 1)
    return pad_steps(task, -(-steps // grain) * grain)


def _kind(part: Tree) -> Any:
    """Of trees for which one recording does: structure, shapes and types."""
    return repr(tree.kind(part)), tuple((leaf.dtype, leaf.device) for leaf in tree.leaves(part))


def agrees_up_to_rounding(a: Tensor, b: Tensor) -> bool:
    """Whether two ways on a GPU have computed the same, up to rounding; NaN is NaN."""
    scale = float(b.abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
    return torch.allclose(a.double(), b.double(), rtol=NEAR, atol=NEAR * scale, equal_nan=True)
