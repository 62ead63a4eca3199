"""DP-SGD inside a client: against the loop over examples, padding, noise, and the coins of its batches."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import seedbed as sb
from seedbed import tree
from seedbed.data.sampling import Sampled
from seedbed.data.types import Batch
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.learning.training import gradient
from seedbed.privacy.differential.records import NoisedBatch, NoisedTasks, poisson_batches, record_level
from tests.agreement.bench import Row, by_hand, population, run

from .parrots import KEY

CLIP, Z = 0.2, 1.3


def item(padding: int) -> NoisedBatch:
    """Five examples and as much padding, of large numbers."""
    g = torch.Generator().manual_seed(3)
    x = torch.cat([torch.randn(5, 4, generator=g), 1e6 * torch.randn(padding, 4, generator=g)])
    y = torch.cat([torch.tensor([0, 1, 2, 1, 0]), torch.zeros(padding, dtype=torch.int64)])
    mask = torch.cat([torch.ones(5), torch.zeros(padding)])
    noise = tree.map(lambda p: torch.randn(p.shape, generator=g), dict(by_hand().params))
    g.manual_seed(4)
    noise = tree.map(lambda p: torch.randn(p.shape, generator=g), noise)
    return NoisedBatch(Batch(x, y, mask), noise, torch.tensor(4.0))


@pytest.mark.parametrize("plain_autograd", [True, False])
@pytest.mark.parametrize("padding", [0, 3])
def test_it_is_the_loop_over_examples(padding: int, plain_autograd: bool) -> None:
    """(Σ_i g_i·min(1, C/‖g_i‖) + zC·noise)/expected, each g_i by autograd on a batch of one."""
    net, batch = by_hand(), item(padding)
    params = dict(net.params)
    total = tree.scale(Z * CLIP, batch.noise)
    shortened = 0
    for i in range(5):
        one = Batch(batch.batch.x[i : i + 1], batch.batch.y[i : i + 1], torch.ones(1))
        g, _ = gradient(net.loss, params, one)
        length = float(tree.squared_norm(g)) ** 0.5
        shortened += length > CLIP
        total = tree.axpy(min(1.0, CLIP / length), g, total)
    assert shortened > 0
    objective = record_level(net.loss, clip=CLIP, noise_multiplier=Z)
    with torch.set_grad_enabled(not plain_autograd):
        got, value = gradient(objective, params, batch)
    for name, want in total.items():
        assert torch.allclose(got[name], want / 4, atol=1e-12)
    five = tree.map(lambda t: t[:5], batch.batch)
    assert float(value) == pytest.approx(float(net.loss(params, five)), abs=1e-12)


def test_batches_are_by_chance() -> None:
    """Each example's rate is q within four deviations, sizes are binomial, no two examples hang together."""
    sampled = Sampled(population(), poisson_batches(4, steps=3000), seed=1)
    rows = population().rows_of(4)
    n, q = len(rows), 4 / len(rows)
    picks = sampled.draw(4, 0).items
    took = np.array([np.isin(rows, r[m]) for r, m in zip(picks.rows, picks.mask, strict=True)], float)
    assert took.sum() == picks.mask.sum()
    assert np.abs(took.mean(0) - q).max() < 4 * (q * (1 - q) / 3000) ** 0.5
    together = np.corrcoef(took.T) - np.eye(n)
    assert np.abs(together).max() < 5 / 3000**0.5
    sizes = np.bincount(took.sum(1).astype(int), minlength=n + 1)
    assert stats.chisquare(sizes[1:8], 3000 * stats.binom.pmf(range(1, 8), n, q) * sizes[1:8].sum()
                           / (3000 * stats.binom.pmf(range(1, 8), n, q).sum())).pvalue > 1e-3  # fmt: skip


def test_engines_agree_and_noise_is_each_clients_own() -> None:
    """FedAvg of clients that run DP-SGD; three rounds on both engines."""
    source = NoisedTasks(population(), KEY, dict(by_hand().params), 4, 3)
    row = Row(
        "fedavg", lambda n: sb.fedavg(record_level(n.loss, clip=CLIP, noise_multiplier=Z), local=sgd(0.1)), "batches"
    )
    slow, fast = (run(row, kind(source)) for kind in (sb.OneByOne, sb.Vectorised))
    for a, b in zip(slow.rounds, fast.rounds, strict=True):
        assert all(torch.allclose(a.state.params[n], b.state.params[n], atol=1e-10) for n in a.state.params)
    a, b = (source.tasks([c], 0).items.noise["head.weight"] for c in (0, 1))
    assert not torch.allclose(a, b)
    assert torch.equal(a[0], source.tasks([1, 0], 0).items.noise["head.weight"][1])
    assert not torch.allclose(a, source.tasks([0], 1).items.noise["head.weight"])


def test_what_cannot_be() -> None:
    with pytest.raises(sb.InputError, match="clip=0"):
        record_level(supervised(by_hand().predict, cross_entropy), clip=0.0, noise_multiplier=1.0)
    assert math.isfinite(record_level(by_hand().loss, clip=1.0, noise_multiplier=0.0)(dict(by_hand().params), item(0)))
