"""The processes of one run: `torchrun --nproc-per-node N -m seedbed run ...` starts them, each with a rank.

What they tell each other are bytes and sums; between machines it goes over TCP (gloo), or between GPUs as nccl likes.
"""

import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from seedbed.errors import InputError

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun says
MEETING = "seedbed meets at"


class ProcessGroup(Protocol):
    """The ranks of a run, seen from one of them. Every rank must make the same calls in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, data: bytes) -> Sequence[bytes]:
        """Everybody's bytes, in order of ranks."""
        ...

    def add(self, numbers: Tensor) -> None:
        """In place: the sum over the ranks."""
        ...


class SingleProcess:
    """A process by itself."""

    rank, size = 0, 1

    def gather(self, data: bytes) -> Sequence[bytes]:
        return [data]

    def add(self, numbers: Tensor) -> None:
        """The sum over one."""


class JoinedProcesses:
    """The ranks that torch.distributed has joined."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def gather(self, data: bytes) -> Sequence[bytes]:
        with _said(self.rank):
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(lengths, torch.tensor([len(data)]))
            longest = max(1, *(int(n) for n in lengths))
            mine = torch.frombuffer(bytearray(data.ljust(longest, b"\0")), dtype=torch.uint8)
            found = [torch.empty_like(mine) for _ in range(self.size)]
            dist.all_gather(found, mine)
            return [bytes(x[: int(n)].numpy()) for x, n in zip(found, lengths, strict=True)]

    def add(self, numbers: Tensor) -> None:
        with _said(self.rank):
            dist.all_reduce(numbers)


def current_group() -> ProcessGroup:
    """The ranks that this process has joined, or it alone."""
    return JoinedProcesses() if dist.is_available() and dist.is_initialized() else SingleProcess()


def is_torchrun() -> bool:
    """Whether torchrun (or what sets the same variables) has started this process."""
    return all(name in os.environ for name in LAUNCHED)


def broadcast_flag(flag: bool) -> bool:
    """What rank 0 says: for what depends on a clock."""
    ranks = current_group()
    return flag if ranks.size == 1 else bool(ranks.gather(b"yes" if flag else b"")[0])


def local_world_size() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_torchrun() else 1


@contextmanager
def init_group() -> Iterator[ProcessGroup]:
    """Inside, this process and the others that torchrun has started are ranks of one run; elsewhere it is alone.

    Raises:
        InputError: the others cannot be reached.
    """
    if not is_torchrun():
        yield SingleProcess()
        return
    gpu = torch.cuda.is_available() and dist.is_nccl_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    with _said(int(os.environ["RANK"])):
        store, rank, size = next(rendezvous("env://"))
        met = PrefixStore(_meeting(store, rank, size), store)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=met, rank=rank, world_size=size)
    try:
        yield JoinedProcesses()
    finally:
        dist.destroy_process_group()


def _meeting(store: Any, rank: int, size: int) -> str:
    """A name that these ranks alone have agreed on.

    After a restart torchrun hands out the same store, with what ranks that are gone have left in it. So rank 0 makes a
    name up, each rank leaves a word of its own under it, and whoever reads back its own word has met the others.
    """
    mine = secrets.token_hex(8)
    if rank == 0:
        store.set(MEETING, mine)
        words = [store.get(f"{mine}/{other}").decode() for other in range(1, size)]
        store.set(f"{mine}/met", " ".join(words))
        return mine
    while True:
        name = str(store.get(MEETING), "utf-8")
        store.set(f"{name}/{rank}", mine)
        if store.check([f"{name}/met"]) and mine in store.get(f"{name}/met").decode().split():
            return name
        time.sleep(0.05)  # not all are there, or it is a name of ranks that are gone


@contextmanager
def _said(rank: int) -> Iterator[None]:
    """What the network says of a rank that is gone, in a line."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[[^]]*\] ", "", str(error).strip().splitlines()[0]).partition(". ")[0]
        raise InputError(
            f"rank {rank} has lost another rank ({reason}), which may have said why; the same command goes on from the "
            "last checkpoint"
        ) from error
