"""Omniglot, the papers' protocol: a random split of the characters, turned ones being classes of their own.

Snell, Swersky and Zemel, "Prototypical networks", NeurIPS 2017 (arXiv 1703.05175); Finn, Abbeel and Levine, "MAML",
ICML 2017 (arXiv 1703.03400); Nichol, Achiam and Schulman, "Reptile", 2018 (arXiv 1803.02999). 1,200 characters to
train on and 423 never seen, drawn by the seed, times four turns; the training classes are dealt to 40 clients of 120
classes, and judging is on episodes over all 1,692 unseen classes. Not transductive: no batch statistics.

Prototypes train on 20-way, 1-shot episodes; MAML (first order) and Reptile on 5-way ones, for as long as two cores
allow. `--full` is the papers' length (60,000 and 100,000 iterations), for a machine that has the time.

    SEEDBED_DATA=... python benchmarks/omniglot.py                     prototypes: about 10 minutes on 2 cores
    SEEDBED_DATA=... python benchmarks/omniglot.py --methods maml reptile
    SEEDBED_DATA=... python benchmarks/omniglot.py --methods prototypes maml reptile --full --device cuda   on a GPU
"""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from figures import Figure, arguments, progress, report
from rich.progress import Progress

from seedbed import randomness
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.reptile import reptile
from seedbed.data.augment import with_rotations
from seedbed.data.population import Population
from seedbed.data.readers import read
from seedbed.data.sampling import Sampled, Sampler, episode_batches, episodes
from seedbed.engines import OneByOne
from seedbed.evaluation import evaluate, per_example
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.objectives import correct, cross_entropy, supervised
from seedbed.learning.optimizers import adam, cosine, linear
from seedbed.models import Model, conv
from seedbed.rounds import synchronous

CHARACTERS, CLIENTS = 1200, 40
SETTINGS = [(5, 1), (5, 5), (20, 1), (20, 5)]  # ways, shots


@dataclass(frozen=True)
class Method:
    """How one is trained and judged.

    Attributes:
        rounds, full: of training here, and in the paper.
        published: accuracy by (ways, shots), in percent; not transductive where the paper says which.
        bands: the least of ours, with the default number of rounds.
    """

    rounds: int
    full: int
    cohort: int
    sampler: Sampler
    ways: tuple[int, ...]
    published: Mapping[tuple[int, int], float]
    source: str
    bands: Mapping[tuple[int, int], float]


METHODS = {
    "prototypes": Method(
        3000,
        20_000,
        2,
        episodes(ways=20, shots=1, queries=3),
        (5, 20),
        {(5, 1): 98.8, (5, 5): 99.7, (20, 1): 96.0, (20, 5): 98.9},
        "Snell et al., Table 1",
        {(5, 1): 97.0, (5, 5): 99.0, (20, 1): 91.0, (20, 5): 97.0},
    ),
    "maml": Method(
        1500,
        60_000,
        8,
        episodes(ways=5, shots=1, queries=5),
        (5,),
        {(5, 1): 98.3, (5, 5): 99.2},
        "Finn et al., first order, transductive",
        {},
    ),
    "reptile": Method(
        1500,
        100_000,
        5,
        episode_batches(ways=5, shots=10, size=10, steps=5),
        (5,),
        {(5, 1): 95.39, (5, 5): 98.90},
        "Nichol et al., Table 1",
        {},
    ),
}


def split(seed: int, root: Path) -> tuple[Population, Population]:
    """Training classes dealt to clients, and one that holds all unseen classes; each with its turned ones."""
    whole = read("omniglot", root=root)
    order = randomness.generator(seed, "omniglot characters").permutation(len(whole.classes))
    dealt = np.full(len(order), "unseen", dtype=object)
    dealt[order[:CHARACTERS]] = [f"client{i % CLIENTS:02d}" for i in range(CHARACTERS)]
    every = replace(
        Population.from_arrays(whole.x, whole.y, dealt[whole.labels], classes=whole.classes, episodic=True),
        unseen=("unseen",),
    )
    known, unseen = every.split_clients()
    return with_rotations(known), with_rotations(unseen)


def algorithm_for(name: str, model: Model, *, ways: int, rounds: int) -> Algorithm:
    loss = supervised(model.predict, cross_entropy)
    if name == "prototypes":
        outer = adam(4e-3, schedule=cosine(rounds))
        return fed_proto(loss, model.features, ways=ways, scale=None, outer=outer)
    if name == "maml":
        return fedmeta(loss, lr=0.4, order="first", outer=adam(2e-3, schedule=cosine(rounds)), test_steps=3)
    tuned = gradient_steps(loss, lr=0.05, steps=50)
    return reptile(loss, schedule=linear(rounds), local=adam(1e-3, beta1=0.0), adapt=tuned)


def run(name: str, seed: int, settings: Any, bar: Progress) -> dict[tuple[int, int], float]:
    """Train, and the accuracy in percent on unseen classes by (ways, shots)."""
    method = METHODS[name]
    rounds = method.full if settings.full else settings.rounds or method.rounds
    known, unseen = split(seed, settings.data_dir)
    with randomness.seeded_init(seed):
        model = Model(conv((1, 28, 28), max(method.ways), channels=64)).to(settings.device)
    algorithm = algorithm_for(name, model, ways=20, rounds=rounds)
    engine = OneByOne(Sampled(known, method.sampler, seed=seed), workers=settings.workers)
    state = algorithm.init(model.params)
    schedule = synchronous(algorithm, engine, state, cohort=method.cohort, seed=seed)
    for done in bar.track(schedule, total=rounds, description=f"{name}, seed {seed}"):
        state = done.state
        if done.number == rounds:
            break
    found = {}
    for ways, shots in bar.track([s for s in SETTINGS if s[0] in method.ways], description="judging"):
        judge = algorithm_for(name, model, ways=ways, rounds=rounds)
        sampler = episodes(ways=ways, shots=shots, queries=5, count=settings.episodes)
        source = Sampled(unseen, sampler, seed=seed, purpose="judge")
        accuracy = per_example(model.predict, correct)
        found[ways, shots] = 100 * evaluate(OneByOne(source), judge, state, source, accuracy).mean
    return found


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["prototypes"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rounds", type=int, help="of training, instead of each method's own")
    parser.add_argument("--device", default="cpu", help="where clients compute: cpu, cuda")
    parser.add_argument("--full", action="store_true", help="the papers' lengths")
    parser.add_argument("--episodes", type=int, default=400, help="to judge on, for each number of ways and shots")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="clients side by side")
    parser.add_argument("--root", type=Path, default=os.environ.get("SEEDBED_DATA"), help="folder with omniglot28")
    settings = parser.parse_args()
    if settings.data_dir is None:
        print("name the folder of Omniglot by --root or SEEDBED_DATA", file=sys.stderr)
        return 2
    began = time.perf_counter()
    rows = []
    with progress() as bar:
        for name in settings.methods:
            method = METHODS[name]
            found = [run(name, seed, settings, bar) for seed in settings.seeds]
            for ways, shots in found[0]:
                scores = [f[ways, shots] for f in found]
                rows.append(
                    Figure(
                        f"{name}: {ways}-way {shots}-shot, %",
                        fmean(scores),
                        stdev(scores) if len(scores) > 1 else None,
                        published=str(method.published[ways, shots]),
                        source=method.source,
                        at_least=method.bands.get((ways, shots)),
                        digits=4,
                    )
                )
    return report("Omniglot, 423 unseen characters", rows, settings=settings, began=began)


if __name__ == "__main__":
    sys.exit(main())
