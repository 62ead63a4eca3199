"""The kernel is called: what it is told, and where the numbers lie.

Shapes: C clients, K steps, B examples of a batch.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seedbed.data.row_references import RowReferences
from seedbed.executors.cpp_compiler import library
from seedbed.executors.fused.spec import FusedSpec

KERNEL = "fused/kernel.cpp"
CPP_KERNELS = {torch.float32: "train_float32", torch.float64: "train_float64"}

SIZES = ("layers", "clients", "steps", "batch")
JOB_FIELDS = (
    *("sizes", "activations", "x", "rows", "y", "mask", "real"),
    *("starts", "anchors", "own_start", "own_anchor", "ends", "losses"),
)
RATES = ("lr", "momentum", "decay", "pull")


class _Job(ctypes.Structure):
    """`Job` in kernel.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_void_p) for name in JOB_FIELDS),
        *((name, ctypes.c_double) for name in RATES),
        ("nesterov", ctypes.c_int64),
    )


def launch_cpp(plan: FusedSpec, tensors: Sequence[Tensor], own: Sequence[bool]) -> list[Tensor]:
    """What clients have after training, and their losses: see `fused._trained`."""
    x, y, mask, real, *leaves = tensors
    clients, steps, batch = y.shape
    start, anchor = leaves[: plan.leaves], leaves[plan.leaves :]
    ends = [mask.new_empty(clients, *(p.shape[1:] if o else p.shape)) for p, o in zip(start, own[4:], strict=False)]
    losses = mask.new_empty(clients)
    owned = own[4 + len(start) :]
    arrays = [
        _numbers([plan.layers[0].inputs, *(layer.outputs for layer in plan.layers)]),
        _numbers([layer.activation for layer in plan.layers]),
        *((x.table.data_ptr(), x.places.data_ptr()) if isinstance(x, RowReferences) else (x.data_ptr(), None)),
        *(t.data_ptr() for t in (y, mask, real)),
        _places(plan, start),
        _places(plan, anchor) if plan.pull is not None else None,
        _numbers(_spread(plan, own[4 : 4 + len(start)])),
        _numbers(_spread(plan, owned)) if plan.pull is not None else None,
        _places(plan, ends),
        losses.data_ptr(),
    ]
    said = [ctypes.cast(a, ctypes.c_void_p) if isinstance(a, ctypes.Array) else a for a in arrays]
    rates = (plan.lr, plan.momentum, plan.decay, plan.pull or 0.0, int(plan.nesterov))
    job = _Job(len(plan.layers), clients, steps, batch, *said, *rates)
    if getattr(library(KERNEL), CPP_KERNELS[x.dtype])(ctypes.byref(job), ctypes.c_int64(plan.workers)):
        raise MemoryError("there is no memory for the fused kernel: use the executor stacked")
    return [*ends, losses]


def _spread(plan: FusedSpec, values: Sequence[Any]) -> list[Any]:
    """Values of leaves as two for each layer, 0 for a bias that it does not have."""
    left = iter(values)
    return [value for layer in plan.layers for value in (next(left), next(left) if layer.bias else 0)]


def _numbers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _places(plan: FusedSpec, leaves: Sequence[Tensor]) -> Any:
    places = _spread(plan, [leaf.data_ptr() for leaf in leaves])
    return (ctypes.c_void_p * len(places))(*places)
