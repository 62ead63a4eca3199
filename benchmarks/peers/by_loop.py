"""A plain PyTorch loop, without a library: the yardstick. `by_loop.py WORK PROCESSES`.

With two processes each has half of the clients, and their sums meet in shared memory. MAML is a functional loop.
"""

import sys
from typing import Any

import torch
import torch.multiprocessing as mp
from modules import batches, module, train
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from turns import Turns, Work, read

Shared = dict[str, Tensor]


def fedavg(worker: nn.Module, data: list[list[tuple[Tensor, Tensor]]], lr: float, shared: Shared) -> Shared:
    """The sum over these clients of what they end with."""
    own = dict(worker.named_parameters())
    total = {n: torch.zeros_like(p) for n, p in shared.items()}
    for steps in data:
        worker.load_state_dict(shared)
        train(worker, steps, lr)
        for n, p in own.items():
            total[n] += p.detach()
    return total


def maml(worker: nn.Module, episodes: list[tuple[Tensor, ...]], inner_lr: float, shared: Shared) -> Shared:
    """The sum over these episodes of the exact meta-gradient; one inner step."""
    start = {n: p.clone().requires_grad_() for n, p in shared.items()}
    total = {n: torch.zeros_like(p) for n, p in shared.items()}
    for x, y, query_x, query_y in episodes:
        loss = F.cross_entropy(functional_call(worker, start, (x,)), y)
        slopes = torch.autograd.grad(loss, list(start.values()), create_graph=True)
        fast = {n: p - inner_lr * g for (n, p), g in zip(start.items(), slopes, strict=True)}
        found = F.cross_entropy(functional_call(worker, fast, (query_x,)), query_y)
        for n, g in zip(start, torch.autograd.grad(found, list(start.values())), strict=True):
            total[n] += g
    return total


class Part:
    """The clients from `first` on, every `stride`-th."""

    def __init__(self, work: Work, first: int, stride: int):
        self.work, self.module = work, module(work)
        clients = range(first, work.clients, stride)
        if work.query_x is None:
            self.data: list[Any] = [batches(work, c) for c in clients]
        else:
            arrays = [torch.as_tensor(a) for a in (work.x, work.y, work.query_x, work.query_y)]
            self.data = [tuple(a[c, k] for a in arrays) for c in clients for k in range(work.y.shape[1])]

    def sum(self, shared: Shared) -> Shared:
        if self.work.query_x is None:
            return fedavg(self.module, self.data, self.work.lr, shared)
        return maml(self.module, self.data, self.work.inner_lr, shared)


def second(path: str, shared: Shared, total: Shared, pipe: Any) -> None:
    """The other process: sums its half whenever it is told to."""
    part = Part(read(path), 1, 2)
    while pipe.recv():
        for n, p in part.sum(shared).items():
            total[n].copy_(p)
        pipe.send(True)


def main() -> None:
    turns, processes = Turns(), int(sys.argv[2])
    work = turns.work
    mine = Part(work, 0, processes)
    shared = {n: torch.as_tensor(p).clone().share_memory_() for n, p in work.params.items()}
    theirs = {n: torch.zeros_like(p).share_memory_() for n, p in shared.items()}
    pipe, far = mp.Pipe()
    if processes == 2:
        mp.get_context("spawn").Process(target=second, args=(sys.argv[1], shared, theirs, far), daemon=True).start()
    while turns.wait(lambda: {n: p.numpy() for n, p in shared.items()}):
        if processes == 2:
            pipe.send(True)
        total = mine.sum(shared)
        if processes == 2:
            pipe.recv()
        for n, p in shared.items():
            whole = total[n] + theirs[n]
            if work.query_x is None:
                p.copy_(whole / work.clients)
            else:
                p.sub_(work.lr * whole / (work.y.shape[0] * work.y.shape[1]))


if __name__ == "__main__":
    main()
