"""The benchmark's workloads: five models, and a round's work on each, with random data.

Shapes: B examples of a batch, T tokens of a text.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedbed import randomness
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches, episodes
from seedbed.federated import Algorithm
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model, mlp

LR, INNER_LR = 0.05, 0.4
VOCABULARY, CHARACTERS = 80, 80
WAYS, QUERIES = 5, 15


@dataclass(frozen=True)
class Workload:
    """A model and the work of a round.

    Attributes:
        what: description.
        module: makes the model.
        example: draws inputs: (count, generator) → [count, ...].
        classes: number of classes.
        clients: per round.
        steps: per client; for maml, its episodes.
        executors: the executors to time.
        batch: examples per step; for maml, of support and query together.
        meta: whether the workload is second-order MAML.
        numbers: floating-point operations per step if they cannot be counted; None: count them.
    """

    what: str
    module: Callable[[], nn.Module]
    example: Callable[[int, torch.Generator], Tensor]
    classes: int
    clients: int
    steps: int
    executors: tuple[str, ...]
    batch: int = 10
    meta: bool = False
    numbers: float | None = None

    def model(self) -> Model:
        with randomness.seeded_init(0):
            return Model(self.module())

    def source(self) -> Sampled:
        """A source in which every client has exactly the examples that its steps need."""
        count = self.steps * self.batch
        g = torch.Generator().manual_seed(0)
        x = self.example(self.clients * count, g)
        y = torch.arange(self.clients * count) % self.classes
        owner = np.repeat(np.arange(self.clients), count)
        sampler = (
            episodes(ways=WAYS, shots=1, queries=QUERIES, count=self.steps)
            if self.meta
            else batches(self.batch, steps=self.steps)
        )
        return Sampled(Population.from_arrays(x, y, owner), sampler)

    def algorithm(self, model: Model) -> Algorithm:
        loss = supervised(model.predict, cross_entropy)
        return fedmeta(loss, lr=INNER_LR, outer=sgd(LR)) if self.meta else fedavg(loss, local=sgd(LR))


class Femnist(nn.Module):
    """LEAF's network for FEMNIST: 6.6 million parameters, of which 6.4 million in one dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
        self.body, self.head = nn.Linear(3136, 2048), nn.Linear(2048, 62)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 28, 28] -> [B, 62]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: Tensor = self.head(F.relu(self.body(x.flatten(1))))
        return logits


class Digits(nn.Module):
    """The network of PyTorch's MNIST example: 1.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.body, self.head = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 28, 28] -> [B, 10]."""
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        logits: Tensor = self.head(F.relu(self.body(x.flatten(1))))
        return logits


class NextCharacter(nn.Module):
    """LEAF's network for Shakespeare: two LSTM layers over 80 characters, then the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.lstm = nn.LSTM(8, 256, 2, batch_first=True)
        self.head = nn.Linear(256, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T] -> [B, VOCABULARY]."""
        logits: Tensor = self.head(self.lstm(self.embed(x))[0][:, -1])
        return logits


def four_convolutions() -> nn.Module:
    """The network of few-shot papers for Omniglot: four times 64 channels, batch normalisation, pooling."""
    layers: list[nn.Module] = []
    for inputs in (1, 64, 64, 64):
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        layers += [nn.Conv2d(inputs, 64, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, WAYS))


def count_parameters(*shape: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda count, g: torch.randn(count, *shape, generator=g)


def _texts(count: int, g: torch.Generator) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, CHARACTERS), generator=g)


WORKLOADS = {
    "mlp": Workload(
        "perceptron 60-64-10",
        lambda: mlp((60,), 10, hidden=(64,)),
        count_parameters(60),
        classes=10,
        clients=100,
        steps=20,
        executors=("loop", "stacked", "batched", "fused"),
    ),
    "cnn": Workload(
        "LEAF FEMNIST CNN, 6.6 M",
        Femnist,
        count_parameters(1, 28, 28),
        classes=62,
        clients=10,
        steps=10,
        executors=("loop", "loop in processes", "factored", "factored in processes"),
    ),
    "small_cnn": Workload(
        "MNIST CNN, 1.2 M",
        Digits,
        count_parameters(1, 28, 28),
        classes=10,
        clients=10,
        steps=10,
        executors=("loop", "loop in processes", "factored", "factored in processes"),
    ),
    "lstm": Workload(
        "2-layer LSTM-256, 80 characters",
        NextCharacter,
        _texts,
        classes=VOCABULARY,
        clients=4,
        steps=4,
        executors=("loop", "loop in processes"),
        numbers=3 * 2 * 10 * CHARACTERS * 4 * 256 * (8 + 256 + 256 + 256),
    ),
    "maml": Workload(
        "second-order MAML, 5-way 1-shot",
        four_convolutions,
        count_parameters(1, 28, 28),
        classes=WAYS,
        clients=8,
        steps=2,
        executors=("loop", "loop in processes"),
        batch=WAYS * (QUERIES + 1),
        meta=True,
    ),
}
