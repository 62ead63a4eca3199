"""In what precision products are computed: what one has chosen, never a default of the device.

Weights, sums and losses are in single precision whatever is chosen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from seedbed.errors import InputError

Precision = Literal["float32", "tf32", "bf16"]


def set_precision(precision: Precision, device: torch.device) -> None:
    """Have a GPU multiply in this precision: PyTorch's own default is TF32 in convolutions.

    Raises:
        InputError: tf32 is asked for on another device.
    """
    if precision == "tf32" and device.type != "cuda":
        raise InputError(
            f"precision='tf32' is for NVIDIA GPUs, not for device={str(device)!r}: use bf16, or leave it out"
        )
    if device.type != "cuda":
        return
    backends: Any = torch.backends
    if hasattr(backends.cudnn, "conv"):  # PyTorch 2.9 and later
        found = "tf32" if precision == "tf32" else "ieee"
        for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
            part.fp32_precision = found
    else:
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def matmul_precision(precision: Precision, x: Tensor) -> Iterator[None]:
    """Within, layers multiply in this precision, on the device of x."""
    if precision != "bf16":
        yield
        return
    with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
        yield
