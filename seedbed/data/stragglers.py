"""Devices of unequal speed: a slow client does a part of its work in a round, or does not answer in time.

Shapes: C clients, K items of the longest task, L ≤ K of the longest after cutting.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from seedbed import randomness, tree
from seedbed.data.sampling import TaskSource, TaskSourceWrapper
from seedbed.data.types import Task
from seedbed.errors import InputError

WorkShare = Callable[[int, int], float]  # (client, round) -> how much of its work the client does, 0…1


@dataclass(frozen=True)
class Stragglers:
    """Who is slow in a round, drawn afresh in each by (seed, round, client).

    Li et al., MLSys 2020, arXiv 1812.06127, section 5.2: FedAvg drops them (`answering`, for
    `rounds.synchronous`), FedProx takes what they have done (`share`, for `Shortened`). The draws are the same for
    both. Departure: each client is slow with a probability of its own; there, exactly so many of a cohort are.

    Args:
        part: how probable it is that a client is slow, 0 ≤ part < 1; 0: nobody ever is.
        seed: of the draws.
    """

    part: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.part < 1:
            raise InputError(f"stragglers.fraction={self.part} is a probability: give a number from 0 up and below 1")

    def slow(self, client: int, round: int) -> bool:
        return bool(randomness.generator(self.seed, "straggler", round, client).random() < self.part)

    def share(self, client: int, round: int) -> float:
        """All of a client's work, or for a slow one a part that is uniform in 0…1."""
        return (
            float(randomness.generator(self.seed, "work", round, client).random()) if self.slow(client, round) else 1.0
        )

    def answering(self, clients: Sequence[int], round: int) -> Sequence[int]:
        """Those of a cohort that are not slow; there may be none."""
        return [client for client in clients if not self.slow(client, round)]


class ShortenedTasks(TaskSourceWrapper):
    """The tasks of a source, each cut to the items that its client has time for: the first ones, and at least one.

    A client still counts by all its examples (n_k), as in FedProx.

    Args:
        source: what clients would work on; its real items come before the padding.
        share: how much of it they do; the number of items is rounded to the nearest.
    """

    def __init__(self, source: TaskSource, share: WorkShare):
        super().__init__(source)
        self.share = share

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        items, real, examples = self.source.tasks(clients, round)
        shares = torch.tensor([self.share(client, round) for client in clients], dtype=real.dtype)
        done = (shares * real.sum(1)).round().clamp_min(1)  # [C]
        longest = int(done.max())
        within = torch.arange(longest) < done[:, None]  # [C, L]
        return Task(tree.map(lambda x: x[:, :longest], items), real[:, :longest] * within, examples)
