"""What the proofs of robustness share: 25 clients unlike one another, some of which attack, and one run of FedAvg.

MNIST (of SEEDBED_DATA) in 14×14 pixels, 8,000 images dealt by Dirichlet(0.5), judged on 4,000 others: on all of them by
the model as it is, and dealt likewise to 25 unseen clients after each has adapted the model to 20 of its own.
"""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from inspect import signature
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import seedbed as sb
from seedbed import aggregation, tree
from seedbed.algorithms.momentum import with_momentum
from seedbed.attacks import Attack, AttackedEngine, PoisonedTasks, choose_attackers
from seedbed.data.partition import repartition
from seedbed.data.sampling import support_query
from seedbed.data.types import Batch
from seedbed.engines import make_executing
from seedbed.errors import Diverged, InputError
from seedbed.federated import Params, uniform
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.training import Objective

CLIENTS, TRAIN, TEST, SHAPE, CLASSES = 25, 8000, 4000, (1, 14, 14), 10
SUPPORT, LR, STEPS = 20, 0.1, 5  # of an unseen client's adaptation

fused = make_executing("fused", 1)  # or batched, without a compiler: the same but for the last bits


class Outcome(NamedTuple):
    accuracy: float
    opened: float  # of the examples of other classes that call the backdoor, how many are given its target
    adapted: float  # accuracy after adaptation, mean over unseen clients


@cache
def data(seed: int) -> tuple[sb.Population, sb.Population, Batch]:
    """The clients of a seed, the unseen clients, and the examples to judge by."""
    try:
        everyone = sb.read("mnist", root=os.environ.get("SEEDBED_DATA"))
    except InputError as error:
        print(error)
        sys.exit(2)
    rows = torch.randperm(len(everyone.x), generator=torch.Generator().manual_seed(seed))[: TRAIN + TEST]
    x, y = functional.avg_pool2d(everyone.x[rows].float() / 255, 2), everyone.y[rows]

    def dealt(part: slice) -> sb.Population:
        one = sb.Population.from_arrays(x[part], y[part], ["everyone"] * len(y[part]), classes=everyone.classes)
        return repartition(one, "dirichlet", clients=CLIENTS, alpha=0.5, minimum=2 * SUPPORT, seed=seed)

    return dealt(slice(0, TRAIN)), dealt(slice(TRAIN, None)), Batch(x[TRAIN:], y[TRAIN:], torch.ones(TEST))


def made(make: Callable[..., Attack] | None, loss: Objective) -> Attack | None:
    """The attack, with the loss where it asks for one."""
    if make is None:
        return None
    return make(loss=loss) if "loss" in signature(make).parameters else make()


def outcome(
    rule: str,
    settings: Mapping[str, float],
    make: Callable[..., Attack] | None,
    part: float,
    *,
    seed: int,
    rounds: int,
    momentum: float = 0,
    steps: int = 4,
    size: int = 16,
) -> Outcome:
    """Train FedAvg, every client the same, with this rule for the messages and this attack on them.

    Args:
        rule: by name; mean: the mean.
        make: the attack's factory; None: nobody attacks.
        part: how many of the clients attack.
        momentum: β of momentum on the clients.
        steps, size: of a client's local training in a round.
    """
    clients, unseen, judged = data(seed)
    with sb.seeded_init(seed):
        model = sb.Model(sb.mlp(SHAPE, outputs=CLASSES, hidden=(24,)))
    loss = sb.supervised(model.predict, sb.cross_entropy)
    algorithm = uniform(sb.fedavg(loss, local=sb.sgd(0.3)))
    if momentum:
        algorithm = with_momentum(algorithm, beta=momentum)
    if rule != "mean":
        algorithm = replace(algorithm, reduce=aggregation.make_rule(rule, **settings))
    source, start = sb.Sampled(clients, sb.batches(size, steps=steps), seed=seed), algorithm.init(model.params)
    engine, attack = fused(source), made(make, loss)
    if attack is not None:
        attackers = choose_attackers(source.clients, part, seed)
        poison = attack.poison
        engine = fused(source if poison is None else PoisonedTasks(source, poison, attackers))
        engine = AttackedEngine(engine, attack, attackers, start, seed=seed)
    with suppress(Diverged):  # then it is judged as it was last
        for round in sb.synchronous(algorithm, engine, start, seed=seed):
            if round.number == rounds:
                break

    def right(batch: Batch, params: Params = round.state.params) -> Tensor:
        with torch.no_grad():
            return (model.predict(params, batch.x).argmax(1) == batch.y).double()

    adapt, adapted = gradient_steps(loss, lr=LR, steps=STEPS), []
    episodes = sb.Sampled(unseen, support_query(SUPPORT), seed=seed)
    for client in episodes.clients:
        episode = tree.index(episodes.tasks([client], 0).items, (0, 0))
        adapted.append(float(right(episode.query, adapt(round.state.params, episode.support)).mean()))
    opened = torch.zeros(1, dtype=torch.float64)
    if attack is not None and attack.trigger is not None:
        called = attack.trigger(judged)
        opened = right(called)[judged.y != called.y]
    return Outcome(float(right(judged).mean()), float(opened.mean()), fmean(adapted))
