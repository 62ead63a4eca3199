"""FedAvg over 1,000 clients of MNIST: softmax regression on two digits each, sizes by a power law.

FedML's benchmark (He et al., "FedML: a research library and benchmark for federated machine learning", 2020, arXiv
2007.13518; doc/BENCHMARK_simulation): "MNIST + LR, power law, 1,000 clients, 10 a round, 200 rounds, batches of 10, a
rate of .03, 1 epoch", accuracy 81.9 %, on the split of FedProx's generator (nine tenths of a client for training). The
accuracy is that of the global model over all clients' test images after the last round.

FedML's model ends in a sigmoid *before* the softmax of its loss (python/fedml/model/linear/lr.py), so that no logit
leaves 0…1 and its gradients are small: `FedML's model` below. The other is plain softmax regression.

Band: plain softmax regression at least 0.81.

    python benchmarks/mnist_1000.py --root DATA
"""

import argparse
import sys
import time

import torch
from figures import Figure, arguments, over_seeds, progress, report
from mnist_clients import add_data_argument, dealt, images, power_law
from rich.progress import Progress
from softmax import first_weights, predict
from together import global_accuracies, last, together
from torch import Tensor

from seedbed.algorithms.fedavg import fedavg
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.engines import Vectorised
from seedbed.errors import InputError
from seedbed.federated import Params
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd

CLIENTS, COHORT, BATCH, LR = 1000, 10, 10, 0.03
BAND, PUBLISHED = 0.81, 0.819


def through_sigmoid(params: Params, x: Tensor) -> Tensor:
    """FedML's: [B, 784] -> [B, 10], all within 0…1."""
    return predict(params, x).sigmoid()


MODELS = {"softmax regression": predict, "FedML's model": through_sigmoid}


def run(name: str, train: Population, settings: argparse.Namespace, bar: Progress) -> list[Params]:
    """All seeds' models after the last round."""
    algorithm = fedavg(supervised(MODELS[name], cross_entropy), local=sgd(LR))
    starts = [algorithm.init(first_weights(784, seed)) for seed in settings.seeds]
    engine = Vectorised(Sampled(train, batches(BATCH)))
    rounds = together(algorithm, engine, starts, seeds=settings.seeds, cohort=COHORT)
    return [state.params for state in last(rounds, settings.rounds, bar, name)]


def main() -> int:
    parser = arguments(__doc__ or "")
    add_data_argument(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of split, first weights and batches")
    parser.add_argument("--rounds", type=int, default=200)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    try:
        train, test = dealt(images(settings.data_dir, standardised=True), power_law, settings.seeds, test=0.1)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    rows = []
    with progress() as bar:
        for name, model in MODELS.items():
            found = global_accuracies(model, run(name, train, settings, bar), test)
            plain = model is predict
            published = "" if plain else f"{PUBLISHED} [1]"
            rows.append(Figure(name, *over_seeds(found), published, at_least=BAND if plain else None))
    return report(
        f"MNIST, 1,000 clients, {settings.rounds} rounds of FedAvg: accuracy, mean ± deviation over "
        f"{len(settings.seeds)} seeds",
        rows,
        settings=settings,
        began=began,
        notes=["[1] FedML's benchmark table (ALGORITHMS.md §4.9)"],
    )


if __name__ == "__main__":
    sys.exit(main())
