"""FedBN: batch normalisation as a function, and clients that keep theirs."""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedbn import fedbn
from seedbed.data.types import Batch
from seedbed.learning.batchnorm_training import with_batch_statistics
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import BatchNorm, Model, conv, mlp
from seedbed.randomness import seeded_init

from .bench import CLASSES, ENGINES, INPUTS, apart, batch, rounds, task

OURS, THEIRS = ("weight", "bias", "mean", "var"), ("weight", "bias", "running_mean", "running_var")


@functools.cache
def model(kind: str = "mlp") -> Model:
    with seeded_init(0):
        if kind == "mlp":
            return Model(mlp((INPUTS,), CLASSES, hidden=(6, 5), norm="batch"))
        return Model(conv((1, 8, 8), CLASSES, channels=8, norm="batch"))


def loss_of(made: Model) -> Any:
    return supervised(made.predict, cross_entropy)


def inputs(kind: str, count: int, seed: int = 0) -> Tensor:
    shape = (INPUTS,) if kind == "mlp" else (1, 8, 8)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def in_pytorch(made: Model, params: Any) -> nn.Module:
    """The same network with PyTorch's own layers, whose momentum of 1 makes the running statistics the last batch's."""
    module = copy.deepcopy(made.module)
    for name, layer in [(n, m) for n, m in module.named_modules() if isinstance(m, BatchNorm)]:
        theirs = (nn.BatchNorm1d if name.count(".") == 1 else nn.BatchNorm2d)(len(layer.weight), momentum=1.0)
        module.set_submodule(name, theirs)
    module.load_state_dict(
        {
            n.replace(".mean", ".running_mean").replace(".var", ".running_var"): p
            for n, p in params.items()
            if not n.endswith(".count")
        },
        strict=False,
    )
    return module


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_training_and_prediction_are_pytorch_s(kind: str) -> None:
    """Under the batch's own statistics: nn.BatchNorm in training mode, value and gradient of every parameter. And the
    statistics: nn.BatchNorm's running ones with momentum 1, whose variance is divided by n − 1 where ours is by n."""
    made, x, y = model(kind), inputs(kind, 12), torch.arange(12) % CLASSES
    b = Batch(x, y, torch.ones(12))
    module = in_pytorch(made, made.params).train()
    value = nn.functional.cross_entropy(module(x), y)
    value.backward()
    slopes = grad(with_batch_statistics(loss_of(made), made))(made.params, b)
    assert apart(with_batch_statistics(loss_of(made), made)(made.params, b), value.detach()) < 1e-13
    for n, p in module.named_parameters():
        assert p.grad is not None
        assert apart(slopes[n], p.grad) < 1e-12
    assert all(slopes[n].abs().max() == 0 for n in made.statistics)
    measured = made.measure(made.params, x, torch.ones(12))
    state = module.state_dict()
    for layer in {n.rsplit(".", 1)[0] for n in made.statistics}:
        places = 12 if kind == "mlp" else None
        assert apart(measured[f"{layer}.mean"], state[f"{layer}.running_mean"]) < 1e-13
        assert measured[f"{layer}.count"] == 12
        if places:
            assert apart(measured[f"{layer}.var"], state[f"{layer}.running_var"] * (places - 1) / places) < 1e-13
    judged = in_pytorch(made, measured).eval()
    assert apart(made.predict(measured, x), judged(x).detach()) < 1e-13


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_statistics_are_of_the_real_examples_alone(kind: str) -> None:
    """Padding of about a million changes neither statistics nor the loss nor its gradient; stacked as alone."""
    made, x = model(kind), inputs(kind, 7)
    plain = Batch(x, torch.arange(7) % CLASSES, torch.ones(7))
    more = Batch(torch.cat([x, 1e6 * x[:3]]), torch.arange(10) % CLASSES, (torch.arange(10) < 7).to(x.dtype))
    measured = [made.measure(made.params, b.x, b.mask) for b in (plain, more)]
    assert apart(*measured) < 1e-12
    objective = with_batch_statistics(loss_of(made), made)
    slope = grad(objective)(made.params, plain)
    assert apart(slope, grad(objective)(made.params, more)) < 1e-11
    stacked = vmap(grad(objective), in_dims=(None, 0))(made.params, tree.stack([plain, plain]))
    assert apart(tree.index(stacked, 1), slope) < 1e-12


def test_measuring_leaves_nothing_behind() -> None:
    """Predictions before and after, with the same params, are the same; and a batch of which nothing is real gives
    finite numbers."""
    made, x = model(), inputs("mlp", 5)
    before = made.predict(made.params, x)
    nothing = made.measure(made.params, x, torch.zeros(5))
    assert all(torch.isfinite(p).all() for p in nothing.values())
    assert torch.equal(made.predict(made.params, x), before)


def clients() -> list[Any]:
    return [task(batch(3 * c, 6 + c, 2 - c), batch(3 * c + 1, 6 + c, 2 - c), examples=2 * c + 1) for c in range(3)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round(engine: Any) -> None:
    """What is not normalisation is averaged by n_i; each client's γ, β are as it left them, and its statistics those of
    all its examples under its trained parameters; the server keeps normalisation as it began."""
    made = model()
    algorithm = fedbn(loss_of(made), made, local=sgd(0.2))
    schedule = rounds(algorithm, clients(), made.params, 1, engine)
    state = schedule[-1].state
    trained = []
    for one in clients():
        params = made.params
        for k in range(2):
            slope = grad(with_batch_statistics(loss_of(made), made))(params, tree.index(one.items, k))
            params = tree.axpy(-0.2, slope, params)
        x, mask = one.items.x.flatten(0, 1), one.items.mask.flatten()
        trained.append(made.measure(params, x[mask > 0], mask[mask > 0]))
    for n, p in state.params.items():
        mean = sum(w * t[n] for w, t in zip((1, 3, 5), trained, strict=True)) / 9
        assert apart(p, made.params[n] if n in made.normalising else mean) < 1e-12
    kept = algorithm.client(made.params, algorithm.remember(made.params), clients()[0])[1]
    assert set(kept) == set(made.normalising)
    assert apart(kept, {n: trained[0][n] for n in kept}) < 1e-12


def test_nothing_of_normalisation_is_sent() -> None:
    made = model()
    algorithm = fedbn(loss_of(made), made)
    message, _ = algorithm.client(made.params, algorithm.remember(made.params), clients()[0])
    assert set(message.value) == set(made.params) - made.normalising
    assert len(made.normalising) == 10


def test_known_clients_use_their_statistics_and_new_ones_their_support_set_s() -> None:
    """test_steps = 0: a known client has the shared parameters and what it kept, whatever its support set; one never
    seen the initial γ, β and the statistics of its support set."""
    made = model()
    algorithm = fedbn(loss_of(made), made, test_steps=0)
    new = algorithm.remember(made.params)
    _, kept = algorithm.client(made.params, new, clients()[0])
    for support in (batch(7), batch(8)):
        assert apart(algorithm.personalise(made.params, kept, support), {**made.params, **kept}) == 0
        want = made.measure(made.params, support.x, support.mask)
        assert apart(algorithm.personalise(made.params, new, support), want) == 0


def test_adapting_steps_leave_the_statistics() -> None:
    """All else moves along ∇L under the statistics at hand."""
    made = model()
    algorithm = fedbn(loss_of(made), made, test_steps=2, test_lr=0.1)
    want = made.measure(made.params, batch(7).x, batch(7).mask)
    for _ in range(2):
        slope = grad(loss_of(made))(want, batch(7))
        want = {n: p if n in made.statistics else p - 0.1 * slope[n] for n, p in want.items()}
    assert apart(algorithm.personalise(made.params, algorithm.remember(made.params), batch(7)), want) < 1e-14


def test_weight_decay_does_not_reach_the_statistics() -> None:
    """They are not trained: a client's are what is measured, with any optimiser."""
    made = model()
    algorithm = fedbn(loss_of(made), made, local=sgd(0.0, weight_decay=0.5, momentum=0.9))
    _, kept = algorithm.client(made.params, algorithm.remember(made.params), clients()[2])
    one = clients()[2].items
    want = made.measure(made.params, one.x.flatten(0, 1), one.mask.flatten())
    assert apart(kept, {n: want[n] for n in kept}) < 1e-13


def test_without_normalisation_it_is_fedavg() -> None:
    """A model without `BatchNorm` layers: the same parameters after two rounds; clients keep nothing."""
    with seeded_init(0):
        made = Model(mlp((INPUTS,), CLASSES, hidden=(6,)))
    found = [
        rounds(a, clients(), made.params, 2)[-1].state for a in (fedbn(loss_of(made), made), fedavg(loss_of(made)))
    ]
    assert apart(found[0].params, found[1].params) < 1e-15
    assert fedbn(loss_of(made), made).remember(made.params) == {}
