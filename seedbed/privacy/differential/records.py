"""Record-level privacy inside a client: DP-SGD (Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang, CCS 2016,
arXiv 1607.00133, Algorithm 1). What leaves the client, and all that follows, is private in each of its examples: the
"task-global" privacy of Li, Khodak, Caldas and Talwalkar (ICLR 2020), weaker than that of whole clients and cheaper.

Public: n, how many examples each client has. Chances of inclusion, the room of a batch and the denominator depend on
it. Neighbours are data sets of a client in which one example is left out of every batch while n stays as it is known.

Shapes: C clients, K steps, B places for examples of a batch, n examples of a client.
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
    """A batch, and the noise of the step on it: drawn outside the client, as all that is random."""

    batch: Batch
    noise: Params  # standard normal, of the parameters' shapes
    expected: Tensor  # []  the mean number of examples of a batch


def record_level(loss: Objective, *, clip: float, noise_multiplier: float) -> Objective:
    """An objective over `Noised` items whose gradient is (Σ_i g_i·min(1, C/‖g_i‖) + z·C·noise) / expected.

    g_i is the gradient of the loss on example i alone; padding contributes nothing, exactly. The value is the mean loss
    over the batch, which is not private: it must stay with the client (`private`, or no info).

    Args:
        loss: on batches; on a batch of one example it must be that example's.
        clip: C > 0.
        noise_multiplier: z ≥ 0: what rounds cost is `epsilon({Gaussian(z, expected/n): steps})` for a client of n
            examples, the most for the smallest client.
    """
    if not clip > 0 or not noise_multiplier >= 0:
        raise InputError(f"clip={clip} must be above 0, noise_multiplier={noise_multiplier} at least 0")

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
    """Batches that every example of the client is in with probability q = expected/n, each by a coin of its own.

    Args:
        expected: the mean size of a batch; a client with fewer examples has them all in each.
        steps: batches a round.
        most: places of a batch; None: so many that a larger draw comes once in 10¹² batches. Of more, the batch holds
            as many as there is room for, which counts as a failure within δ.
    """

    def sampler(client: Client, rng: np.random.Generator) -> Draw:
        n = len(client.rows)
        q = min(1.0, expected / n)
        room = most or min(n, int(n * q + 8 * (n * q) ** 0.5 + 8))
        where, mask = np.zeros((steps, room), np.int64), np.zeros((steps, room), bool)
        for k in range(steps):
            drawn = np.flatnonzero(rng.random(n) < q)[:room]
            where[k, : len(drawn)], mask[k, : len(drawn)] = drawn, True
        return Draw(client.picks(where, mask), n)

    return sampler


@dataclass(frozen=True)
class NoisedTasks:
    """A source whose tasks carry the noise of their steps, from each client's own key.

    The batches are drawn from the key too: who knows the seed must not know which examples were in them.

    Args:
        population: of the clients.
        expected, steps: of `poisson_batches`.
        like: the parameters.
        context: `binding.digest` of all else that the releases depend on, such as settings and learning rates. Noise
            and batches are derived from the key, this, the data and the fields above: use a key for one training.
    """

    population: Population
    key: Noise
    like: Params
    expected: int
    steps: int
    context: bytes = b""

    @cached_property
    def bound(self) -> Noise:
        """The key's noise for these data and settings."""
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
        """[K, ...] of one client."""
        wide = tree.map(lambda x: x.new_zeros((self.steps, *x.shape)), self.like)
        drawn: Any = self.bound.of("client", client).normal_like(wide, "records", round)
        return tree.map(lambda n, x: n.to(x.dtype), drawn, wide)
