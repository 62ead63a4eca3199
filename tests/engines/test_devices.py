"""Every executor on every device that there is: the same round as the reference on the CPU."""

import pytest
import torch
from torch import nn

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches, support_query
from seedbed.engines import EXECUTORS, OneByOne, make
from seedbed.federated import Algorithm, Engine
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model
from seedbed.rounds import synchronous

pytestmark = pytest.mark.usefixtures("float64")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
NETS = {
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3)),
    "conv": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 20), nn.Linear(20, 3)),
}
ALGORITHMS = {
    "fedavg": lambda loss: fedavg(loss, local=sgd(0.1)),
    "scaffold": lambda loss: scaffold(loss, local=sgd(0.1)),
    "fedmeta": lambda loss: fedmeta(loss, outer=sgd(0.1)),
}


def clients(name: str) -> Sampled:
    """Six, of 7 to 12 images."""
    g = torch.Generator().manual_seed(0)
    owner = [c for c in range(6) for _ in range(7 + c)]
    population = Population.from_arrays(
        torch.randn(len(owner), 1, 8, 8, generator=g), torch.arange(len(owner)) % 3, owner
    )
    return Sampled(population, support_query(0.5) if name == "fedmeta" else batches(4))


def ends(algorithm: Algorithm, engine: Engine, model: Model) -> list[torch.Tensor]:
    """The parameters after two rounds."""
    rounds = synchronous(algorithm, engine, algorithm.init(model.params))
    state = [next(rounds).state for _ in range(2)][-1]
    return [leaf.cpu() for leaf in tree.leaves(state.params)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_round_is_the_references(executor: str, net: str, name: str, device: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(NETS[net]())
    there = model.to(device)
    want, found = (
        ends(ALGORITHMS[name](supervised(m.predict, cross_entropy)), engine, m)
        for m, engine in (
            (model, OneByOne(clients(name))),
            (there, make("auto", clients(name), there.module, executor=executor)),
        )
    )
    assert max(float((a - b).abs().max()) for a, b in zip(found, want, strict=True)) <= 1e-10
