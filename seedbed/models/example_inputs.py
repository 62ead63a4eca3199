"""Inputs that a module may take, guessed from its first layers: to watch it before there are data.

Shapes: B examples, T steps of a sequence.
"""

from collections.abc import Iterator

import torch
from torch import nn

ExampleShape = tuple[tuple[int, ...], torch.dtype]  # of one example, and its type

SIDES = (32, 28, 8, 64)  # pixels of images
STEPS = (4, 5)  # of sequences
LAYERS = 3  # the first so many with known inputs are looked at


def guess_inputs(module: nn.Module) -> Iterator[ExampleShape]:
    """Shapes and types, the likelier first."""
    real = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
    seen: set[ExampleShape] = set()
    known = 0
    for m in module.modules():
        found = list(_inputs_of(m, real))
        known += bool(found)
        for shape in found:
            if shape not in seen:
                seen.add(shape)
                yield shape
        if known == LAYERS:
            return


def _inputs_of(m: nn.Module, real: torch.dtype) -> Iterator[ExampleShape]:
    if isinstance(m, nn.Embedding):
        yield from (((steps,), torch.int64) for steps in STEPS)
        yield (), torch.int64
    elif isinstance(m, nn.Conv2d):
        yield from (((m.in_channels, side, side), real) for side in SIDES)
    elif isinstance(m, nn.Conv1d):
        yield from (((m.in_channels, side), real) for side in SIDES)
    elif isinstance(m, nn.Conv3d):
        yield (m.in_channels, 8, 8, 8), real
    elif isinstance(m, nn.Linear):
        yield (m.in_features,), real
        yield from (((steps, m.in_features), real) for steps in STEPS)
    elif isinstance(m, nn.RNNBase):
        yield from (((steps, m.input_size), real) for steps in STEPS)
        yield from (((steps * m.input_size,), real) for steps in STEPS)
    elif isinstance(m, nn.modules.batchnorm._BatchNorm):
        yield (m.num_features,), real
        yield (m.num_features, 8, 8), real
    elif isinstance(m, nn.MultiheadAttention):
        yield from (((steps, m.embed_dim), real) for steps in STEPS)
        yield from (((steps * m.embed_dim,), real) for steps in STEPS)
    elif isinstance(m, nn.LayerNorm):
        yield tuple(m.normalized_shape), real
