"""A law: FedAvg of any module on ragged clients is plain PyTorch's, on both engines, to 1e-10."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import seedbed as sb
from seedbed.tree import STATISTIC

from .bench import ENGINES, Given, after, encoder, head, mlp, plainly_trained, recurrent, rows, source, trained


class Running(nn.Module):
    """A running mean of inputs, assigned anew."""

    def __init__(self) -> None:
        super().__init__()
        self.out = head()
        self.register_buffer("mean", torch.zeros(8))

    def update(self, now: Tensor) -> None:
        self.mean = 0.9 * self.mean + 0.1 * now

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.update(x.detach().mean(0))
        found: Tensor = self.out(x - self.mean)
        return found


class RunningInPlace(Running):
    def update(self, now: Tensor) -> None:
        self.mean.mul_(0.9).add_(now, alpha=0.1)


def frozen_body() -> nn.Module:
    made = mlp()
    made[0].requires_grad_(False)
    return made


def frozen_norm() -> nn.Module:
    return mlp(nn.BatchNorm1d(16).requires_grad_(False))


def tied() -> nn.Module:
    made = Given(lambda m, x: m.out(m.two(m.one(x).relu())), one=nn.Linear(8, 8), two=nn.Linear(8, 8), out=head())
    made.two.weight = made.one.weight
    return made


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)
    )


MODULES: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: mlp(nn.BatchNorm1d(16)),
    "batch norm without affine": lambda: mlp(nn.BatchNorm1d(16, affine=False, momentum=0.3)),
    "batch norm of images": convolutional,
    "batch norm of the batch": lambda: mlp(nn.BatchNorm1d(16, track_running_stats=False)),
    "instance norm": lambda: Given(
        lambda m, x: m.out(m.norm(x.view(-1, 2, 4)).flatten(1)),
        norm=nn.InstanceNorm1d(2, track_running_stats=True, affine=True),
        out=head(),
    ),
    "rows less their mean": lambda: Given(lambda m, x: m.out(x - x.mean(0)), out=head()),
    "rows that attend to rows": lambda: encoder(dropout=0.0),
    "softmax over rows": lambda: Given(lambda m, x: m.out(x * x.softmax(0)), out=head()),
    "running mean": Running,
    "running mean in place": RunningInPlace,
    "spectral norm": lambda: mlp(parametrizations.spectral_norm(nn.Linear(16, 16))),
    "transformer": lambda: encoder(dropout=0.0, batch_first=True),
    "gru": lambda: recurrent(nn.GRU, batch_first=True),
    "lstm": lambda: recurrent(nn.LSTM, batch_first=True, bidirectional=True),
    "rnn": lambda: recurrent(nn.RNN, batch_first=True),
    "frozen body": frozen_body,
    "frozen norm": frozen_norm,
    "tied": tied,
    "unused layer": lambda: Given(lambda m, x: m.out(x), spare=head(), out=head()),
    "double in single precision": lambda: mlp().double(),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODULES)
def test_three_rounds_are_pytorch_s(name: str, engine: Any) -> None:
    module = MODULES[name]()
    want = plainly_trained(module, lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9))
    model, params = trained(module, engine, local=sb.sgd(0.1, momentum=0.9))
    state = want.state_dict()
    for key, value in params.items():
        assert torch.allclose(value, state[key.removeprefix(STATISTIC)], rtol=0, atol=1e-10), key
    x = rows()[0][:5]
    assert torch.allclose(model.predict(params, x), want(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_adam_steps_do_not_move_running_statistics(engine: Any) -> None:
    """They take the new value whole, whatever the local and the outer optimiser are."""
    module = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    want = plainly_trained(module, lambda params: torch.optim.Adam(params, lr=1e-2)).state_dict()
    _, params = trained(module, engine, local=sb.adam(1e-2))
    assert all(torch.allclose(v, want[k.removeprefix(STATISTIC)], rtol=0, atol=1e-10) for k, v in params.items())


def test_the_outer_optimiser_averages_statistics() -> None:
    model = sb.Model(mlp(nn.BatchNorm1d(16)))
    loss = sb.supervised(model.predict, sb.cross_entropy)
    ends = [
        after(sb.fedavg(loss, outer=outer), sb.OneByOne(source()), model.params, rounds=1)
        for outer in (sb.sgd(1.0), sb.adam(1e-3), sb.sgd(0.1, momentum=0.9))
    ]
    mean = f"{STATISTIC}1.running_mean"
    assert ends[0][mean].abs().max() > 0
    assert torch.equal(ends[0][mean], ends[1][mean])
    assert torch.equal(ends[0][mean], ends[2][mean])
    assert not torch.equal(ends[0]["0.weight"], ends[1]["0.weight"])


def test_fednova_averages_statistics_as_they_are() -> None:
    """With unlike many steps its steps are normalised; running statistics are not."""
    model = sb.Model(mlp(nn.BatchNorm1d(16)))
    loss, start = sb.supervised(model.predict, sb.cross_entropy), model.params
    ends = [after(make(loss), sb.OneByOne(source()), start, rounds=1) for make in (sb.fedavg, sb.fednova)]
    for name in (f"{STATISTIC}1.running_mean", f"{STATISTIC}1.running_var"):
        assert torch.allclose(ends[0][name], ends[1][name], rtol=0, atol=1e-12)
    assert not torch.allclose(ends[0]["0.weight"], ends[1]["0.weight"])


def test_batch_norm_stays_with_its_client_under_fedbn() -> None:
    """γ, β and running statistics of nn.BatchNorm are FedBN's own part: the server's stay as they began."""
    model = sb.Model(mlp(nn.BatchNorm1d(16)))
    algorithm = sb.fedbn(sb.supervised(model.predict, sb.cross_entropy), model)
    engine = sb.OneByOne(source())
    params = after(algorithm, engine, model.params)
    own = {"1.weight", "1.bias", f"{STATISTIC}1.running_mean", f"{STATISTIC}1.running_var"}
    assert model.normalising == own
    assert all(torch.equal(params[name], model.params[name]) for name in own)
    kept = engine.memory()
    assert kept.keys() == {0, 1, 2}
    assert kept[0].keys() == own
    assert not torch.equal(kept[0]["1.weight"], kept[1]["1.weight"])
    assert not torch.equal(kept[0][f"{STATISTIC}1.running_mean"], model.params[f"{STATISTIC}1.running_mean"])


def test_statistics_of_the_batch_by_setting() -> None:
    """batch_norm="batch": predictions by the batch at hand, no statistics among the params."""
    module = mlp(nn.BatchNorm1d(16))
    model, params = trained(module, batch_norm="batch")
    assert not [name for name in params if name.startswith(STATISTIC)]
    plain = torch.func.functional_call(module.train(), dict(params), (x := rows()[0][:5],))
    assert torch.allclose(model.predict(params, x), plain, rtol=0, atol=1e-12)


def test_a_single_row_left_over_is_refused_in_one_line() -> None:
    model = sb.Model(mlp(nn.BatchNorm1d(16)))
    pop = sb.Population.from_arrays(*rows(), ["a"] * 29, classes=3)
    algorithm = sb.fedavg(sb.supervised(model.predict, sb.cross_entropy))
    with pytest.raises(sb.InputError, match=r"a batch of one example has no variance.*batch size"):
        after(algorithm, sb.OneByOne(sb.Sampled(pop, sb.batches(4))), model.params)
