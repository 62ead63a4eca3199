"""Cohorts that are not drawn alike and once: in proportion to what clients have, and with replacement."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from seedbed import randomness
from seedbed.errors import InputError
from seedbed.federated import ClientId, MessageBatch
from seedbed.rounds.round import refuse_other_than

Draw = Callable[[Sequence[ClientId], int], Sequence[ClientId]]  # (population, round from 0) -> clients, some repeated


def draw_cohorts(
    cohort: int, *, seed: int = 0, sizes: Mapping[ClientId, float] | None = None, replacement: bool = False
) -> Draw:
    """A cohort a round, as a function of (seed, round).

    With replacement and in proportion to n_i, under the plain mean of messages, it is scheme I of Li et al., "On the
    convergence of FedAvg on non-IID data", ICLR 2020, arXiv 1907.02189, section 3.

    Args:
        sizes: how probable a client is, up to a common factor; None: all alike.
        replacement: a client may be drawn several times; its message then counts as often.
    """

    def draw(population: Sequence[ClientId], round: int) -> Sequence[ClientId]:
        if not replacement:
            refuse_other_than(1, cohort, len(population), "cohort")
        p = None if sizes is None else np.array([float(sizes[c]) for c in population])
        if p is not None and not (np.isfinite(p).all() and (p > 0).all()):
            raise InputError("a cohort in proportion to sizes needs sizes above 0: leave empty clients out")
        drawn = randomness.generator(seed, "cohort", round).choice(
            len(population), cohort, replace=replacement, p=None if p is None else p / p.sum()
        )
        return sorted(population[int(i)] for i in drawn)

    return draw


def repeated(group: MessageBatch, counts: Mapping[ClientId, int]) -> MessageBatch:
    """The group with each message counting as often as its client was drawn."""
    times = [counts.get(client, 1) for client in group.clients]
    if all(n == 1 for n in times):
        return group
    if group.members is not None:
        raise InputError(
            "a cohort drawn with replacement needs each client's own message, but secure aggregation gives sums: draw "
            "without replacement"
        )
    weight = group.messages.weight
    return group._replace(messages=group.messages._replace(weight=weight * weight.new_tensor(times)))
