"""Per-FedAvg on MNIST, its Table 1: what one gradient step makes of a FedAvg start and of a meta-learned one.

Fallah, Mokhtari and Ozdaglar, "Personalized federated learning with theoretical guarantees: a model-agnostic
meta-learning approach", NeurIPS 2020, arXiv 2002.07948, section 5. 50 clients: half of them hold 196 images of each of
the digits 0 to 4, the others 98 of one of these and 392 of one of 5 to 9. An MLP 80-60 with ELU; 10 clients a round do
τ = 10 or 4 steps on batches of 40 (three of them a step for Per-FedAvg); α = .01, β = .001; 1,000 rounds.

Methods: FedAvg; Per-FedAvg by the exact gradient (which the paper never ran), first order (FO) and Hessian-free (HF).
All are judged after one gradient step of rate α on a batch of 40, in two ways:

    the paper's    the batch is test data of the client, and so is what is scored, the batch included
    honest         the batch is training data of the client, the score is on its test data

and, honest too, after ten such steps. The mean is over clients.

Bands, on the honest evaluation: exact and HF, which estimate the same gradient, within one point of each other; and
Per-FedAvg by the exact gradient not more than one point below FedAvg.

    python benchmarks/per_fedavg_mnist.py --root DATA
    python benchmarks/per_fedavg_mnist.py --tau 4 --rounds 100
"""

import argparse
import sys
import time
from dataclasses import replace

import torch
from figures import Figure, arguments, over_seeds, progress, report
from mnist_clients import add_data_argument, images, unlike_halves
from rich.progress import Progress
from together import last, scores, together
from torch import Tensor, nn

from seedbed import randomness
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.data.partition import partitioned
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, Sampler, batches, held_out_queries, triples
from seedbed.engines import Vectorised
from seedbed.errors import InputError
from seedbed.evaluation import per_example
from seedbed.federated import Algorithm, ServerState, personalise_by, uniform
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.objectives import Objective, correct, cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model, mlp

COHORT, BATCH, ALPHA, BETA = 10, 40, 0.01, 0.001
A_TRAIN, A_TEST = 196, 32  # images a client of the first half has of each digit; the paper gives the first
TRAINING = 60_000  # images of MNIST's training part
PUBLISHED = {  # percent, the paper's Table 1
    ("FedAvg", 10): "75.96 ± .02",
    ("FO", 10): "78.00 ± .02",
    ("HF", 10): "79.85 ± .02",
    ("FedAvg", 4): "60.18 ± .02",
    ("FO", 4): "64.55 ± .02",
    ("HF", 4): "70.94 ± .03",
}
ORDERS = {"exact": "exact", "FO": "first", "HF": "hessian_free"}
MANY = 10  # steps of the third column


def dealt(mnist: Population, seeds: list[int]) -> tuple[Population, Population]:
    """Training clients and, by the same names, their test images, dealt alike from MNIST's two parts."""
    found = []
    for start, end, a in ((0, TRAINING, A_TRAIN), (TRAINING, len(mnist.y), A_TEST)):
        labels = mnist.labels[start:end]
        parts = [start + rows for seed in seeds for rows in unlike_halves(labels, seed, a=a)]
        found.append(partitioned(mnist.x, mnist.y, parts, classes=mnist.classes))
    return found[0], found[1]


def method(name: str, loss: Objective) -> Algorithm:
    """The named method, its clients all counting alike."""
    if name == "FedAvg":
        return uniform(fedavg(loss, local=sgd(BETA)))
    return per_fedavg(loss, alpha=ALPHA, order=ORDERS[name], batches=3, local=sgd(BETA))  # type: ignore[arg-type]


def run(
    name: str, tau: int, train: Population, model: Model, settings: argparse.Namespace, bar: Progress
) -> list[ServerState]:
    """The servers' states of all seeds after the last round."""
    algorithm = method(name, supervised(model.predict, cross_entropy))
    sampler = batches(BATCH, steps=tau) if name == "FedAvg" else triples(BATCH, steps=tau)
    starts = [algorithm.init(first_weights(seed).params) for seed in settings.seeds]
    rounds = together(algorithm, Vectorised(Sampled(train, sampler)), starts, seeds=settings.seeds, cohort=COHORT)
    return last(rounds, settings.rounds, bar, f"{name}, τ = {tau}")


def first_weights(seed: int) -> Model:
    with randomness.seeded_init(seed):
        return Model(mlp((784,), 10, hidden=(80, 60), activation=nn.ELU))


def judged(states: list[ServerState], sampler: Sampler, steps: int, test: Population, model: Model) -> Tensor:
    """Percent right after so many steps, the mean over a seed's clients: [S]."""
    loss = supervised(model.predict, cross_entropy)
    adapted = replace(fedavg(loss), personalise=personalise_by(gradient_steps(loss, lr=ALPHA, steps=steps)))
    source = Sampled(test, sampler, purpose="judge")
    found = scores(adapted, Vectorised(source), states, source, per_example(model.predict, correct))
    return 100 * found.mean(1)


def main() -> int:
    parser = arguments(__doc__ or "")
    add_data_argument(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of split, first weights and batches")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--tau", type=int, nargs="+", default=[10, 4], help="local steps a round")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    try:
        train, test = dealt(images(settings.data_dir), settings.seeds)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    model, everything = first_weights(0), len(test.rows)
    ways = {  # evaluation -> (where the batch comes from, steps)
        "the paper's evaluation": (held_out_queries(test, BATCH, queries=everything), 1),
        "honest": (held_out_queries(train, BATCH, queries=everything), 1),
        f"honest, {MANY} steps": (held_out_queries(train, BATCH, queries=everything), MANY),
    }
    rows = []
    with progress() as bar:
        for tau in settings.tau:
            trained = {name: run(name, tau, train, model, settings, bar) for name in ("FedAvg", *ORDERS)}
            for title, (sampler, steps) in ways.items():
                found = {name: judged(states, sampler, steps, test, model) for name, states in trained.items()}
                rows += figures(tau, title, found)
    return report(
        f"Per-FedAvg on MNIST, {settings.rounds:,} rounds: accuracy in percent after adapting, mean ± deviation over "
        f"{len(settings.seeds)} seeds",
        rows,
        settings=settings,
        began=began,
        notes=["[1] the paper's Table 1 (ALGORITHMS.md §4.3)"],
    )


def figures(tau: int, title: str, found: dict[str, Tensor]) -> list[Figure]:
    """A row for each method, and those that are judged."""
    rows = []
    for name, values in found.items():
        published = PUBLISHED.get((name, tau), "") if title.startswith("the paper") else ""
        rows.append(Figure(f"τ = {tau}, {title}: {name}", *over_seeds(values), f"{published} [1]" if published else ""))
    if title == "honest":
        gap, gain = (found[a].mean() - found[b].mean() for a, b in (("exact", "HF"), ("exact", "FedAvg")))
        rows.append(Figure(f"τ = {tau}, honest: |exact − HF|, points", float(gap.abs()), at_most=1.0))
        rows.append(Figure(f"τ = {tau}, honest: exact − FedAvg, points", float(gain), at_least=-1.0))
    return rows


if __name__ == "__main__":
    sys.exit(main())
