"""Distillation among skewed clients of MNIST: FedDF over three architectures, and small students of a large teacher.

Two claims, each on the same test images that no client has:

1. FedDF (Lin et al., NeurIPS 2020, arXiv 2006.07242) over nine clients of Dirichlet(ALPHA) labels and of three
   architectures, with public images that have no labels. Its *members* are the clients' models of the last round, as
   they are after local training. The fused models beat their mean; and FedAvg among the three clients of each
   architecture, which is what there is without distillation, and local training alone stand beside them.
2. `distill`: a large net has learnt from labelled images on the server. A small one is federated over the same kind of
   clients, with the teacher's share in its loss; then the same small net by FedAvg alone: same clients, batches, rounds
   and first weights.

Band: a gain of half a point at least, for each of the two, in every seed.

    python benchmarks/distillation.py --root DATA
    python benchmarks/distillation.py --seeds 0 1 2 3 4 --alpha 0.1
"""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import torch
from figures import Figure, arguments, progress, report
from torch import Tensor

from seedbed import randomness, tree
from seedbed.algorithms.distill import distill
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.feddf import assign_architectures, feddf, own_architecture
from seedbed.algorithms.local import local
from seedbed.data.partition import dirichlet, partitioned
from seedbed.data.population import Population
from seedbed.data.readers import read
from seedbed.data.sampling import Sampled, batches
from seedbed.data.types import Batch, Task
from seedbed.engines import OneByOne
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Params, ServerState
from seedbed.learning.objectives import Predict, cross_entropy, supervised
from seedbed.learning.optimizers import adam, cosine, sgd
from seedbed.learning.training import train
from seedbed.models import Model, ModelZoo, conv, mlp
from seedbed.rounds import synchronous

SHAPE, CLASSES = (1, 28, 28), 10
CLIENTS, PRIVATE, PUBLIC, SERVER, TEST = 9, 900, 640, 3200, 1500  # how many clients, and images of each kind
LOCAL, SIZE, EPOCHS = sgd(0.1), 20, 2
TEACHER_STEPS = 150


@dataclass(frozen=True)
class Images:
    """MNIST dealt by a seed, all parts disjoint: x [n, 1, 28, 28] of 0…1 and y [n]."""

    clients: Population
    public: Tensor
    server: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def dealt(everyone: Population, seed: int, alpha: float) -> Images:
    """The parts, and the private one among clients by Dirichlet(α) labels."""
    order = randomness.generator(seed, "deal").permutation(len(everyone.rows))
    ends = [PRIVATE, PRIVATE + PUBLIC, PRIVATE + PUBLIC + SERVER, PRIVATE + PUBLIC + SERVER + TEST]
    private, public, server, test = (order[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
    y = everyone.y
    parts = dirichlet(y[private], CLIENTS, alpha, minimum=20, seed=seed)
    clients = partitioned(everyone.x[private], y[private], parts, classes=everyone.classes)
    labelled = [(everyone.inputs(rows), y[rows]) for rows in (server, test)]
    return Images(clients, everyone.inputs(public), labelled[0], labelled[1])


def accuracy(predict: Predict, params: Params, images: tuple[Tensor, Tensor]) -> float:
    """Of 0…1, on images that nobody has learnt from."""
    with torch.no_grad():
        right = [(predict(params, x).argmax(1) == y).double() for x, y in zip(*map(_parts, images), strict=True)]
    return float(torch.cat(right).mean())


def _parts(values: Tensor) -> list[Tensor]:
    return list(values.split(500))


def states(
    algorithm: Algorithm, images: Images, params: Params, rounds: int, seed: int
) -> tuple[list[ServerState], OneByOne]:
    """The states before the first of so many rounds of all clients and after each, and the engine that ran them."""
    engine = OneByOne(Sampled(images.clients, batches(SIZE, epochs=EPOCHS), seed=seed))
    found = [algorithm.init(params)]
    for round in synchronous(algorithm, engine, found[0], seed=seed):
        found.append(round.state)
        if round.number == rounds:
            break
    return found, engine


def fused(images: Images, settings: Namespace, seed: int) -> dict[str, float]:
    """Accuracies of FedDF, of its members, and of what there is without it."""
    with randomness.seeded_init(seed):
        made = {
            "conv": conv(SHAPE, CLASSES, channels=8),
            "mlp": mlp(SHAPE, CLASSES),
            "linear": mlp(SHAPE, CLASSES, hidden=()),
        }
        several = ModelZoo({name: Model(module, head="head") for name, module in made.items()})
    loss, score = supervised(several.predict, cross_entropy), partial(accuracy, several.predict, images=images.test)
    method = partial(feddf, loss, several.predict, public=images.public, local=LOCAL)
    full = method(distil_steps=settings.steps)
    found, engine = states(full, images, several.params, settings.rounds, seed)
    each = {name: score({name: params}) for name, params in found[-1].params.items()}
    sent = {c: full.send(found[-2], c) for c in engine.population}
    replies = {g.clients[0]: tree.index(g.messages.value, 0) for g in engine.ask(full, sent, settings.rounds - 1)}
    members = [score(tree.sub(sent[c].params, replies[c]["moved"])) for c in sent]
    plain, _ = states(method(distil_steps=0), images, several.params, settings.rounds, seed)
    apart = replace(
        local(loss, local=LOCAL), send=lambda state, c: own_architecture(assign_architectures)(state, c).params
    )
    _, alone = states(apart, images, several.params, settings.rounds, seed)
    return {
        "FedDF, mean of three architectures": fmean(each.values()),
        **{f"FedDF, {name}": value for name, value in each.items()},
        "its members: clients' models, mean": fmean(members),
        "FedAvg within architectures, mean": fmean(score({n: p}) for n, p in plain[-1].params.items()),
        "local training alone, mean": fmean(score(kept) for kept in alone.memory().values()),
        "gain of FedDF over its members": fmean(each.values()) - fmean(members),
    }


def taught(images: Images, settings: Namespace, seed: int) -> dict[str, float]:
    """Accuracies of the teacher, of its federated student, and of the same student without it."""
    with randomness.seeded_init(seed):
        large = Model(conv(SHAPE, CLASSES, channels=24), head="head")
        small = Model(mlp(SHAPE, CLASSES, hidden=(8,)), head="head")
    pooled = in_turn_labelled(*images.server)
    goal, rate = supervised(large.predict, cross_entropy), adam(3e-3, schedule=cosine(TEACHER_STEPS))
    with torch.no_grad():
        teacher = train(goal, rate, large.params, pooled).params
    loss = supervised(small.predict, cross_entropy)
    share = {"alpha": settings.share, "temperature": settings.temperature}
    student = distill(loss, small.predict, teacher=partial(large.predict, teacher), local=LOCAL, **share)
    alone = fedavg(loss, local=LOCAL)
    ends = [states(a, images, small.params, settings.rounds, seed)[0][-1].params for a in (student, alone)]
    with_teacher, without = (accuracy(small.predict, params, images.test) for params in ends)
    return {
        "teacher, large": accuracy(large.predict, teacher, images.test),
        "its student, small": with_teacher,
        "the same student alone (FedAvg)": without,
        "gain of the student by its teacher": with_teacher - without,
    }


def in_turn_labelled(x: Tensor, y: Tensor) -> Task:
    """The server's images in batches of 64, in their random order: TEACHER_STEPS of them."""
    rows = (torch.arange(TEACHER_STEPS * 64) % len(x)).reshape(TEACHER_STEPS, 64)
    return Task(Batch(x[rows], y[rows], torch.ones(rows.shape)), torch.ones(len(rows)), torch.tensor(float(len(x))))


def figures(scores: Mapping[str, list[float]]) -> list[Figure]:
    """In per cent: mean over the seeds and standard deviation; for gains the smallest too, which is what is judged."""
    found = []
    for name, values in scores.items():
        mean, spread = 100 * fmean(values), 100 * stdev(values) if len(values) > 1 else None
        found.append(Figure(f"{name}, %", mean, spread))
        if name.startswith("gain"):
            found.append(Figure("... its smallest over the seeds, %", 100 * min(values), at_least=0.5))
    return found


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--root",
        type=Path,
        default=os.environ.get("SEEDBED_DATA"),
        help="the folder that holds mnist/; without it, the environment's SEEDBED_DATA",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of parts, first weights and batches")
    parser.add_argument("--alpha", type=float, default=0.3, help="of the Dirichlet partition: small is skewed")
    parser.add_argument("--rounds", type=int, default=10, help="of all clients")
    parser.add_argument("--steps", type=int, default=30, help="FedDF's distillation steps a round and architecture")
    parser.add_argument("--share", type=float, default=0.9, help="the teacher's share in the student's loss")
    parser.add_argument("--temperature", type=float, default=4.0, help="of the student's loss")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    scores: dict[str, list[float]] = {}
    try:
        everyone = read("mnist", root=settings.data_dir, partition="iid", clients=1)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    with progress() as bar:
        for seed in bar.track(settings.seeds, description="seeds"):
            images = dealt(everyone, seed, settings.alpha)
            for name, value in (fused(images, settings, seed) | taught(images, settings, seed)).items():
                scores.setdefault(name, []).append(value)
    return report(
        f"Distillation on MNIST, {CLIENTS} clients of Dirichlet({settings.alpha:g}), {len(settings.seeds)} seeds",
        figures(scores),
        settings=settings,
        began=began,
        notes=[f"{PRIVATE} private images, {PUBLIC} public ones, {SERVER} on the server, {TEST} to test on"],
    )


if __name__ == "__main__":
    sys.exit(main())
