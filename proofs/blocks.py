"""the kernel for GPUs, without one: 95 law rows in Triton's interpreter, and what is left in registers (3 minutes)"""

import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from seedbed.executors.fused import triton_launch
from seedbed.executors.fused.mlp_tracer import NONE, RELU, DenseLayer

ROOT = Path(__file__).parents[1]
CHIPS = (80, 90)
SPILLED, SHARED = 400, 99 * 1024  # bytes: of a thread, and of a block on the smallest of these chips
KINDS = {torch.float32: "fp32", torch.float64: "fp64"}
SIZES: dict[torch.dtype, list[tuple[tuple[int, ...], int]]] = {  # models and batches, most of them near a limit
    torch.float32: [
        ((60, 64, 10), 10),
        ((4, 8, 3), 4),
        ((784, 10), 10),
        ((128, 128), 10),
        ((64, 62), 10),
        ((200, 50, 10), 10),
        ((64, 128, 10), 10),
        ((64, 64, 64, 64), 10),
        ((32,) * 8 + (10,), 10),
        ((60, 64, 10), 32),
        ((34, 41, 56), 32),
        ((48, 92), 10),
        ((42, 100, 54), 10),
        ((60, 10), 64),
        ((20, 16, 10), 64),
    ],
    torch.float64: [
        ((60, 64, 10), 10),
        ((60, 16, 10), 10),
        ((4, 8, 3), 64),
        ((300, 10), 10),
        ((20, 10), 64),
    ],
}


class Made(NamedTuple):
    """What the compiler made of a model."""

    registers: int  # of a thread
    spilled: int  # bytes of a thread that are not in registers
    shared: int  # bytes of a block
    seconds: float


def dense(sizes: tuple[int, ...]) -> list[DenseLayer]:
    last = len(sizes) - 2
    return [DenseLayer(f"w{i}", f"b{i}", n, m, NONE if i == last else RELU) for i, (n, m) in enumerate(pairwise(sizes))]


class Chip:
    """What Triton asks of a GPU before it launches a kernel."""

    def __init__(self, number: int):
        from triton.backends.compiler import GPUTarget

        self.number, self.target = number, GPUTarget("cuda", number, 32)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return self.number

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(shape: triton_launch.TileSpec, dtype: torch.dtype, chip: int, *, everything: bool) -> Made:
    """The kernel as it would be called on a chip that is not there, for SGD alone or with everything beside it."""
    from triton.runtime import driver

    from seedbed.executors.fused.triton_kernel import train_kernel

    clients, steps, batch, inputs = 2, 3, shape.batch, shape.leaves[0][1]
    x, y = (
        torch.zeros(clients, steps, batch, inputs, dtype=dtype),
        torch.zeros(clients, steps, batch, dtype=torch.int64),
    )
    start = tuple(torch.zeros(height, width, dtype=dtype) for height, width, *_ in shape.leaves)
    ends = tuple(torch.zeros(clients, *leaf.shape, dtype=dtype) for leaf in start)
    driver.set_active(Chip(chip))
    began = time.perf_counter()
    made = train_kernel.warmup(
        *(x, y, x[..., 0].clone(), x[:, :, 0, 0].clone(), start, start, ends, x[:, 0, 0, 0].clone()),
        *(steps, batch, 0.1, 0.9, 0.01, 0.5),
        **{"LEAVES": shape.leaves, "LAYERS": shape.layers, "BATCH": shape.batch, "PRECISION": "ieee"},
        **dict.fromkeys(("OWN_STARTS", "OWN_ANCHORS"), (0,) * len(start)),
        **dict.fromkeys(("MOMENTUM", "NESTEROV", "DECAYED", "PULLED"), everything),
        **triton_launch.options(shape),
        grid=(clients,),
    )
    seconds = time.perf_counter() - began
    registers, stack = used(made.asm["cubin"])
    return Made(registers, stack, made.metadata.shared, seconds)


def used(code: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout)
    assert found is not None, said.stdout
    return int(found[1]), int(found[2])


def table() -> list[Made]:
    """Compile every model that is not refused, and say what came out."""
    found = []
    print(
        f"{'model, batch':50}{'':6}{'chip':>5}{'warps':>6}{'registers':>10}{'spilled B':>10}{'shared KB':>10}{'s':>6}"
    )
    for dtype, cases in SIZES.items():
        for sizes, batch in cases:
            shape = triton_launch.tile_spec(dense(sizes), batch)
            for everything in (False, True):
                name = f"{'-'.join(map(str, sizes))}, {batch}{', momentum, pull, decay' if everything else ''}"
                reason = triton_launch.too_large(shape, dtype, momentum=everything)
                if reason is not None:
                    print(f"{name:50}{KINDS[dtype]:6} refused: {reason}")
                    continue
                for chip in CHIPS:
                    made = compiled(shape, dtype, chip, everything=everything)
                    found.append(made)
                    numbers = f"{made.registers:>10}{made.spilled:>10}{made.shared / 1024:>10.1f}{made.seconds:>6.1f}"
                    print(f"{name:50}{KINDS[dtype]:6}sm_{chip}{shape.warps:>6}{numbers}", flush=True)
    return found


def passed(*words: str) -> int:
    """How many tests pass in Triton's interpreter; 0: not all."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    print(done.stdout, flush=True)
    found = re.search(r"(\d+) passed", done.stdout)
    return int(found[1]) if found and done.returncode == 0 else 0


def main() -> int:
    if triton_launch.triton_version() is None:
        print("blocks: there is no Triton: pip install triton")
        return 1
    os.environ.pop("TRITON_INTERPRET", None)
    agree = passed("-v", "tests/agreement/test_laws.py", "-k", "executors")
    tests = passed("-v", "tests/engines/test_blocks.py")
    made = table()
    spilled, shared = max(m.spilled for m in made), max(m.shared for m in made)
    good = agree > 0 and tests > 0 and spilled <= SPILLED and shared <= SHARED
    version = ".".join(map(str, triton_launch.triton_version() or ()))
    print(
        f"Triton {version}: {agree} rows of the law table by blocks to 1e-12; {len(made)} kernels for sm_80 and sm_90 "
        f"keep all but {spilled} bytes of a thread in registers, in {shared / 1024:.0f} KB: "
        f"{'holds' if good else 'FALLS SHORT'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
