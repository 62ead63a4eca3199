"""Few small clients and a small model, for what is looked at in engines."""

import torch
from torch import nn

from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.models import Model


def clients() -> Sampled:
    """Six, of 8 to 13 examples."""
    g = torch.Generator().manual_seed(0)
    owner = [c for c in range(6) for _ in range(8 + c)]
    population = Population.from_arrays(torch.randn(len(owner), 5, generator=g), torch.arange(len(owner)) % 3, owner)
    return Sampled(population, batches(4), seed=1)


def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)))
