"""More classes from few: a class turned by 90, 180 or 270 degrees is another class. Shapes: R rows in use."""

from dataclasses import replace

import numpy as np
import torch

from seedbed.errors import InputError
from seedbed.tasks.population import Population

TURNS = ("", "@90", "@180", "@270")


def with_rotations(population: Population) -> Population:
    """The same clients with four times the classes; for training clients only, as in Santoro et al., 2016.

    Only the rows in use are copied. Needs square images and episodic tasks (a class of its own: 6 turned is
    not 9).

    Source: Santoro et al., Meta-Learning with Memory-Augmented Neural Networks, ICML 2016, §4.2.
    """
    shape = tuple(population.x.shape[1:])
    if len(shape) != 3 or shape[1] != shape[2]:
        raise InputError(f"rotations need square images [C, H, H], but examples have shape {shape}")
    if not population.episodic:
        raise InputError("rotations make new classes, which needs episodic tasks: labels mean the same everywhere here")
    used = len(population.rows)
    images = population.x[torch.as_tensor(population.rows)]
    labels = population.y[torch.as_tensor(population.rows)]
    turned = [torch.rot90(images, turn, (2, 3)) for turn in range(4)]
    mine = [np.arange(a, b) for a, b in zip(population.offsets[:-1], population.offsets[1:], strict=True)]
    rows = [np.concatenate([own + used * turn for turn in range(4)]) for own in mine]
    names = [name + turn for turn in TURNS for name in population.classes]
    return replace(
        population,
        x=torch.cat(turned),
        y=torch.cat([labels + turn * len(population.classes) for turn in range(4)]),
        rows=np.concatenate(rows),
        offsets=population.offsets * 4,
        classes=tuple(names),
        notes=(
            *population.notes,
            "every class also turned by 90, 180 and 270 degrees, as classes of their own",
        ),
    )
