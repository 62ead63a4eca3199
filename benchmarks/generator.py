"""Sinusoid regression, K = 10, with no gradient step at all: a federated generator of parameters.

The federation is that of `sinusoid.py` (Finn, Abbeel and Levine, ICML 2017, section 5.1): 25 clients a round, each with
a sinusoid of its own. The autoregressive generator makes a 1-40-40-1 network of 10 points in one forward pass; its
squared error is taken on 100 others, for 1,000 fresh sinusoids. Then gradient steps on the 10 points: after training
without them (they do harm), and with them in the loop, their rates learned.

Band: at most 0.05 with zero steps after 1,000 rounds. Each figure is the mean over seeds, ± the deviation over them.

    python benchmarks/generator.py                        three seeds, with and without steps in the loop
    python benchmarks/generator.py --steps 0 --seeds 1    one seed, zero steps
"""

import argparse
import math
import sys
import time
from statistics import fmean, stdev

import torch
from figures import Figure, arguments, progress, report
from rich.progress import Progress
from sinusoid import CLIENTS, SHOTS, Sinusoids, model_for

from seedbed.algorithms.autoregressive import autoregressive
from seedbed.engines import Vectorised
from seedbed.evaluation import evaluate
from seedbed.federated import Algorithm
from seedbed.learning.objectives import squared_error, supervised
from seedbed.learning.optimizers import adam, cosine
from seedbed.models.layers import layers_of
from seedbed.rounds import synchronous
from seedbed.tree import leaves

LR = 2e-3
TEST_STEPS = (0, 1, 5)  # gradient steps when judging
BAND = 0.05
REFERENCE = "0.036 [1] · MAML 0.158 at 10 steps [2]"
CHUNK = 5  # clients at once: gradients of as many generators stay in the cache


def run(steps: int, seed: int, settings: argparse.Namespace, bar: Progress) -> tuple[dict[int, float], int]:
    """Train with so many steps in the loop; the squared error by steps when judged, and how many numbers are shared."""
    model = model_for("pytorch", seed)
    loss = supervised(model.predict, squared_error)
    outer = adam(LR, schedule=cosine(settings.rounds))

    def algorithm(test_steps: int) -> Algorithm:
        return autoregressive(
            loss, layers_of(model), steps=steps, lr=settings.lr, outer=outer, test_steps=test_steps, seed=seed
        )

    engine = Vectorised(Sinusoids(CLIENTS, queries=SHOTS, seed=seed), chunk=CHUNK)
    state = algorithm(steps).init(model.params)
    schedule = synchronous(algorithm(steps), engine, state, seed=seed)
    for done in bar.track(schedule, total=settings.rounds, description=f"steps {steps}, seed {seed}"):
        state = done.state
        if done.number == settings.rounds:
            break
    episodes = 20
    tasks = math.ceil(settings.tasks / episodes)
    fresh = Sinusoids(tasks, queries=100, episodes=episodes, seed=seed, purpose="unseen")
    judged = sorted({*TEST_STEPS, steps})
    scores = {k: evaluate(Vectorised(fresh), algorithm(k), state, fresh, loss, higher_is_better=False) for k in judged}
    return {k: score.mean for k, score in scores.items()}, sum(p.numel() for p in leaves(state.params))


def figures(found: dict[int, list[dict[int, float]]]) -> list[Figure]:
    rows = []
    for steps, runs in found.items():
        for k in runs[0]:
            values, judged = [each[k] for each in runs], steps == k == 0
            trained = "generator" if steps == 0 else f"with {steps} step{'s' * (steps > 1)} in the loop"
            rows.append(
                Figure(
                    f"{trained}: MSE at {k} steps",
                    fmean(values),
                    stdev(values) if len(values) > 1 else None,
                    published=REFERENCE if judged else "",
                    at_most=BAND if judged else None,
                )
            )
    return rows


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 5], help="gradient steps in the training loop")
    parser.add_argument("--lr", type=float, default=0.001, help="where their learned rates start")
    parser.add_argument("--rounds", type=int, default=1000, help="meta-iterations")
    parser.add_argument("--tasks", type=int, default=1000, help="fresh sinusoids to judge on, at least")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --seed on")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    found: dict[int, list[dict[int, float]]] = {}
    shared = 0
    with progress() as bar:
        for steps in settings.steps:
            seeds = range(settings.seed, settings.seed + settings.seeds)
            runs = [run(steps, seed, settings, bar) for seed in seeds]
            found[steps], shared = [scores for scores, _ in runs], runs[0][1]
    return report(
        f"Sinusoids, K = {SHOTS}, {settings.rounds:,} rounds of {CLIENTS} clients "
        f"(MSE ± deviation over {settings.seeds} seeds)",
        figures(found),
        settings=settings,
        began=began,
        notes=[
            "[1] our own earlier program, zero steps, 1,000 iterations (ALGORITHMS.md §4.1)",
            "[2] second-order MAML, 30,000 iterations (the same)",
            f"{shared:,} numbers are federated: the generator, the start and the rates of steps",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
