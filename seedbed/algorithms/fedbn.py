"""FedBN: Li, Jiang, Zhang, Kamp and Dou, "FedBN: federated learning on non-IID features via local batch normalization",
ICLR 2021, arXiv 2102.07623, Algorithm 1: FedAvg, in which each client's batch normalisation is its own.
"""

from seedbed.algorithms.fedper import partly_shared
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, Params
from seedbed.learning.adaptations import guarded_steps
from seedbed.learning.batchnorm_training import (
    WithBatchStatistics,
    measure_statistics,
    measure_statistics_once,
    with_batch_statistics,
)
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.parameter_subsets import train_part
from seedbed.learning.training import Objective, TrainResult


def fedbn(
    loss: Objective,
    model: WithBatchStatistics,
    *,
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    test_steps: int = 10,
    test_lr: float = 0.1,
) -> Algorithm:
    """θ_i ← local steps under the statistics of each batch; all but the normalisation ← Σ n_i θ_i / Σ n_i.

    A client keeps γ, β and its statistics. Without normalisation it is FedAvg.

    Args:
        model: which parameters are normalisation's, and how statistics are measured: a `Model` with `BatchNorm` layers.
        test_steps: gradient steps, of all but the statistics, when a client adapts, under the statistics that it keeps.
            A client never seen has the initial γ and β and takes the statistics of its support set: the paper has known
            clients only, and is test_steps=0 for those.
        test_lr: their learning rate.
    """

    def own(name: str) -> bool:
        return name in model.normalising

    def trains(name: str) -> bool:
        return name not in model.statistics

    def learn(params: Params, task: Task) -> TrainResult:
        trained = train_part(with_batch_statistics(loss, model), local, params, task, moves=trains)
        # Departure: statistics of all the round's examples under the trained parameters, where the paper's layers keep
        # a moving average over past steps: it would be of parameters that are no more, and hang on the order of steps.
        return trained._replace(params=measure_statistics(model, trained.params, task))

    steps = guarded_steps(loss, lr=test_lr, steps=test_steps, moves=trains)

    def adapt(params: Params, support: Batch) -> Params:
        return steps(measure_statistics_once(model, params, support), support)

    return partly_shared(learn, shared=lambda n: not own(n), personal=own, outer=outer, adapt=adapt)
