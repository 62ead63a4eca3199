"""Ragged clients, small modules, and plain PyTorch to compare with.

Shapes: B examples.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import seedbed as sb
from seedbed import tree

SIZES, INPUTS, CLASSES, BATCH = (12, 7, 10), 8, 3, 4
ENGINES = (sb.OneByOne, sb.Vectorised)


class Given(nn.Module):
    """A forward of given layers."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: Any):
        super().__init__()
        self._own = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self._own(self, x)


def head(inputs: int = INPUTS) -> nn.Linear:
    return nn.Linear(inputs, CLASSES)


def mlp(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(INPUTS, 16), *middle, nn.ReLU(), nn.Linear(16, CLASSES))


def recurrent(kind: Any, **settings: Any) -> nn.Module:
    return Given(lambda m, x: m.out(m.rnn(x.view(-1, 4, 2))[0][:, -1, :4]), rnn=kind(2, 4, 2, **settings), out=head(4))


def encoder(**settings: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(2, 1, 4, **settings)
    return Given(lambda m, x: m.out(m.layer(x.view(-1, 4, 2)).flatten(1)), layer=layer, out=head())


def rows() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(sum(SIZES), INPUTS, generator=draw, dtype=torch.float64) + 0.5
    return x, x[:, :CLASSES].argmax(1)


def source(sampler: Any = None) -> sb.Sampled:
    owners = [name for name, size in zip("abc", SIZES, strict=True) for _ in range(size)]
    return sb.Sampled(sb.Population.from_arrays(*rows(), owners, classes=CLASSES), sampler or sb.batches(BATCH))


def after(algorithm: Any, engine: Any, params: Any, *, rounds: int = 3) -> Any:
    """The server's params after so many rounds."""
    for round in sb.synchronous(algorithm, engine, algorithm.init(params)):
        if round.number == rounds:
            return round.state.params
    raise AssertionError("rounds end")


def trained(module: nn.Module, engine: Any = sb.OneByOne, *, local: Any = None, **settings: Any) -> tuple[Any, Any]:
    """The model, and its params after three rounds of FedAvg."""
    model = sb.Model(module, **settings)
    algorithm = sb.fedavg(sb.supervised(model.predict, sb.cross_entropy), local=local or sb.sgd(0.1))
    return model, after(algorithm, engine(source()), model.params)


def plainly_trained(module: nn.Module, make: Callable[[Any], torch.optim.Optimizer]) -> nn.Module:
    """The same in plain PyTorch: no padding, modules in training mode, state dicts averaged by examples."""
    server, tasks = copy.deepcopy(module), source()
    for round in range(3):
        total: dict[str, Tensor] = {}
        for client, size in enumerate(SIZES):
            own = copy.deepcopy(server).train()
            optimizer, items = make(p for p in own.parameters() if p.requires_grad), tasks.tasks([client], round).items
            for x, y, mask in zip(items.x[0], items.y[0], items.mask[0].bool(), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(own(x[mask]), y[mask]).backward()
                optimizer.step()
            for name, value in own.state_dict().items():
                if value.is_floating_point():
                    total[name] = total.get(name, 0) + value.detach() * size / sum(SIZES)
        server.load_state_dict({**server.state_dict(), **total})
    return server.eval()


def apart(a: Any, b: Any) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))
