"""What client-level differential privacy costs: accuracy of adaptation on clients never seen, over ε.

MNIST: 70,000 digits in 1,400 made-up clients of 50 (five shards each, so of about five digits); 1,200 train, 200 judge.
A client adapts with 10 of its examples and is judged on the others; the model is linear (7,850 numbers).
Omniglot, 14 × 14 pixels: groups of five characters, the twenty drawers of each dealt to four clients, so that a client
is a 5-way task of 25 images; 264 groups (1,056 clients) train, 60 other groups (240 clients, characters never seen)
judge, with 1 example a class; the model is 196-32 and a head. The 50 alphabets themselves are too few clients to hide
one among.

FedAvg + fine-tuning, and the default: Per-FedAvg (a client is a task) or the prototype head (episodes).
Same rounds, cohorts by chance, equal weights, for every ε; ∞ is the same without noise; none is first weights, adapted
alike, without any federation. δ = 1e-5. The clip follows the
median norm of the clients, or is fixed (`--clips`). Mean ± standard deviation over seeds of: partition, first weights,
cohorts, noise.

    python benchmarks/privacy_cost.py --root DATA
    python benchmarks/privacy_cost.py --root DATA --sets mnist --seeds 1 --rounds 10 --epsilons 2 inf
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from figures import arguments, machine, progress
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

import seedbed as sb
from seedbed import randomness
from seedbed.data.population import Population
from seedbed.data.readers import read
from seedbed.data.sampling import Sampled, Sampler, batches, episodes, fresh_support, support_query
from seedbed.federated import Algorithm
from seedbed.learning.finetuning import FineTuning, Tunable, finetune
from seedbed.learning.heads import fresh_head
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import adam, sgd
from seedbed.models import Model, mlp
from seedbed.privacy.differential import Adaptive, Independent, Noise, noise_for, public_info, with_privacy

DELTA = 1e-5
ADAPTIVE, NONE = "median", 0.0


@dataclass(frozen=True)
class Contest:
    """A population in two, a model, how clients are judged, and the algorithms with what their clients work on."""

    train: Population
    unseen: Population
    model: Model
    judged: Sampler
    algorithms: dict[str, tuple[Algorithm, Sampler]]


def mnist(root: Path, seed: int) -> Contest:
    everyone = read("mnist", root=str(root), partition="shards", clients=1400, per_client=5, seed=seed)
    train, unseen = everyone.split_clients(unseen=200, seed=seed)
    with randomness.seeded_init(seed):
        model = Model(mlp((1, 28, 28), 10, hidden=()), head="head")
    loss = supervised(model.predict, cross_entropy)
    adapt = sb.gradient_steps(loss, lr=0.1, steps=10)
    algorithms = {
        "FedAvg + fine-tuning": (sb.fedavg(loss, local=sgd(0.1), adapt=adapt), batches(10)),
        "Per-FedAvg": (
            sb.per_fedavg(loss, alpha=0.1, local=sgd(0.1), adapt=adapt),
            support_query(0.5, size=10, steps=5),
        ),
    }
    return Contest(train, unseen, model, fresh_support(10, draws=2), algorithms)


def omniglot(root: Path, seed: int) -> Contest:
    everyone = read("omniglot", root=str(root))
    x = F.avg_pool2d(everyone.x.float().reshape(-1, 1, *everyone.x.shape[-2:]) / 255, 2)
    x = x / x.max()
    kinds, labels = np.unique(everyone.labels, return_inverse=True)
    rng = randomness.generator(seed, "groups of characters")
    groups = rng.permutation(len(kinds))[: len(kinds) // 5 * 5].reshape(-1, 5)
    owner, number = np.empty(len(labels), dtype=object), np.zeros(len(labels), np.int64)
    owner[:] = ""
    for g, group in enumerate(groups):
        for label, kind in enumerate(group):
            rows = rng.permutation(np.flatnonzero(labels == kind))
            owner[rows] = [f"group {g} client {i % 4}" for i in range(len(rows))]
            number[rows] = 5 * g + label
    held = np.flatnonzero(owner != "")
    names = tuple(str(i) for i in range(5 * len(groups)))
    population = Population.from_arrays(
        x[held], torch.as_tensor(number[held]), owner[held].astype(str), classes=names, episodic=True
    )
    apart = {f"group {g}" for g in range(60)}
    judges = [name.rpartition(" client")[0] in apart for name in population.names]
    train = population.only([i for i, judge in enumerate(judges) if not judge]).compact()
    unseen = population.only([i for i, judge in enumerate(judges) if judge])
    with randomness.seeded_init(seed):
        model = Model(mlp(x.shape[1:], len(train.classes), hidden=(32,)), head="head")
        body = Model(mlp(x.shape[1:], 5, hidden=(32,)), head="head")
    loss = supervised(model.predict, cross_entropy)
    start = fresh_head(ways=5, width=32, head="head")
    tuned = finetune(Tunable(model.predict, model.features, cross_entropy, "head"), FineTuning("head"), start=start)
    proto = sb.fed_proto(supervised(body.predict, cross_entropy), body.features, ways=5, scale=None, outer=adam(5e-3))
    algorithms = {
        "FedAvg + fine-tuning": (sb.fedavg(loss, local=sgd(0.1), adapt=tuned), batches(10)),
        "prototype head": (proto, episodes(ways=5, shots=1, queries=4)),
    }
    return Contest(train, unseen, model, episodes(ways=5, shots=1, queries=4, count=10), algorithms)


CONTESTS: dict[str, Callable[[Path, int], Contest]] = {"mnist": mnist, "omniglot": omniglot}


def accuracy(
    contest: Contest, name: str, z: float, clip: float | Adaptive, settings: argparse.Namespace, seed: int, rounds: int
) -> float:
    """Train so long with this noise, then adapt on unseen clients: their mean accuracy, in per cent."""
    plain, sampler = contest.algorithms[name]
    n = len(contest.train)
    key = Noise(randomness.generator(seed, "noise of a benchmark").bytes(32))  # a run takes a secret one
    algorithm = with_privacy(plain, Independent(key, z, min(settings.cohort, n), n), clip=clip)
    engine = sb.Vectorised(Sampled(contest.train, sampler, seed=seed))
    state = algorithm.init(contest.model.params)
    for _, round in zip(range(rounds), sb.synchronous(algorithm, engine, state), strict=False):
        state = round.state
    source = Sampled(contest.unseen, contest.judged, seed=seed, purpose="judge unseen")
    metric = sb.per_example(contest.model.predict, sb.correct)
    judge = sb.Vectorised(source)
    return 100 * sb.evaluate(judge, plain, public_info(state), source, metric).mean


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds mnist and omniglot")
    parser.add_argument("--sets", nargs="+", choices=sorted(CONTESTS), default=sorted(CONTESTS))
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1, 2, 4, 8, math.inf])
    parser.add_argument("--clips", nargs="+", default=[ADAPTIVE, "0.3", "1"], help="median (adaptive), or a number")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--cohort", type=int, default=200, help="clients expected in a round")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began, found = time.perf_counter(), {}
    each = settings.seeds * (1 + len(settings.epsilons)) * 2 * len(settings.clips)
    with progress() as bar:
        tick = bar.add_task("runs", total=len(settings.sets) * each)
        for data in settings.sets:
            for seed in range(settings.seeds):
                contest = CONTESTS[data](settings.data_dir, seed)
                rate = min(settings.cohort, len(contest.train)) / len(contest.train)
                for epsilon in (NONE, *settings.epsilons):
                    rounds = 0 if epsilon == NONE else settings.rounds
                    z = (
                        0.0
                        if epsilon == NONE or math.isinf(epsilon)
                        else noise_for(epsilon, DELTA, rate=rate, times=settings.rounds)
                    )
                    for name in contest.algorithms:
                        for word in settings.clips:
                            clip = Adaptive() if word == ADAPTIVE else float(word)
                            score = accuracy(contest, name, z, clip, settings, seed, rounds)
                            found.setdefault((data, name, word), {}).setdefault(epsilon, []).append(score)
                            bar.advance(tick)
    _show(found, settings, time.perf_counter() - began)
    return 0


Found = dict[tuple[str, str, str], dict[float, list[float]]]


def _show(found: Found, settings: argparse.Namespace, seconds: float) -> None:
    title = f"accuracy of adaptation on unseen clients, % (mean ± sd over {settings.seeds} seeds), δ = {DELTA:g}"
    table = Table(
        "data", "algorithm", "clip", "none", *(f"ε = {e:g}".replace("inf", "∞") for e in settings.epsilons), title=title
    )
    for key, by_epsilon in found.items():
        table.add_row(*key, *(_cell(scores) for scores in by_epsilon.values()))
    console = Console()
    console.print(table)
    console.print(
        f"{settings.rounds} rounds, {settings.cohort} clients expected in each · {seconds:.0f} s · {machine()}"
    )
    if settings.json:
        rows = [{"row": key, "accuracy": {str(e): v for e, v in by.items()}} for key, by in found.items()]
        settings.json.write_text(json.dumps({"benchmark": title, "rows": rows, "seconds": seconds}, indent=2) + "\n")


def _cell(scores: list[float]) -> str:
    return f"{statistics.mean(scores):.1f}" + (f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
