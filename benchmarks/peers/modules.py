"""The workloads' networks in plain PyTorch, as peers are given them: parameters have the names that Seedbed's have."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from turns import Work


class Perceptron(nn.Module):
    """60-64-10."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(60, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class TwoConvolutions(nn.Module):
    """5×5 or 3×3 convolutions of 32 and 64 channels, and two dense layers."""

    def __init__(self, size: int, padding: int, width: int, hidden: int, classes: int, first_pool: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, size, padding=padding)
        self.conv2 = nn.Conv2d(32, 64, size, padding=padding)
        self.body, self.head = nn.Linear(width, hidden), nn.Linear(hidden, classes)
        self.first_pool = first_pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(x, 2) if self.first_pool else x
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.head(F.relu(self.body(x.flatten(1))))


class NextCharacter(nn.Module):
    """Two LSTM layers of 256 over 80 characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(80, 8)
        self.lstm = nn.LSTM(8, 256, 2, batch_first=True)
        self.head = nn.Linear(256, 80)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


def four_convolutions() -> nn.Module:
    """64 channels each, batch normalisation by the batch's own statistics, pooling; 5 ways."""
    layers: list[nn.Module] = []
    for inputs in (1, 64, 64, 64):
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        layers += [nn.Conv2d(inputs, 64, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": Perceptron,
    "cnn": lambda: TwoConvolutions(5, 2, 3136, 2048, 62, True),
    "small_cnn": lambda: TwoConvolutions(3, 0, 9216, 128, 10, False),
    "lstm": NextCharacter,
    "maml": four_convolutions,
}


def module(work: Work) -> nn.Module:
    """The workload's network with its first weights; one thread for each operation from here on."""
    torch.set_num_threads(1)
    made = MODULES[work.name]()
    made.load_state_dict({n: torch.as_tensor(p) for n, p in work.params.items()})
    return made


def params(of: nn.Module) -> dict[str, object]:
    """Its parameters by name, as NumPy arrays."""
    return {n: p.detach().numpy() for n, p in of.named_parameters()}


def batches(work: Work, client: int) -> list[tuple[Tensor, Tensor]]:
    """A client's K batches of a round, in order: ([B, ...], [B]) each."""
    x, y = torch.as_tensor(work.x[client]), torch.as_tensor(work.y[client])
    return list(zip(x, y, strict=True))


def episodes(work: Work) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Every client's episodes one after another: support ([B, ...], [B]) and query."""
    arrays = [torch.as_tensor(a).flatten(0, 1) for a in (work.x, work.y, work.query_x, work.query_y)]
    return list(zip(*arrays, strict=True))


def train(of: nn.Module, steps: list[tuple[Tensor, Tensor]], lr: float) -> float:
    """Local SGD as one writes it by hand, in place; the mean loss."""
    optimizer, total = torch.optim.SGD(of.parameters(), lr=lr), 0.0
    for x, y in steps:
        optimizer.zero_grad()
        loss = F.cross_entropy(of(x), y)
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    return total / len(steps)
