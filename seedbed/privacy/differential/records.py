"""Record-level privacy within a client: DP-SGD (Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang, CCS 2016,
arXiv 1607.00133, Algorithm 1). All that leaves the client is private for each of its examples. This is the
"task-global" privacy of Li, Khodak, Caldas and Talwalkar (ICLR 2020): weaker than client-level privacy, and cheaper.

Public: n, the number of each client's examples. Sampling rates, batch capacity and denominators depend on it.
Neighbouring data sets of a client: one example is left out of every batch, while n stays as published.

Shapes: C clients, K steps, B capacity of a batch, n examples of a client.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from seedbed import tree
from seedbed.data.population import Population
from seedbed.data.sampling import Client, Draw, Sampled, Sampler
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.learning.objectives import with_gradient
from seedbed.learning.training import Objective, Params
from seedbed.privacy.differential.binding import digest_of
from seedbed.privacy.differential.contribution_clip import clip_contribution
from seedbed.privacy.differential.noise import Noise


class NoisedBatch(NamedTuple):
    """A batch and the noise of its step; like all randomness, it is drawn outside the client."""

    batch: Batch
    noise: Params  # standard normal, with the parameters' shapes
    expected: Tensor  # []  the mean number of examples of a batch


def record_level(loss: Objective, *, clip: float, noise_multiplier: float) -> Objective:
    """An objective over `NoisedBatch` items with the gradient (Σ_i g_i·min(1, C/‖g_i‖) + z·C·noise) / expected.

    g_i is the gradient of the loss on example i only; padding contributes exactly zero. The value is the mean loss over
    the batch, which is not private: it must stay with the client (`with_privacy`, or no info).

    Args:
        loss: a loss on batches; on a batch of one example it must be that example's loss.
        clip: C > 0.
        noise_multiplier: z ≥ 0. K steps of a client with n examples cost `epsilon({Gaussian(z, expected/n): K})`; the
            smallest client pays the most.
    Raises:
        InputError: the clip or the multiplier is out of range.
    """
    if not clip > 0 or not noise_multiplier >= 0:
        raise InputError(f"clip={clip} must be above 0, and noise_multiplier={noise_multiplier} at least 0")

    def of_one(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return loss(
            params, Batch(x[None], y[None], torch.ones_like(x, dtype=torch.get_default_dtype()).reshape(-1)[:1])
        )

    def objective(params: Params, item: NoisedBatch) -> Tensor:
        batch, w = item.batch, tree.detach(params)
        each, values = vmap(grad_and_value(of_one), in_dims=(None, 0, 0))(w, batch.x, batch.y)
        short, _ = vmap(lambda g: clip_contribution(g, clip))(each)
        total = tree.weighted_sum(short, batch.mask)
        noisy = tree.axpy(noise_multiplier * clip, item.noise, total)
        value = (values * batch.mask).sum() / batch.mask.sum().clamp_min(1)
        return with_gradient(value, params, tree.scale(1 / item.expected, noisy))

    return objective


def poisson_batches(expected: int, *, steps: int, most: int | None = None) -> Sampler:
    """Poisson batches: each example of the client is in a batch with probability q = expected/n, independently.

    Args:
        expected: the mean batch size; a client with fewer examples has all of them in each batch.
        steps: batches per round.
        most: capacity of a batch; None: large enough that only one draw in 10¹² exceeds it. A larger draw is cut to the
            capacity, which counts as a failure within δ.
    """

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        n = len(client.rows)
        q = min(1.0, expected / n)
        capacity = most or min(n, int(n * q + 8 * (n * q) ** 0.5 + 8))
        where, mask = np.zeros((steps, capacity), np.int64), np.zeros((steps, capacity), bool)
        for k in range(steps):
            drawn = np.flatnonzero(rng.random(n) < q)[:capacity]
            where[k, : len(drawn)], mask[k, : len(drawn)] = drawn, True
        return Draw(client.picks(where, mask), n)

    return sampler


@dataclass(frozen=True)
class NoisedTasks:
    """A task source that adds the noise of each step, from each client's own key.

    Batches are drawn from the key too: the public seed must not reveal which examples were in them.

    Args:
        population: the clients' data.
        key: the secret key; use it for one training only.
        like: the parameters.
        expected, steps: as for `poisson_batches`.
        context: `binding.digest_of` all else that the releases depend on, such as settings and learning rates. Noise
            and batches are derived from the key, this context, the data and the fields above.
    """

    population: Population
    key: Noise
    like: Params
    expected: int
    steps: int
    context: bytes = b""

    @cached_property
    def bound(self) -> Noise:
        """The key's noise for this data and these settings."""
        shapes = [tuple(x.shape) for x in tree.leaves(self.like)]
        return self.key.bound(digest_of(self.context, self.population.fingerprint(), self.expected, self.steps, shapes))

    @property
    def clients(self) -> Sequence[int]:
        return range(len(self.population))

    def size(self, client: int) -> int:
        return int(self.population.sizes[client])

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        secret = int(self.bound.words(1, "batches")[0])
        sampler = poisson_batches(self.expected, steps=self.steps)
        task = Sampled(self.population, sampler, seed=secret, purpose="records").tasks(clients, round)
        dtype = torch.get_default_dtype()
        noise = tree.stack([self._noise(c, round) for c in clients])
        n = torch.as_tensor(self.population.sizes[list(clients)], dtype=dtype)
        expected = n.clamp_max(self.expected)[:, None].expand(-1, self.steps)
        return task._replace(items=NoisedBatch(task.items, noise, expected))

    def _noise(self, client: int, round: int) -> Params:
        """Noise of one client's steps: [K, ...]."""
        wide = tree.map(lambda x: x.new_zeros((self.steps, *x.shape)), self.like)
        drawn: Any = self.bound.of("client", client).normal_like(wide, "records", round)
        return tree.map(lambda n, x: n.to(x.dtype), drawn, wide)
