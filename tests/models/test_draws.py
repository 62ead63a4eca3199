"""What a model draws is keyed by seed, round, client and step: the same on every engine, and off in prediction."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import seedbed as sb
from seedbed import engines
from seedbed.learning.passes import predictions
from seedbed.models.draws import Draws

from .bench import ENGINES, Given, after, apart, encoder, head, mlp, recurrent, rows, source, trained

MODULES: dict[str, Callable[[], nn.Module]] = {
    "nn.Dropout": lambda: mlp(nn.Dropout(0.5)),
    "F.dropout": lambda: Given(lambda m, x: m.out(F.dropout(x, 0.5, m.training)), out=head()),
    "channels": lambda: Given(
        lambda m, x: m.out(m.drop(x.view(-1, 2, 2, 2)).flatten(1)), drop=nn.Dropout2d(0.5), out=head()
    ),
    "alpha": lambda: mlp(nn.AlphaDropout(0.3)),
    "rrelu": lambda: mlp(nn.RReLU()),
    "lstm": lambda: recurrent(nn.LSTM, dropout=0.5, batch_first=True),
    "gru": lambda: recurrent(nn.GRU, dropout=0.5, batch_first=True, bidirectional=True),
    "attention": lambda: Given(
        lambda m, x: m.out(m.attend(*[x.view(-1, 4, 2)] * 3)[0].flatten(1)),
        attend=nn.MultiheadAttention(2, 1, dropout=0.5, batch_first=True),
        out=head(),
    ),
    "encoder": lambda: encoder(batch_first=True),
    "randn": lambda: Given(lambda m, x: m.out(x + torch.randn_like(x)), out=head()),
    "rand of a shape": lambda: Given(lambda m, x: m.out(x * torch.rand(len(x), 1)), out=head()),
    "gumbel": lambda: Given(lambda m, x: m.out(F.gumbel_softmax(x)), out=head()),
    "distribution": lambda: Given(
        lambda m, x: m.out(torch.distributions.Normal(x, 1.0).rsample()), out=head()
    ),
    "time first": lambda: Given(
        lambda m, x: m.out(F.dropout(x.view(-1, 4, 2).transpose(0, 1), 0.5, m.training).transpose(0, 1).flatten(1)),
        out=head(),
    ),
    "hook": lambda: _with_noisy_hook(),
}  # fmt: skip


NUMPY = np.random.default_rng(0)
NOISY = ("randn", "rand of a shape", "gumbel", "distribution", "hook")


def _with_noisy_hook() -> nn.Module:
    made = mlp()
    made[0].register_forward_hook(lambda m, given, gave: gave + torch.randn_like(gave))
    return made


@pytest.mark.parametrize("name", MODULES)
def test_every_engine_draws_alike_and_prediction_does_not(name: str) -> None:
    module = MODULES[name]()
    state = torch.get_rng_state()
    model, one = trained(module)
    two = trained(module, lambda s: sb.OneByOne(s, workers=2))[1]
    stacked = trained(module, sb.Vectorised)[1]
    assert apart(one, two) == 0
    assert apart(one, stacked) < 1e-12
    x = rows()[0]
    assert torch.equal(model.predict(one, x), model.predict(one, x))
    if name not in NOISY:  # where dropout alone is random, padding and others change nothing
        assert torch.allclose(model.predict(one, x[:3]), model.predict(one, x)[:3], rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_at_work_in_training() -> None:
    module = mlp(nn.Dropout(0.5))
    _, dropped = trained(module)
    _, plain = trained(module.eval())
    assert apart(dropped, plain) > 1e-3


@pytest.mark.parametrize("executor", ["loop", "factored", "batched", "fused"])
def test_executors_draw_alike(executor: str) -> None:
    module = mlp(nn.Dropout(0.5))
    model, want = trained(module)
    loss = sb.supervised(model.predict, sb.cross_entropy)
    engine = engines.make("auto", source(), module, executor=executor, workers=2)
    assert apart(after(sb.fedavg(loss, local=sb.sgd(0.1)), engine, model.params), want) < 1e-12


def test_the_seed_the_round_the_client_and_the_step_change_what_is_drawn() -> None:
    drawn: dict[float, None] = {}
    model = sb.Model(Given(lambda m, x: m.out(x) + torch.randn(len(x), 1), out=head()))
    x = torch.zeros(1, 8)
    for seed in (0, 1):
        engine = sb.OneByOne(sb.Sampled(source().population, sb.batches(4), seed=seed))
        for round in (0, 1):
            for client in (0, 1):
                keys = engine.training_tasks([client], round, model.params).items.key[0]
                for key in keys:
                    batch = sb.Batch(x, torch.zeros(1), torch.ones(1), key)
                    drawn[float(predictions(model.predict, model.params, batch)[0, 0])] = None
    assert len(drawn) == 2 * 2 * (3 + 2)


@pytest.mark.parametrize("order", ["exact", "recomputed", "hessian_free"])
def test_orders_of_the_meta_gradient_see_the_same_draws(order: Any) -> None:
    """Each inner step has draws of its own, and they are the same when it is computed again."""
    model = sb.Model(mlp(nn.Dropout(0.3)))
    loss, items = sb.supervised(model.predict, sb.cross_entropy), source(sb.support_query(0.5))
    ends = []
    for way, engine in ((order, sb.OneByOne), ("exact", sb.Vectorised)):
        algorithm = sb.fedmeta(loss, lr=0.05, steps=2, order=way, outer=sb.sgd(0.1), delta=1e-6)
        ends.append(after(algorithm, engine(items), model.params, rounds=1))
    assert apart(*ends) < (1e-6 if order == "hessian_free" else 1e-12)


def test_draws_are_what_they_are_called() -> None:
    draws, n = Draws(torch.tensor(7)), 200_000
    u, z, e = (
        draws.uniform((n,), torch.float64),
        draws.normal((n,), torch.float64),
        draws.exponential((n,), torch.float64),
    )
    near = 5 / n**0.5
    assert abs(float(u.mean()) - 0.5) < near
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert abs(float(z.mean())) < near
    assert abs(float(z.var()) - 1) < 2 * near
    assert abs(float(e.mean()) - 1) < near
    assert abs(float(draws.keeps((n,), 0.3, torch.float64).mean()) - 0.7) < near
    assert abs(float((u[1:] * u[:-1]).mean()) - 0.25) < near  # neighbours are independent
    assert sorted(set(draws.whole(2, 5, (1000,)).tolist())) == [2, 3, 4]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda m, x: m.out(torch.poisson(x.abs())), "draws by poisson"),
        (lambda m, x: m.out(x * torch.distributions.Gamma(1.0, 1.0).sample()), "draws by _standard_gamma"),
        (lambda m, x: m.out(x * float(NUMPY.random())), "NumPy's random numbers"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_keyed_is_refused_by_name(forward: Any, words: str, engine: Any) -> None:
    with pytest.raises(sb.InputError, match=words) as error:
        trained(Given(forward, out=head()), engine)
    assert "\n" not in str(error.value)
