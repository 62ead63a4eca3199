"""The kernel for GPUs is called: one launch trains all clients of a chunk, for all their steps.

It takes what a multiprocessor's registers hold. The limits below are those up to which the compiler leaves nearly
everything there: `scripts/prove blocks` compiles models at the limits, and reads what it has made of them.

Shapes: C clients, K steps, B examples of a batch, I and O the sides of a layer.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed.data.row_references import RowReferences
from seedbed.executors.fused.mlp_tracer import DenseLayer
from seedbed.executors.fused.spec import FusedSpec

MIN_TILE = 16  # the side of the smallest tile that can be multiplied
INPUT, HIDDEN, LAST = 32, 64, 128  # the longest side of a tile: of a batch's inputs, of what layers give, and the last
OLDEST = {torch.float32: (3, 4), torch.float64: (3, 8)}  # versions of Triton that multiply in these, in registers
CAPABILITY = (8, 0)  # of the GPU
MAX_WEIGHTS = {torch.float32: 16640, torch.float64: 5200}  # weights that a block holds, with their velocities
MAX_BATCH = 64  # examples of a batch
BUSIEST = {torch.float32: 196608, torch.float64: 83200}  # what it holds times examples, of more than LEAST
FEW_WARPS_WORK = 2048 * MIN_TILE  # weights times examples up to which four warps are enough


class TileSpec(NamedTuple):
    """What the kernel is compiled for, in tiles."""

    leaves: tuple[tuple[int, ...], ...]  # of each: height, width, a tile's height and width, tiles down and across
    layers: tuple[tuple[int, int, int], ...]  # of each: which leaf is the weight, which the bias (-1: none), activation
    batch: int  # examples, filled up
    warps: int

    @property
    def weights(self) -> int:
        """How many there are, biases too, filled up."""
        return sum(h * w * down * across for _, _, h, w, down, across in self.leaves)


class DoesNotFit(Exception):
    """It cannot be trained by blocks, here; why."""


def tile_spec(layers: Sequence[DenseLayer], batch: int) -> TileSpec:
    """The tiles of a model's leaves, and of B examples.

    >>> shape = tile_spec([DenseLayer("w", "b", 60, 64, 1), DenseLayer("v", None, 64, 10, 0)], 10)
    >>> shape.leaves
    ((64, 60, 64, 32, 1, 2), (1, 64, 1, 64, 1, 1), (10, 64, 16, 64, 1, 1))
    >>> shape.layers, shape.batch, shape.warps
    (((0, 1, 1), (2, -1, 0)), 16, 8)
    """
    leaves, places = list[tuple[int, ...]](), list[tuple[int, int, int]]()
    across = min(INPUT, _whole(layers[0].inputs))
    for layer in layers:
        down = min(LAST if layer is layers[-1] else HIDDEN, _whole(layer.outputs))
        bias = len(leaves) + 1 if layer.bias else -1
        places.append((len(leaves), bias, layer.activation))
        counts = -(-layer.outputs // down), -(-layer.inputs // across)
        leaves.append((layer.outputs, layer.inputs, down, across, *counts))
        if layer.bias:
            leaves.append((1, layer.outputs, 1, down, 1, counts[0]))
        across = down
    found = TileSpec(tuple(leaves), tuple(places), _whole(batch), 8)
    return found if found.weights * found.batch > FEW_WARPS_WORK else found._replace(warps=4)


def _whole(n: int) -> int:
    """The least power of two from n and LEAST on."""
    return max(MIN_TILE, 1 << max(0, n - 1).bit_length())


def launch_triton(plan: FusedSpec, tensors: Sequence[Tensor], own: Sequence[bool]) -> list[Tensor]:
    """What clients have after training, and their losses: see `fused._trained`.

    Nothing is waited for: a label that is no class makes its client's loss and weights NaN.

    Raises:
        Unfit: the model is too large, or there is no Triton or no GPU for it.
    """
    x, y, mask, real, *leaves = tensors
    clients, steps, batch = y.shape
    start, anchor = leaves[: plan.leaves], leaves[plan.leaves :]
    shape = tile_spec(plan.layers, batch)
    reason = missing_requirements(start[0].dtype, x.device) or too_large(
        shape, start[0].dtype, momentum=bool(plan.momentum)
    )
    if reason is not None:
        raise DoesNotFit(reason)
    ends = [p.new_empty(clients, *(p.shape[1:] if o else p.shape)) for p, o in zip(start, own[4:], strict=False)]
    x, losses = x.read() if isinstance(x, RowReferences) else x, start[0].new_empty(clients)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        _launch(
            clients,
            shape,
            *(x, y, mask, real, tuple(start), tuple(anchor or start), tuple(ends), losses),
            *(steps, batch, plan.lr, plan.momentum, plan.decay, plan.pull or 0.0),
            OWN_STARTS=_numbers(own[4 : 4 + len(start)]),
            OWN_ANCHORS=_numbers(own[4 + len(start) :]) if anchor else (0,) * len(start),
            MOMENTUM=bool(plan.momentum),
            NESTEROV=plan.nesterov,
            DECAYED=bool(plan.decay),
            PULLED=plan.pull is not None,
            PRECISION="tf32" if start[0].dtype == torch.float32 and _tf32() else "ieee",
        )
    return [*ends, losses]


def _numbers(values: Sequence[bool]) -> tuple[int, ...]:
    return tuple(map(int, values))


def _launch(clients: int, shape: TileSpec, *arguments: Any, **settings: Any) -> None:
    """One block for each client; a model that Triton could not compile once is not tried again."""
    from triton.errors import TritonError

    from seedbed.executors.fused.triton_kernel import train_kernel

    what = shape, arguments[0].dtype, *settings.values()
    if what in _failed:
        raise DoesNotFit(_failed[what])
    known = {"LEAVES": shape.leaves, "LAYERS": shape.layers, "BATCH": shape.batch}
    try:
        train_kernel[(clients,)](*arguments, **known, **settings, **options(shape))
    except (TritonError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        if is_interpreted():
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _failed[what] = f"Triton cannot run its kernel here ({said})"
        raise DoesNotFit(_failed[what]) from error


_failed: dict[Any, str] = {}


def options(shape: TileSpec) -> dict[str, Any]:
    """How Triton compiles the kernel."""
    return {"num_warps": shape.warps, "num_stages": 1, "enable_fp_fusion": True}


def too_large(shape: TileSpec, dtype: torch.dtype, *, momentum: bool) -> str | None:
    """Why a model does not fit into a multiprocessor's registers; None: it does."""
    held = shape.weights * (1 + momentum)
    if held > MAX_WEIGHTS[dtype]:
        what = "weights and velocities" if momentum else "weights"
        return (
            f"its {what}, {held:,} numbers in tiles, are more than the {MAX_WEIGHTS[dtype]:,} that a GPU's block holds"
        )
    if shape.leaves[shape.layers[-1][0]][0] > LAST:
        return f"its {shape.leaves[shape.layers[-1][0]][0]} outputs are more than the {LAST} of a GPU's block"
    if shape.batch > MAX_BATCH or (shape.batch > MIN_TILE and held * shape.batch > BUSIEST[dtype]):
        return f"a batch of {shape.batch} examples in tiles is too much for a GPU's block that holds {held:,} numbers"
    return None


def missing_requirements(dtype: torch.dtype, device: torch.device) -> str | None:
    """What there is not, so that no block can train on this device; None: nothing."""
    version = triton_version()
    if version is None:
        return "there is no Triton (pip install triton)"
    if version < OLDEST[dtype]:
        found, oldest = (".".join(map(str, v)) for v in (version, OLDEST[dtype]))
        return f"blocks in {str(dtype).removeprefix('torch.')} take Triton {oldest} or later, not {found}"
    if device.type == "cpu":
        return None if is_interpreted() else "blocks are for GPUs: on a CPU set TRITON_INTERPRET=1 before Python starts"
    return _lacking_on(device)


@functools.cache
def _lacking_on(device: torch.device) -> str | None:
    if device.type != "cuda" or torch.version.hip is not None:
        return f"blocks are for NVIDIA GPUs, not for device={str(device)!r}"
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        return f"the GPU is of compute capability {found[0]}.{found[1]}: blocks take {CAPABILITY[0]}.{CAPABILITY[1]}"
    if not any(name and shutil.which(name) for name in (os.environ.get("CC"), "clang", "gcc")):
        return "there is no C compiler, by which Triton calls what it has made (clang, gcc): install one, or set CC"
    return None


@functools.cache
def triton_version() -> tuple[int, int] | None:
    """Of the Triton that there is; None: there is none."""
    try:
        from triton import __version__  # here, for it takes a second
    except ImportError:
        return None
    major, minor = __version__.split(".")[:2]
    return int(major), int(minor)


def is_interpreted() -> bool:
    """Whether Triton computes on the CPU, number by number: slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _tf32() -> bool:
    """Whether PyTorch is told to multiply in TF32 on a GPU."""
    backend: Any = torch.backends.cuda.matmul
    if hasattr(torch.backends.cudnn, "conv"):  # PyTorch 2.9 and later
        return bool(backend.fp32_precision == "tf32")
    return bool(backend.allow_tf32)
