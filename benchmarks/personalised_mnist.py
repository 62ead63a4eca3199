"""Personalised methods on MNIST under Dirichlet(.1), 20 clients: all of them on one budget, each tuned alike.

The protocol is PFLlib's (Zhang et al., "PFLlib: a beginner-friendly and comprehensive personalized federated learning
library", JMLR 2025, arXiv 2312.04992; docs/benchmark.html): 20 clients, all of them in each round, 75/25 split, batches
of 10, accuracy over all clients' test images, every client by its own model. Departures, for two cores: an MLP of 64
hidden units instead of a convolutional net; a round is not an epoch but one budget for every method and client, 200
examples through the model (the second pass of Ditto, APFL and FedRep, pFedMe's inner steps and the support sets of
meta-learning count); 50 rounds instead of 2,000.

A fifth of every client's training images is set apart for tuning. Each method has three rates, and four ways of
adapting at the end on up to 400 of the client's training images (not at all; 20 full-batch steps of rate .1; 20 or 60
of .5), the same for all, and is shown with what is best on the images set apart, on average over the seeds. Methods
that need no adapting thus may have it.

Band: the best meta-learned start (Per-FedAvg, Reptile, FedMeta, Meta-SGD, ANIL, or a body under a head that clients
solve) is at least as good as the best personalised method (pFedMe, Ditto, FedPer, FedRep, FedBABU, LG-FedAvg, APFL), to
within 0.2 points.

    python benchmarks/personalised_mnist.py --root DATA
    python benchmarks/personalised_mnist.py --only fedavg per_fedavg ditto --rounds 10
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from figures import Figure, arguments, over_seeds, progress, report
from mnist_clients import accuracy, add_data_argument, images, split
from rich.progress import Progress
from together import last, scores, together
from torch import Tensor

from seedbed import randomness
from seedbed.algorithms.anil import anil
from seedbed.algorithms.apfl import apfl
from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.fedrep import fedrep
from seedbed.algorithms.lg_fedavg import lg_fedavg
from seedbed.algorithms.local import local
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.algorithms.pfedme import pfedme
from seedbed.algorithms.reptile import reptile
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.partition import dirichlet, partitioned
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, Sampler, batches, held_out_queries, support_query
from seedbed.engines import Vectorised
from seedbed.errors import InputError
from seedbed.evaluation import per_example
from seedbed.federated import Algorithm, uniform
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.heads import ridge_head
from seedbed.learning.objectives import Objective, correct, cross_entropy, meta_objective, supervised
from seedbed.learning.optimizers import adam, sgd
from seedbed.models import Model, mlp

CLIENTS, SHARE, CLASSES, HIDDEN = 20, 0.1, 10, 64
BATCH, BUDGET = 10, 200  # examples of a step, and of a client's round
RATES = (0.02, 0.1, 0.3)  # of the clients' steps
OUTER = {0.02: 0.001, 0.1: 0.003, 0.3: 0.01}  # Adam's, of methods whose server takes the one step of a round
SUPPORT, QUERIES = 400, 1000  # training images to adapt on, test images to be judged on, at most


class End(NamedTuple):
    """How a client adapts at the end."""

    steps: int
    lr: float


ENDS = (End(0, 0.1), End(20, 0.1), End(20, 0.5), End(60, 0.5))


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        make: (problem, rate, end) -> the algorithm.
        items: what a client works on in a round: BUDGET examples in all.
        kind: baseline | personalised | meta.
        ends: how its clients may adapt.
    """

    make: Callable[["Problem", float, End], Algorithm]
    items: Sampler
    kind: str
    ends: tuple[End, ...] = ENDS


@dataclass(frozen=True)
class Problem:
    """The model, its loss, and its clients: training, tuning and test images by the same names."""

    model: Model
    loss: Objective
    train: Population
    tuning: Population
    test: Population


# ---- methods ---------------------------------------------------------------------------------------------------------


def once(examples: int = 1) -> Sampler:
    """Batches for a method that looks so many times at each."""
    return batches(BATCH, steps=BUDGET // BATCH // examples)


def parts(size: int) -> Sampler:
    """Episodes of so many support and as many query examples."""
    return support_query(0.5, size=size, steps=BUDGET // (2 * size))


def by_steps(factory: Callable[..., Algorithm], **given: Any) -> Callable[[Problem, float, End], Algorithm]:
    """A method with a local rate whose clients adapt by gradient steps of the whole model."""

    def make(problem: Problem, rate: float, end: End) -> Algorithm:
        adapt = gradient_steps(problem.loss, lr=end.lr, steps=end.steps)
        return factory(problem.loss, local=sgd(rate), adapt=adapt, **given)

    return make


def by_own_way(factory: Callable[..., Algorithm], *optimizers: str, **given: Any) -> Callable[..., Algorithm]:
    """A method with a way of its own to adapt, of so many steps, and optimisers of the clients with one rate."""

    def make(problem: Problem, rate: float, end: End) -> Algorithm:
        rates = dict.fromkeys(("local", *optimizers), sgd(rate))
        return factory(problem.loss, **rates, test_steps=end.steps, test_lr=end.lr, **given)

    return make


def make_pfedme(problem: Problem, rate: float, end: End) -> Algorithm:
    """λ = 15 and K = 5, the authors'; η = 1/λ, the largest safe one; the rate, over 3, is that of the inner steps."""
    return pfedme(problem.loss, eta=1 / 15, inner=sgd(rate / 3), test_steps=end.steps)


def by_server(factory: Callable[..., Algorithm], **given: Any) -> Callable[[Problem, float, End], Algorithm]:
    """A method whose server takes a step of Adam along the clients' mean meta-gradient."""

    def make(problem: Problem, rate: float, end: End) -> Algorithm:
        return factory(problem.loss, outer=adam(OUTER[rate]), lr=0.1, test_steps=end.steps, **given)

    return make


def headed(factory: Callable[..., Algorithm], **given: Any) -> Callable[[Problem, float, End], Algorithm]:
    """A body under a head that clients solve; then gradient steps."""

    def make(problem: Problem, rate: float, end: End) -> Algorithm:
        found = factory(problem.loss, problem.model.features, ways=CLASSES, outer=adam(OUTER[rate]), **given)
        return found if end.steps == 0 else replace(found, personalise=_then(found, problem.loss, end))

    return make


def ridge_with_local_steps(problem: Problem, rate: float, end: End) -> Algorithm:
    """fed_ridge's model, start and adaptation, trained by local steps as in FedAvg instead of one step a round."""
    base = headed(fed_ridge)(problem, RATES[0], end)
    solve = ridge_head(problem.model.features, ways=CLASSES)
    averaging = uniform(fedavg(meta_objective(solve, problem.loss), local=sgd(rate)))
    return replace(
        averaging, init=lambda params: averaging.init(base.init(params).params), personalise=base.personalise
    )


def _then(algorithm: Algorithm, loss: Objective, end: End) -> Callable[..., Any]:
    adapt = gradient_steps(loss, lr=end.lr, steps=end.steps)
    return lambda sent, kept, support: adapt(algorithm.personalise(sent, kept, support), support)


STILL = (ENDS[0],)
MOVING = ENDS[1:]
METHODS: dict[str, Method] = {
    "local": Method(by_steps(local), once(), "baseline"),
    "fedavg": Method(by_steps(fedavg), once(), "baseline", STILL),
    "fedavg + fine-tuning": Method(by_steps(fedavg), once(), "baseline", MOVING),
    "fedprox, μ = .1": Method(by_steps(fedprox, mu=0.1), once(), "baseline"),
    "scaffold": Method(by_steps(scaffold), once(), "baseline"),
    "pfedme": Method(make_pfedme, once(5), "personalised"),
    "ditto": Method(by_own_way(ditto, "personal"), once(2), "personalised"),
    "fedper": Method(by_own_way(fedper), once(), "personalised"),
    "fedrep": Method(by_own_way(fedrep), once(2), "personalised"),
    "fedbabu": Method(by_own_way(fedbabu), once(), "personalised"),
    "lg_fedavg": Method(by_own_way(lg_fedavg), once(), "personalised"),
    "apfl": Method(by_own_way(apfl, "personal"), once(2), "personalised"),
    "reptile": Method(by_steps(reptile), once(), "meta", MOVING),
    "per_fedavg, exact": Method(by_steps(per_fedavg, alpha=0.1), parts(10), "meta", MOVING),
    "per_fedavg, first order": Method(by_steps(per_fedavg, alpha=0.1, order="first"), parts(10), "meta", MOVING),
    "fedmeta, 5 steps": Method(by_server(fedmeta, steps=5), parts(50), "meta", MOVING),
    "meta_sgd": Method(by_server(meta_sgd), parts(50), "meta", MOVING),
    "anil": Method(by_server(anil), parts(50), "meta", MOVING),
    "fed_proto": Method(headed(fed_proto, scale=None), parts(50), "meta"),
    "fed_ridge": Method(headed(fed_ridge), parts(50), "meta"),
    "fed_ridge, local steps": Method(ridge_with_local_steps, parts(50), "meta"),
}


# ---- the table -------------------------------------------------------------------------------------------------------


def problem_of(mnist: Population, seeds: list[int]) -> Problem:
    """The clients of all seeds; three fifths of a client's images to train on, 15 % to tune by, a quarter to test."""
    dealt = [
        split(rows, 0.25, seed, n)
        for seed in seeds
        for n, rows in enumerate(dirichlet(mnist.labels, CLIENTS, SHARE, minimum=40, seed=seed))
    ]
    train, tuning, test = zip(
        *((rows[: -len(rows) // 5], rows[-len(rows) // 5 :], t) for rows, t in dealt), strict=True
    )
    model = first_weights(0)
    clients = (partitioned(mnist.x, mnist.y, rows, classes=mnist.classes) for rows in (train, tuning, test))
    return Problem(model, supervised(model.predict, cross_entropy), *clients)


def first_weights(seed: int) -> Model:
    with randomness.seeded_init(seed):
        return Model(mlp((784,), CLASSES, hidden=(HIDDEN,)))


def tuned(name: str, problem: Problem, settings: argparse.Namespace, bar: Progress) -> tuple[Tensor, str]:
    """Percent right on the test images [S] with the rate and the end that are best on the tuning images, and these."""
    method, best, found, what = METHODS[name], -1.0, torch.zeros(len(settings.seeds)), ""
    for rate in RATES:
        algorithm = method.make(problem, rate, ENDS[0])
        starts = [algorithm.init(first_weights(seed).params) for seed in settings.seeds]
        engine = Vectorised(Sampled(problem.train, method.items))
        rounds = together(algorithm, engine, starts, seeds=settings.seeds)
        states = last(rounds, settings.rounds, bar, f"{name}, rate {rate:g}")
        for end in method.ends:
            judge = partial(judged, method.make(problem, rate, end), engine, states, problem)
            tuning = float(judge(problem.tuning).mean())
            if tuning > best:
                best, found, what = tuning, judge(problem.test), f"rate {rate:g}, {end.steps} steps"
                what += f" of {end.lr:g}" if end.steps else ""
    return found, what


def judged(algorithm: Algorithm, engine: Vectorised, states: list[Any], problem: Problem, on: Population) -> Tensor:
    """Percent right over all clients' images: [S]. A model that is no longer finite is right nowhere."""
    source = Sampled(on, held_out_queries(problem.train, SUPPORT, queries=QUERIES), purpose="judge")
    right = scores(algorithm, engine, states, source, per_example(problem.model.predict, correct))
    return 100 * accuracy(right, torch.as_tensor(on.sizes).reshape(right.shape))


def figures(found: Mapping[str, tuple[Tensor, str]]) -> list[Figure]:
    rows = [
        Figure(f"{METHODS[name].kind}: {name} ({what})", *over_seeds(values), digits=4)
        for name, (values, what) in sorted(found.items(), key=lambda row: -float(row[1][0].mean()))
    ]
    best = {}
    for kind in ("personalised", "meta"):
        best[kind] = max((float(v.mean()) for n, (v, _) in found.items() if METHODS[n].kind == kind), default=None)
    if None not in best.values():
        gap = best["meta"] - best["personalised"]
        rows.append(Figure("best meta-learned start − best personalised method, points", gap, at_least=-0.2))
    return rows


def main() -> int:
    parser = arguments(__doc__ or "")
    add_data_argument(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of split, first weights and batches")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    try:
        problem = problem_of(images(settings.data_dir), settings.seeds)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    with progress() as bar:
        found = {name: tuned(name, problem, settings, bar) for name in bar.track(settings.only, description="methods")}
    return report(
        f"MNIST, Dirichlet({SHARE}), {CLIENTS} clients, MLP 784-{HIDDEN}-10, {settings.rounds} rounds of {BUDGET} "
        f"examples a client: accuracy in percent, mean ± deviation over {len(settings.seeds)} seeds",
        figures(found),
        settings=settings,
        began=began,
        notes=["in brackets: what was best on the images set apart for tuning"],
    )


if __name__ == "__main__":
    sys.exit(main())
