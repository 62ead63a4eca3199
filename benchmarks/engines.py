"""The vectorised engine against one client after another, and both against a plain PyTorch loop.

FedAvg on a multilayer perceptron 60-64-10: every client takes 20 steps of batch 10 in a round (FAST.md,
workload a). All contestants do the same rounds on the same batches, in turn, in this one process; what counts is
the ratio of their median times, because seconds depend on what else the machine does.

    plain loop             nn.Module, loss.backward(), torch.optim.SGD: what one writes without a library
    one_by_one             the reference engine
    one_by_one, 2 workers  the same in two threads
    vectorised             all clients at once

Bands: vectorised ≥ 5 × one_by_one on 30 clients, and the same parameters to 1e-6 in float32 after the rounds
that were timed.

    python benchmarks/engines.py
    python benchmarks/engines.py --clients 30 --rounds 11
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from figures import Figure, arguments, progress, report
from rich.progress import Progress
from torch import nn
from torch.nn import functional as F

from seedbed import randomness, tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, TaskSource, batches
from seedbed.engines import OneByOne, Vectorised
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model, mlp
from seedbed.rounds import synchronous

FEATURES, HIDDEN, CLASSES = 60, 64, 10
STEPS, BATCH, EXAMPLES = 20, 10, 200
LR = 0.1
JUDGED = 30  # the number of clients that the bands are for
RATIO, DIFFERENCE = 5.0, 1e-6

Params = dict[str, torch.Tensor]


class Timed(NamedTuple):
    seconds: dict[str, list[float]]  # of each round, by contestant
    params: dict[str, Params]  # after the last round


def population(clients: int, seed: int) -> Population:
    """Every client's x ~ N(u, I) with a mean u of its own, and labels by one linear rule."""
    rng = randomness.generator(seed, "engines benchmark")
    means = rng.standard_normal((clients, 1, FEATURES))
    x = (means + rng.standard_normal((clients, EXAMPLES, FEATURES))).reshape(-1, FEATURES)
    y = (x @ rng.standard_normal((FEATURES, CLASSES))).argmax(1)
    names = np.repeat([f"client {c}" for c in range(clients)], EXAMPLES)
    return Population.from_arrays(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y), names)


def plain_loop(module: nn.Module, source: TaskSource) -> Iterator[Params]:
    """FedAvg as one writes it by hand; all clients have as many examples, so the mean is plain.

    The batches of a round are gathered for all clients in one go, which favours this loop over one_by_one.
    """
    shared = {n: p.detach().clone() for n, p in module.named_parameters()}
    worker, number = copy.deepcopy(module), 0
    parameters = dict(worker.named_parameters())
    while True:
        tasks = source.tasks(source.clients, number)
        total = {n: torch.zeros_like(p) for n, p in shared.items()}
        for c in range(len(source.clients)):
            worker.load_state_dict(shared)
            optimizer = torch.optim.SGD(worker.parameters(), lr=LR)
            for x, y in zip(tasks.items.x[c], tasks.items.y[c], strict=True):
                optimizer.zero_grad()
                F.cross_entropy(worker(x), y).backward()
                optimizer.step()
            for n, p in parameters.items():
                total[n] += p.detach()
        shared = {n: p / len(source.clients) for n, p in total.items()}
        number += 1
        yield shared


def contestants(clients: int, seed: int) -> dict[str, Iterator[Params]]:
    source = Sampled(population(clients, seed), batches(BATCH, steps=STEPS), seed=seed)
    with randomness.seeded_init(seed):
        module = mlp((FEATURES,), CLASSES, hidden=(HIDDEN,))
    model = Model(module)
    algorithm = fedavg(supervised(model.predict, cross_entropy), local=sgd(LR))
    engines = {
        "one_by_one": OneByOne(source),
        "one_by_one, 2 workers": OneByOne(source, workers=2),
        "vectorised": Vectorised(source),
    }

    def params(engine: OneByOne) -> Iterator[Params]:
        for round in synchronous(algorithm, engine, algorithm.init(model.params), seed=seed):
            yield round.state.params

    return {"plain loop": plain_loop(module, source)} | {name: params(e) for name, e in engines.items()}


def race(clients: int, settings: argparse.Namespace, bar: Progress) -> Timed:
    """One round of each in turn, so that what else the machine does falls on all; a first round warms up."""
    rivals = contestants(clients, settings.seed)
    timed = Timed({name: [] for name in rivals}, {})
    for number in bar.track(range(settings.rounds + 1), description=f"{clients} clients"):
        for name, rounds in rivals.items():
            began = time.perf_counter()
            timed.params[name] = next(rounds)
            if number:
                timed.seconds[name].append(time.perf_counter() - began)
    return timed


def figures(clients: int, timed: Timed) -> list[Figure]:
    median = {name: statistics.median(seconds) for name, seconds in timed.seconds.items()}
    judged = clients == JUDGED
    rows = [Figure(f"{clients} clients: {name}, steps/s", clients * STEPS / m, digits=4) for name, m in median.items()]
    for name in ("one_by_one", "one_by_one, 2 workers", "plain loop"):
        rows.append(
            Figure(
                f"{clients} clients: vectorised is faster than {name}, times",
                median[name] / median["vectorised"],
                at_least=RATIO if judged and name == "one_by_one" else None,
            )
        )
    rows.append(
        Figure(
            f"{clients} clients: one_by_one's time over plain loop's",
            median["one_by_one"] / median["plain loop"],
        )
    )
    for name in ("one_by_one", "one_by_one, 2 workers", "plain loop"):
        pair = (timed.params["vectorised"], timed.params[name])
        apart = max(float((a - b).abs().max()) for a, b in zip(*map(tree.leaves, pair), strict=True))
        bound = DIFFERENCE if judged and name != "plain loop" else None
        rows.append(Figure(f"{clients} clients: largest difference to {name}", apart, at_most=bound))
    return rows


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--clients", type=int, nargs="+", default=[JUDGED, 100], help=f"of a round; {JUDGED} is judged")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each contestant, after one more")
    parser.add_argument("--seed", type=int, default=0, help="of data, first weights and batches")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    with progress() as bar:
        rows = [row for clients in settings.clients for row in figures(clients, race(clients, settings, bar))]
    title = f"FedAvg, MLP {FEATURES}-{HIDDEN}-{CLASSES}, {STEPS} steps of batch {BATCH}, {settings.rounds} rounds"
    return report(title, rows, settings=settings, began=began)


if __name__ == "__main__":
    sys.exit(main())
