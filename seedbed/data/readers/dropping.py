"""Leaving out clients that are too small for a task."""

from dataclasses import replace

import numpy as np

from seedbed.data.population import Population
from seedbed.errors import InputError

NAMED = 5


def drop_small_clients(
    population: Population, *, least_examples: int = 1, least_classes: int = 1, per_class: int = 1
) -> Population:
    """The population without the clients that are too small; its notes say how many and which.

    Args:
        least_examples: a client needs so many examples.
        least_classes: and so many classes (not asked of regression) ...
        per_class: ... of at least so many examples each (an N-way K-shot episode needs N classes of K + 1).
    Raises:
        InputError: no client is left.

    >>> import torch
    >>> p = Population.from_arrays(torch.zeros(3, 1), torch.zeros(3), ["a", "a", "b"])
    >>> kept = drop_small_clients(p, least_examples=2)
    >>> kept.names, kept.notes
    (('a',), ("1 of 2 clients left out (fewer than 2 examples): 'b'",))
    """
    kept = [i for i in range(len(population)) if _is_enough(population, i, least_examples, least_classes, per_class)]
    if len(kept) == len(population):
        return population
    gone = [population.names[i] for i in sorted(set(range(len(population))) - set(kept))]
    why = f"fewer than {least_examples} examples"
    if least_classes > 1 or per_class > 1:
        why += f" or than {least_classes} classes of {per_class}"
    if not kept:
        raise InputError(f"none of {len(population)} clients is large enough ({why}): ask for fewer, or for less skew")
    named = ", ".join(map(repr, gone[:NAMED])) + (", …" if len(gone) > NAMED else "")
    note = f"{len(gone)} of {len(population)} clients left out ({why}): {named}"
    return replace(population.only(kept), notes=(*population.notes, note))


def _is_enough(population: Population, client: int, examples: int, classes: int, per_class: int) -> bool:
    rows = population.rows_of(client)
    if len(rows) < examples:
        return False
    if not population.classes:
        return True
    _, counts = np.unique(population.labels[rows], return_counts=True)
    return int((counts >= per_class).sum()) >= classes
