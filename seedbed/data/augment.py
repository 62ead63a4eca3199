"""More images from few: classes turned, which makes new classes, and examples distorted, which keeps them.

Shapes: R rows in use, H×H pixels.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from seedbed import randomness
from seedbed.data.population import Population
from seedbed.errors import InputError

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
    images, labels = _in_use(population)
    names = [name + turn for turn in TURNS for name in population.classes]
    return replace(
        _with_copies(
            population,
            [torch.rot90(images, turn, (2, 3)) for turn in range(4)],
            [labels + turn * len(population.classes) for turn in range(4)],
        ),
        classes=tuple(names),
        notes=(
            *population.notes,
            "every class also turned by 90, 180 and 270 degrees, as classes of their own",
        ),
    )


def with_distortions(population: Population, *, copies: int = 8, strength: float = 1.0, seed: int = 0) -> Population:
    """The same clients and classes with each image also slightly turned, scaled, sheared and shifted, by the seed.

    For training clients only. Drawn uniformly: turns up to 0.2 radians, scales and shears up to 15 %, shifts up to
    6 % of the width, all times the strength.

    Args:
        copies: of each image, the first being itself.
    """
    shape = tuple(population.x.shape[1:])
    if len(shape) != 3:
        raise InputError(f"distortions need images [C, H, W], but examples have shape {shape}")
    images, labels = _in_use(population)
    rng = randomness.generator(seed, "distortions")
    distorted = [_distorted(images, strength * rng.uniform(-1, 1, (len(images), 7))) for _ in range(copies - 1)]
    made = _with_copies(population, [images, *distorted], [labels] * copies)
    return replace(made, notes=(*population.notes, f"each image also distorted slightly, {copies - 1} times"))


def _distorted(images: Tensor, u: npt.NDArray[np.float64]) -> Tensor:
    """[R, C, H, W] images by affine maps from u [R, 7] in −1…1: turn, two scales, two shears, two shifts."""
    turn, sx, sy, hx, hy, dx, dy = torch.as_tensor(u * [0.2, 0.15, 0.15, 0.15, 0.15, 0.12, 0.12]).float().T
    top = torch.stack([turn.cos() * (1 + sx), hx - turn.sin(), dx], 1)
    bottom = torch.stack([turn.sin() + hy, turn.cos() * (1 + sy), dy], 1)
    grid = functional.affine_grid(torch.stack([top, bottom], 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images.float(), grid, align_corners=False)
    return moved.round().to(torch.uint8) if images.dtype == torch.uint8 else moved.to(images.dtype)


def _in_use(population: Population) -> tuple[Tensor, Tensor]:
    """Images and labels of the rows in use, client after client: [R, ...] and [R]."""
    rows = torch.as_tensor(population.every_row())
    return population.x[rows], population.y[rows]


def _with_copies(population: Population, images: list[Tensor], labels: list[Tensor]) -> Population:
    """The clients with several versions of all their rows."""
    used = len(population.rows)
    mine = [np.arange(a, b) for a, b in zip(population.offsets[:-1], population.offsets[1:], strict=True)]
    rows = [np.concatenate([own + used * copy for copy in range(len(images))]) for own in mine]
    return replace(
        population,
        x=torch.cat(images),
        y=torch.cat(labels),
        tested=None if population.tested is None else np.tile(population.tested[population.rows], len(images)),
        verify=None,
        rows=np.concatenate([np.empty(0, np.int64), *rows]),
        offsets=population.offsets * len(images),
    )
