"""Plain PyTorch training loops, as one would write them without a library: the baseline.

All clients' batches are gathered before the clock starts, which favours these loops.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from seedbed import tree
from seedbed.bench.workloads import INNER_LR, LR, Workload
from seedbed.data.sampling import Sampled
from seedbed.data.types import Task

Params = dict[str, Tensor]


def plain_loop(workload: Workload, device: torch.device | str = "cpu") -> Iterator[tuple[Params, Task]]:
    """Yield the shared parameters and the next round's tasks; the first yield is before training."""
    module, source = workload.model().module.to(device), workload.source()
    return (_maml if workload.meta else _fedavg)(module, source)


def _fedavg(module: nn.Module, source: Sampled) -> Iterator[tuple[Params, Task]]:
    worker = copy.deepcopy(module)
    own = dict(worker.named_parameters())
    shared, number = {n: p.detach().clone() for n, p in own.items()}, 0
    while True:
        tasks = tree.to_device_of(source.tasks(source.clients, number), shared)
        yield shared, tasks
        total = {n: torch.zeros_like(p) for n, p in shared.items()}
        for xs, ys in zip(tasks.items.x, tasks.items.y, strict=True):
            worker.load_state_dict(shared)
            optimizer = torch.optim.SGD(worker.parameters(), lr=LR)
            for x, y in zip(xs, ys, strict=True):
                optimizer.zero_grad()
                F.cross_entropy(worker(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            for n, p in own.items():
                total[n] += p.detach()
        shared = {n: p / len(tasks.real) for n, p in total.items()}
        number += 1


def _maml(module: nn.Module, source: Sampled) -> Iterator[tuple[Params, Task]]:
    """Second-order MAML with one inner step; the outer step is SGD on the mean over all episodes."""
    worker = copy.deepcopy(module)
    shared, number = {n: p.detach().clone().requires_grad_() for n, p in worker.named_parameters()}, 0
    while True:
        tasks = tree.to_device_of(source.tasks(source.clients, number), shared)
        yield {n: p.detach() for n, p in shared.items()}, tasks
        support, query = tasks.items
        total = {n: torch.zeros_like(p) for n, p in shared.items()}
        clients, episodes = tasks.real.shape
        for c in range(clients):
            for k in range(episodes):
                loss = F.cross_entropy(functional_call(worker, shared, (support.x[c, k],)), support.y[c, k])
                steps = torch.autograd.grad(loss, list(shared.values()), create_graph=True)
                fast = {n: p - INNER_LR * g for (n, p), g in zip(shared.items(), steps, strict=True)}
                outer = F.cross_entropy(functional_call(worker, fast, (query.x[c, k],)), query.y[c, k])
                for n, g in zip(shared, torch.autograd.grad(outer, list(shared.values())), strict=True):
                    total[n] += g
        with torch.no_grad():
            for n, p in shared.items():
                p -= LR * total[n] / (clients * episodes)
        number += 1
