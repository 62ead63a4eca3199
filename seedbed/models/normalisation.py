"""Batch normalisation as a function of its parameters, for clients that keep statistics of their own.

Shapes: B examples, C channels.
"""

import torch
from torch import Tensor, nn

STATISTICS = ("mean", "var", "count")


class BatchNorm(nn.Module):
    """γ·(x − mean)/√(var + ε) + β over [B, C, ...], with mean and variance of each channel given like parameters.

    Ioffe and Szegedy, ICML 2015, without what makes PyTorch's layers no function of their parameters: nothing is
    written while predicting. `Model.measure` gives the statistics of a batch.

    Attributes:
        weight, bias: γ and β, [C].
        mean, var: [C]  0 and 1 until they are measured.
        count: []  how many examples they are of; 0: not measured yet.
    """

    def __init__(self, channels: int, *, epsilon: float = 1e-5):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mean, self.var = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.ones(channels))
        self.count = nn.Parameter(torch.zeros(()))
        self.epsilon = epsilon
        self.mask: Tensor | None = None  # while measuring: which examples are real, [B]
        self.measured: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...]."""
        if self.mask is not None:
            self.measured = statistics(x, self.mask)
        now = self.measured or {"mean": self.mean, "var": self.var}
        shape = (-1, *[1] * (x.ndim - 2))
        scale = self.weight / (now["var"] + self.epsilon).sqrt()
        return (x - now["mean"].view(shape)) * scale.view(shape) + self.bias.view(shape)


def statistics(x: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Mean and variance (divided by n) of each channel over the real examples and all places of [B, C, ...]."""
    real = mask.view(-1, *[1] * (x.ndim - 1))
    over = (0, *range(2, x.ndim))
    n = (mask.sum() * x[0, 0].numel()).clamp_min(1)
    mean = (x * real).sum(over) / n
    away = (x - mean.view(-1, *[1] * (x.ndim - 2))) * real
    return {"mean": mean, "var": (away * away).sum(over) / n, "count": mask.sum()}
