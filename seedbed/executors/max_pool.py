"""Max pooling over 2 × 2 windows on processors: bit for bit PyTorch's, in a small part of its time.

PyTorch's own goes through rows number by number, which takes as long as a convolution before it; and it keeps eight
bytes for each number that it gives, and this one byte. The kernel is compiled beside the first steps, which need not
wait for it, since all numbers are the same; where there is no compiler, PyTorch does it.

Shapes: [..., H, W] is pooled to [..., H//2, W//2].
"""

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seedbed.errors import InputError
from seedbed.executors.cpp_compiler import library, library_path
from seedbed.lowrank.factored_matrix import checkpoint_linear

SOURCE = "pooling.cpp"
POOL_KERNELS = {torch.float32: "float32", torch.float64: "float64"}
NARROW, SMALL = 4, 4096  # sides, and numbers in all, below which it is left to PyTorch


class MaxPoolSwitch(TorchFunctionMode):
    """Within, models pool by the kernel where they can."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return fast_max_pool(func)(*args, **(kwargs or {}))


def fast_max_pool(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function of PyTorch, or what does the same in less time."""
    return max_pool2d if func is F.max_pool2d or func is torch.max_pool2d else func


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """As PyTorch's."""
    asked = _pair(kernel_size), _pair(stride or 2), _pair(padding), _pair(dilation), ceil_mode, return_indices
    if asked == ((2, 2), (2, 2), (0, 0), (1, 1), False, False) and _suits(x) and _kernel.ready():
        return _Pool.apply(x)[0]  # type: ignore[no-untyped-call]
    return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)  # type: ignore[call-overload]


def _pair(size: Any) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _suits(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in POOL_KERNELS
        and x.ndim in (3, 4)
        and min(x.shape[-2:]) >= NARROW
        and x.numel() >= SMALL
        and (x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last))
        and not checkpoint_linear()
    )


class _Kernel:
    """The kernel, when it is there: the first who asks for it has it compiled in a thread beside."""

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        self._asked = 0  # by which process: of a fork, the thread is not

    def ready(self) -> bool:
        if self._library is None and self._asked != os.getpid():
            self._asked = os.getpid()
            if library_path(SOURCE).exists():
                self._make()
            else:
                threading.Thread(target=self._make, daemon=True).start()
        return self._library is not None

    def _make(self) -> None:
        with suppress(InputError):
            self._library = library(SOURCE)

    def __call__(self, what: str, x: Tensor, y: Tensor, places: Tensor) -> None:
        """pool, spread or take between planes and what is pooled of them."""
        planes, (height, width) = x[..., 0, 0].numel(), x.shape[-2:]
        where = (ctypes.c_void_p(t.data_ptr()) for t in (x, y, places))
        getattr(self._library, f"{what}_{POOL_KERNELS[x.dtype]}")(*where, *map(ctypes.c_int64, (planes, height, width)))


_kernel = _Kernel()


class _Pool(Function):
    """x [..., H, W] -> the largest number of each window, and its place there, 0 to 3."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-2], x.shape[-2] // 2, x.shape[-1] // 2)
        places = torch.empty_like(y, dtype=torch.uint8)
        _kernel("pool", x, y, places)
        return y, places

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.sides = inputs[0].shape[-2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return _Spread.apply(slopes[0], *ctx.saved_tensors, *ctx.sides)  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Any:
        return _Take.apply(tangents[0], *ctx.saved_tensors), None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return _Pool.apply(x.movedim(in_dims[0], 0)), (0, 0)  # type: ignore[no-untyped-call]


class _Spread(Function):
    """y [..., h, w] -> it at its places in [..., H, W], and 0 elsewhere: what `_Take` takes from there."""

    @staticmethod
    def forward(y: Tensor, places: Tensor, height: int, width: int) -> Tensor:
        new = y.new_zeros if height % 2 or width % 2 else y.new_empty  # what no window holds is not written
        x = new(*y.shape[:-2], height, width)
        _kernel("spread", x, y.contiguous(), places)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.sides = inputs[2:]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return _Take.apply(slopes[0], *ctx.saved_tensors), None, None, None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Spread.apply(tangents[0], *ctx.saved_tensors, *ctx.sides)  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, y: Tensor, places: Tensor, height: int, width: int) -> Any:
        both = _together(info.batch_size, in_dims, y, places)
        return _Spread.apply(*both, height, width), 0  # type: ignore[no-untyped-call]


class _Take(Function):
    """x [..., H, W] -> what it holds at the places, [..., h, w]."""

    @staticmethod
    def forward(x: Tensor, places: Tensor) -> Tensor:
        y = x.new_empty(places.shape)
        _kernel("take", x.contiguous(), y, places)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.sides = inputs[0].shape[-2:]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return _Spread.apply(slopes[0], *ctx.saved_tensors, *ctx.sides), None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Take.apply(tangents[0], *ctx.saved_tensors)  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, places: Tensor) -> Any:
        return _Take.apply(*_together(info.batch_size, in_dims, x, places)), 0  # type: ignore[no-untyped-call]


def _together(count: int, dims: Any, *tensors: Tensor) -> list[Tensor]:
    """Each with so many in its first dimension."""
    pairs = zip(tensors, dims, strict=False)
    return [(t.expand(count, *t.shape) if d is None else t.movedim(d, 0)).contiguous() for t, d in pairs]
