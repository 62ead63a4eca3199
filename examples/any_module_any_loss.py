"""Your own module and your own loss: a robust regression over clients that each bend the same curve their own way.

python examples/any_module_any_loss.py
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import seedbed as sb
from seedbed.federated import as_sent
from seedbed.randomness import generator, seeded_init

SEED = 0
ROUNDS = 300
COHORT = 20
CLIENTS, EXAMPLES, INPUTS = 100, 40, 3
SHOTS = 10  # examples that an unseen client adapts to
ALPHA, BETA = 0.1, 0.1  # Per-FedAvg's inner and local learning rates


class Net(nn.Module):
    """Any module will do that is a function of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(INPUTS, 32), nn.LayerNorm(32), nn.Tanh())
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3] -> [B]."""
        out: Tensor = self.head(self.body(x)).squeeze(-1)
        return out


def huber(predictions: Tensor, y: Tensor) -> Tensor:
    """Any loss will do that gives one number per example: [B], [B] -> [B]."""
    return F.huber_loss(predictions, y, reduction="none", delta=1.0)


def clients() -> sb.Population:
    """y = tanh(xA)·(b + own) + noise, where every tenth noise is an outlier."""
    rng = generator(SEED, "clients")
    A, b = rng.normal(size=(INPUTS, 4)), rng.normal(size=4)
    owner = np.repeat(np.arange(CLIENTS), EXAMPLES)
    own = rng.normal(size=(CLIENTS, 4))[owner]
    x = rng.normal(size=(len(owner), INPUTS))
    noise = rng.normal(size=len(owner)) * np.where(rng.random(len(owner)) < 0.1, 2.0, 0.1)
    y = (np.tanh(x @ A) * (b + own)).sum(1) + noise
    return sb.Population.from_arrays(torch.as_tensor(x).float(), torch.as_tensor(y).float(), owner)


def main(rounds: int = ROUNDS) -> None:
    known, unseen = clients().split_clients(unseen=0.3, seed=SEED)
    with seeded_init(SEED):
        model = sb.Model(Net())
    loss = sb.supervised(model.predict, huber)

    algorithm = sb.per_fedavg(loss, alpha=ALPHA, local=sb.sgd(BETA), test_steps=5)
    engine = sb.Vectorised(sb.Sampled(known, sb.support_query(0.5, size=10, steps=5), seed=SEED))
    for round in sb.synchronous(algorithm, engine, algorithm.init(model.params), cohort=COHORT, seed=SEED):
        if round.number == rounds:
            break

    new = sb.Sampled(unseen, sb.fresh_support(SHOTS, draws=10), seed=SEED, purpose="judge")
    score = sb.per_example(model.predict, huber)
    for name, judged in {"before": replace(algorithm, personalise=as_sent), "after": algorithm}.items():
        found = sb.evaluate(sb.Vectorised(new), judged, round.state, new, score, higher_is_better=False)
        print(f"{name} adaptation, Huber loss: {found}")


if __name__ == "__main__":
    main()
