"""The fused executor: one compiled kernel that keeps a client's weights in the cache for all its steps, on a GPU in a
multiprocessor's registers; and the batched one, which does the same without a compiler, in PyTorch's batched products.

For multilayer perceptrons and logistic regression under cross-entropy and SGD (momentum, Nesterov, weight decay,
FedProx's pull): there a step's arithmetic takes microseconds, and what calls it a hundred times as much. Whatever else
an algorithm does around `train` stays as it is, in PyTorch.

Shapes: C clients, K steps, B examples of a batch, F numbers of an example.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.executors.cpp_compiler import library
from seedbed.executors.cuda_graphs import agrees_up_to_rounding
from seedbed.executors.fused.batched import train_batched
from seedbed.executors.fused.cpp_launch import CPP_KERNELS, KERNEL, launch_cpp
from seedbed.executors.fused.mlp_tracer import DenseLayer, NotAnMLP, trace_mlp
from seedbed.executors.fused.spec import FusedSpec, OptimizerSpec
from seedbed.executors.fused.triton_launch import DoesNotFit, launch_triton
from seedbed.learning.objectives import Proximal, Supervised, cross_entropy
from seedbed.learning.training import LocalWork, Log, Objective, TrainResult, no_log, one_step_at_a_time


@dataclass
class FusedExecutor:
    """Trains whole runs of steps at once where it can, and anything else one step at a time.

    Args:
        workers: threads, each with clients of its own.
        say: told in a line, once for each reason, what it cannot train.
        compiled: by the kernel for the processor, or on a GPU by blocks; else in PyTorch's batched products, the
            executor `batched`, as it is where the machine or the model does not go together with these: `say` is told.
        looks: at numbers, to pass by steps that are not real and to refuse labels; off the CPU it never does: such
            steps are computed and move nothing, and a label that is no class makes its client's loss and weights NaN.
        blocks: by blocks on a CPU too, in Triton's interpreter: for tests.
    Attributes:
        trained: how many times it trained clients.
        refused: why some were not trained by it.
        batched: why some were trained in batched products instead.
    """

    workers: int = 1
    say: Log = no_log
    compiled: bool = True
    looks: bool = True
    blocks: bool = False
    trained: int = 0
    refused: set[str] = field(default_factory=set)
    batched: set[str] = field(default_factory=set)
    _known: dict[Any, list[DenseLayer] | str] = field(default_factory=dict)
    _right: dict[Any, bool] = field(default_factory=dict)  # whether blocks have given what batched products give

    def __post_init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, local: LocalWork) -> TrainResult:
        try:
            plan, tensors = self._planned(local)
        except NotAnMLP as reason:
            if str(reason) not in self.refused:
                name = "fused" if self.compiled else "batched"
                self.say(f"executor {name}: {reason}, so that clients train stacked there")
            self.refused.add(str(reason))
            return one_step_at_a_time(local)
        self.trained += 1
        *ends, loss = _Train.apply(plan, *tensors)  # type: ignore[no-untyped-call]
        names = [name for layer in plan.layers for name in (layer.weight, layer.bias) if name]
        found = dict(zip(names, ends, strict=True))
        return TrainResult({name: found[name] for name in local.params}, loss, local.optimizer.init(local.params))

    def _planned(self, local: LocalWork) -> tuple[FusedSpec, list[Tensor]]:
        objective, optimizer, params, task, state = local
        given, batch = optimizer.settings, task.items
        if optimizer.name != "sgd" or optimizer.overwrite is None or "schedule" in given:
            raise NotAnMLP(f"the local optimiser {optimizer} is not sgd with a constant rate")
        if state is not None:
            raise NotAnMLP("its optimiser goes on from an earlier state")
        anchor, mu, loss = _taken_apart(objective)
        if not isinstance(batch, Batch) or not _flat(params):
            raise NotAnMLP("clients do not work on batches, or the model is no dict of parameters")
        layers = self._layers(loss, params, batch)
        leaves = [params[name] for layer in layers for name in (layer.weight, layer.bias) if name]
        by = self._by(batch.x.device) if self.compiled else train_batched
        looks = by is launch_cpp or (self.looks and batch.x.device.type == "cpu")  # the kernel goes where labels say
        pulls = [anchor[name] for layer in layers for name in (layer.weight, layer.bias) if name] if anchor else []
        plan = FusedSpec(
            layers,
            lr=given["lr"],
            momentum=given["momentum"],
            nesterov=given["nesterov"],
            decay=given["weight_decay"],
            pull=mu,
            workers=self.workers,
            run=self._side_by_side() if by is train_batched and looks else map,  # others have threads of their own
            by=by,
            looks=looks,
        )
        return plan, [batch.x, batch.y, batch.mask, task.real, *leaves, *pulls]

    def _layers(self, loss: Supervised, params: dict[str, Tensor], batch: Batch) -> list[DenseLayer]:
        x, shapes = batch.x, {name: p.shape for name, p in params.items()}
        if x.dtype not in CPP_KERNELS or any(t.dtype != x.dtype or t.device != x.device for t in params.values()):
            raise NotAnMLP(f"it is not in float32 or float64 on {x.device} throughout")
        if batch.y.ndim != 2 or batch.y.dtype != torch.int64:
            raise NotAnMLP("its targets are no class numbers")
        key = (loss.predict, tuple(shapes.items()), x.shape[2:], x.dtype)
        if key not in self._known:
            try:
                self._known[key] = trace_mlp(loss.predict, shapes, x.shape[2:], x.dtype)
            except NotAnMLP as reason:
                self._known[key] = str(reason)
        known = self._known[key]
        if isinstance(known, str):
            raise NotAnMLP(known)
        return known

    def _side_by_side(self) -> Callable[..., Iterable[Any]]:
        """map, in threads if there are to be any."""
        if self.workers > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers)
        return self._pool.map if self._pool else map

    def _by(self, device: torch.device) -> OptimizerSpec:
        """What computes on this device: no compiler is asked for before there is something to train by it."""
        if self.blocks or device.type == "cuda":
            return self._by_blocks
        if device.type != "cpu":
            return train_batched
        try:
            library(KERNEL)
        except InputError as reason:
            self._say_batched(reason)
            self.compiled = False  # nor is it tried again
            return train_batched
        return launch_cpp

    def _by_blocks(self, plan: FusedSpec, tensors: Sequence[Tensor], own: Sequence[bool]) -> list[Tensor]:
        """What is new to this machine is believed after it has given once what batched products give."""
        rates = plan.momentum > 0, plan.nesterov, plan.decay > 0, plan.pull is None
        kind = tuple(plan.layers), tensors[0].dtype, tensors[1].shape[2], tuple(own), rates
        try:
            if not self._right.get(kind, True):
                raise DoesNotFit("its kernel gave something else than batched products")
            found = launch_triton(plan, tensors, own)
            if kind in self._right or (tensors[0].is_cuda and torch.cuda.is_current_stream_capturing()):
                return found
            self._right[kind] = all(map(agrees_up_to_rounding, found, train_batched(plan, tensors, own)))
            return self._by_blocks(plan, tensors, own) if not self._right[kind] else found
        except DoesNotFit as reason:
            self._say_batched(reason)
            return train_batched(plan, tensors, own)

    def _say_batched(self, reason: Exception) -> None:
        if str(reason) not in self.batched:
            self.batched.add(str(reason))
            self.say(f"executor fused: {reason}; clients train batched instead")


def _taken_apart(objective: Objective) -> tuple[dict[str, Tensor] | None, float | None, Supervised]:
    """The anchor and the strength of a pull, and the loss without it."""
    anchor, mu = None, None
    if isinstance(objective, Proximal):
        near = objective
        if isinstance(near.mu, Tensor) or not _flat(near.anchor):
            raise NotAnMLP("its pull has a strength of its own for each client")
        objective, anchor, mu = near.objective, near.anchor, near.mu
    if not isinstance(objective, Supervised) or objective.loss is not cross_entropy:
        raise NotAnMLP("its objective is not the cross-entropy of a model's predictions")
    return anchor, mu, objective


def _flat(params: Any) -> bool:
    return isinstance(params, dict) and all(isinstance(p, Tensor) for p in params.values())


class _Train(torch.autograd.Function):
    """Local training as one operation, whose rule for vmap is handed all clients at once."""

    @staticmethod
    def forward(plan: FusedSpec, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x[0] for x in _trained(plan, [x[None] for x in tensors], [True] * len(tensors)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, plan: FusedSpec, *tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        c = info.batch_size
        moved = [x.movedim(d, 0) if d else x for x, d in zip(tensors, in_dims[1:], strict=True)]
        moved[:4] = [x.expand(c, *x.shape) if d is None else x for x, d in zip(moved[:4], in_dims[1:5], strict=True)]
        own = [True] * 4 + [d is not None for d in in_dims[5:]]
        ends = _trained(plan, moved, own)
        return tuple(ends), (0,) * len(ends)


def _trained(plan: FusedSpec, tensors: Sequence[Tensor], own: Sequence[bool]) -> list[Tensor]:
    """The weights of all clients after training, each [C, ...], and their losses [C].

    Args:
        tensors: x [C, K, B, ...], y and mask [C, K, B], real [C, K], then the start and perhaps the anchor of each
            leaf, [C, ...] where the client has its own, else [...].
        own: which tensors the clients have their own of.
    """
    tensors = [t.contiguous() for t in tensors]
    if plan.looks:
        _refuse_labels(tensors[1], plan.layers[-1].outputs)
    return plan.by(plan, tensors, own)


def _refuse_labels(y: Tensor, classes: int) -> None:
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise InputError(
            f"labels go from {int(y.min())} to {int(y.max())}, but the model has {classes} outputs: give it one for "
            "each class, and number classes from 0"
        )
