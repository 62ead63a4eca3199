"""FedProx on Synthetic(α, β) with stragglers: the proximal term holds the training loss where FedAvg's rises.

Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated optimization in heterogeneous networks", MLSys 2020, arXiv
1812.06127, section 5.2 and figure 1. Softmax regression, 60 features and 10 classes, 30 clients whose sizes follow a
power law; 10 of them a round do 20 epochs of batches of 10 at a rate of .01; 200 rounds. In each round 0, 50 or 90 %
of the 10 are stragglers, the same for all methods: FedAvg drops them; FedProx takes what they have done, 1 to 19
epochs (uniform), with μ = 0 and μ = 1. Clients count by their examples, as in the authors' code.

Reported: training loss and test accuracy, over all clients' examples, mean of the last 50 rounds.

Bands: in each of the nine settings the loss with μ = 1 is the lowest (ties within 1 %); the accuracy with μ = 1 changes
by less than one point from 0 to 90 % stragglers.

    python benchmarks/fedprox_synthetic.py
    python benchmarks/fedprox_synthetic.py --seeds 11 --rounds 20 --late 5

The authors' generator sets no seed, so that their training data cannot be made again. The default seeds are the first
three of ours with which the 30 clients hold as many examples as theirs (8,970 to 10,840), and none of them over 2,200
(theirs: 1,690 to 6,620; the largest client sets how long a round takes).
"""

import argparse
import functools
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from figures import Figure, arguments, over_seeds, progress, report
from rich.progress import Progress
from softmax import first_weights, predict
from together import Copies, together
from torch import Tensor

from seedbed import randomness
from seedbed.algorithms.fedprox import fedprox
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.data.stragglers import ShortenedTasks
from seedbed.data.types import Task
from seedbed.engines import Vectorised
from seedbed.federated import Algorithm, ClientId, Message, Params, Replies, ServerState
from seedbed.learning.objectives import Objective, cross_entropy, softmax_regression
from seedbed.learning.optimizers import sgd
from seedbed.rounds.round import choose_cohort
from seedbed.tree import Tree

CLIENTS, FEATURES, CLASSES = 30, 60, 10
COHORT, EPOCHS, BATCH, LR = 10, 20, 10, 0.01
SETS = ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0))  # α, β


class Way(NamedTuple):
    """A method among so many stragglers."""

    name: str
    mu: float
    stragglers: float
    drops: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.stragglers:.0%}"


WAYS = (
    Way("FedAvg", 0.0, 0.0),  # without stragglers FedProx with μ = 0 is the same
    Way("FedAvg", 0.0, 0.5, drops=True),
    Way("FedAvg", 0.0, 0.9, drops=True),
    Way("μ=0", 0.0, 0.5),
    Way("μ=0", 0.0, 0.9),
    *(Way("μ=1", 1.0, part) for part in (0.0, 0.5, 0.9)),
)
AGAIN = {  # the loss of an independent re-run, one draw of the data each (ALGORITHMS.md §4.6)
    (0.0, 0.0): (0.896, 0.703, 0.644, 0.802, 0.736, 0.480, 0.482, 0.485),
    (0.5, 0.5): (0.785, 0.588, 0.356, 0.703, 0.613, 0.318, 0.320, 0.322),
    (1.0, 1.0): (0.881, 0.676, 0.691, 0.780, 0.678, 0.343, 0.343, 0.345),
}


# ---- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Synthetic:
    """One draw of Synthetic(α, β): x [M, 60], y [M], whose [M], and which are for training [M]: 90 % of each client."""

    x: np.ndarray
    y: np.ndarray
    owner: np.ndarray
    training: np.ndarray


def synthetic(alpha: float, beta: float, seed: int) -> Synthetic:
    """Synthetic(α, β) as in the authors' generator, where α and β are standard deviations (in the paper variances).

    u_k ~ N(0, α), B_k ~ N(0, β), v_k ~ N(B_k, 1), x ~ N(v_k, diag(j^−1.2)), W_k and b_k ~ N(u_k, 1), y = argmax(xW_k +
    b_k).
    """
    rng = randomness.generator(seed, "synthetic")
    sizes = rng.lognormal(4, 2, CLIENTS).astype(int) + 50
    u, b = rng.normal(0, alpha, CLIENTS), rng.normal(0, beta, CLIENTS)
    deviation = np.arange(1, FEATURES + 1) ** -0.6
    xs, ys = [], []
    for k, n in enumerate(sizes):
        x = rng.normal(b[k], 1, FEATURES) + deviation * rng.normal(size=(n, FEATURES))
        w, bias = rng.normal(u[k], 1, (FEATURES, CLASSES)), rng.normal(u[k], 1, CLASSES)
        xs.append(x)
        ys.append((x @ w + bias).argmax(1))
    training = np.concatenate([np.arange(n) < int(0.9 * n) for n in sizes])
    return Synthetic(np.concatenate(xs), np.concatenate(ys), np.repeat(np.arange(CLIENTS), sizes), training)


def population(data: list[Synthetic]) -> Population:
    """The training examples of all draws: client k of draw d is number 30·d + k."""
    x, y = (np.concatenate([getattr(d, part)[d.training] for d in data]) for part in ("x", "y"))
    owner = np.concatenate([CLIENTS * i + d.owner[d.training] for i, d in enumerate(data)])
    return Population.from_arrays(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y), owner)


# ---- stragglers as in the authors' code: exactly so many of a cohort -------------------------------------------------


@functools.cache
def active(seed: int, stragglers: float, round: int) -> frozenset[int]:
    """The clients of the round's cohort that have time for all of their work."""
    cohort = choose_cohort(range(CLIENTS), COHORT, seed, round)
    rng = randomness.generator(seed, "active", round)
    return frozenset(rng.permutation(cohort)[: COHORT - round_half(stragglers * COHORT)].tolist())


def round_half(value: float) -> int:
    return int(value + 0.5)


def work(seed: int, stragglers: float, client: int, round: int) -> float:
    """The share of its 20 epochs that a client does: all, or for a straggler 1 to 19 of them."""
    if client in active(seed, stragglers, round):
        return 1.0
    return int(randomness.generator(seed, "epochs", round, client).integers(1, EPOCHS)) / EPOCHS


# ---- training --------------------------------------------------------------------------------------------------------


def with_mu_in_state(loss: Objective) -> Algorithm:
    """FedProx whose μ travels with the server's state, so that runs of different μ are one computation."""
    base = fedprox(loss, local=sgd(LR))

    def send(state: ServerState, client: ClientId) -> ServerState:
        return state

    def client(sent: ServerState, kept: Tree, task: Task) -> tuple[Message, Tree]:
        return fedprox(loss, mu=sent.extra["mu"], local=sgd(LR)).client(sent.params, kept, task)

    def server(state: ServerState, replies: Replies) -> ServerState:
        return ServerState(base.server(ServerState(state.params, {}), replies).params, state.extra)

    return replace(base, client=client, server=server, send=send)


def run(data: list[Synthetic], seeds: list[int], settings: argparse.Namespace, bar: Progress) -> Tensor:
    """Train everything: late (loss, accuracy) by draw and way, [D, W, 2]. `seeds` has one for each draw."""
    params = first_weights(FEATURES, 0)
    algorithm = with_mu_in_state(softmax_regression())
    runs = list(product(range(len(data)), WAYS))
    of = [CLIENTS * d + k for d, _ in runs for k in range(CLIENTS)]

    def share(client: int, round: int) -> float:
        d, way = runs[client // CLIENTS]
        return work(seeds[d], way.stragglers, client % CLIENTS, round)

    def answering(number: int, cohort: list[int], round: int) -> list[int]:
        d, way = runs[number]
        return [c for c in cohort if not way.drops or c % CLIENTS in active(seeds[d], way.stragglers, round)]

    source = ShortenedTasks(Copies(Sampled(population(data), batches(BATCH, epochs=EPOCHS)), of), share)
    starts = [ServerState(params, {"mu": torch.tensor(way.mu)}) for _, way in runs]
    rounds = together(
        algorithm,
        Vectorised(source, chunk=512),
        starts,
        seeds=[seeds[d] for d, _ in runs],
        cohort=COHORT,
        answering=answering,
    )
    late = []
    for round, states in enumerate(bar.track(rounds, total=settings.rounds, description=f"{len(runs)} runs"), 1):
        if round > settings.rounds - settings.late:
            late.append(judged(data, [state.params for state in states]))
        if round == settings.rounds:
            break
    return torch.stack(late).mean(0)


def judged(data: list[Synthetic], params: list[Params]) -> Tensor:
    """(training loss, test accuracy) of each draw's models on all clients' examples: [D, W, 2]."""
    found = []
    for i, d in enumerate(data):
        x, y = torch.as_tensor(d.x, dtype=torch.float32), torch.as_tensor(d.y)
        training = torch.as_tensor(d.training)
        for p in params[i * len(WAYS) : (i + 1) * len(WAYS)]:
            logits = predict(p, x)
            right = (logits[~training].argmax(1) == y[~training]).float()
            found.append(torch.stack([cross_entropy(logits[training], y[training]).mean(), right.mean()]))
    return torch.stack(found).reshape(len(data), len(WAYS), 2)


def figures(late: Tensor) -> list[Figure]:
    """late [sets, seeds, ways, 2]."""
    rows = []
    for i, pair in enumerate(SETS):
        name = "Synthetic({:g}, {:g})".format(*pair)
        for j, way in enumerate(WAYS):
            again = f"{AGAIN[pair][j]} [1]"
            rows.append(Figure(f"{name} {way}: loss", *over_seeds(late[i, :, j, 0]), published=again))
        for j, way in enumerate(WAYS):
            rows.append(Figure(f"{name} {way}: accuracy %", *over_seeds(100 * late[i, :, j, 1])))
        for part in (0.0, 0.5, 0.9):
            loss = {way.name: late[i, :, j, 0].mean() for j, way in enumerate(WAYS) if way.stragglers == part}
            least = min(value for way, value in loss.items() if way != "μ=1")
            rows.append(
                Figure(f"{name} {part:.0%}: loss of μ=1 / lowest other", float(loss["μ=1"] / least), at_most=1.01)
            )
        accuracy = {way.stragglers: 100 * late[i, :, j, 1].mean() for j, way in enumerate(WAYS) if way.name == "μ=1"}
        moved = float(abs(accuracy[0.9] - accuracy[0.0]))
        rows.append(Figure(f"{name} μ=1: |accuracy at 90 % − at 0 %|, points", moved, at_most=1.0))
    return rows


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 20, 24], help="of data, cohorts and stragglers")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--late", type=int, default=50, help="the last so many rounds are averaged")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    drawn = list(product(SETS, settings.seeds))
    with progress() as bar:
        late = run([synthetic(*pair, seed) for pair, seed in drawn], [seed for _, seed in drawn], settings, bar)
    return report(
        f"FedProx on Synthetic(α, β), last {settings.late} of {settings.rounds} rounds, "
        f"mean ± deviation over {len(settings.seeds)} draws of the data",
        figures(late.reshape(len(SETS), len(settings.seeds), len(WAYS), 2)),
        settings=settings,
        began=began,
        notes=["[1] an independent re-run on one draw of the data (ALGORITHMS.md §4.6); the paper shows curves only"],
    )


if __name__ == "__main__":
    sys.exit(main())
