"""The margin of eight roundings in the clip: without it, rounding carries about half of all messages over the bound.

‖x‖² is computed exactly, in fractions: floats are fractions with a power of two below.
"""

from fractions import Fraction

import pytest
import torch

from seedbed.privacy.differential.contribution_clip import clip_contribution


def exact_square(value: torch.Tensor) -> Fraction:
    return sum((Fraction(x) ** 2 for x in value.tolist()), Fraction(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bound", [1.0, 0.3, 1e-3, 123.456])
def test_what_is_shortened_is_within_the_bound_exactly(dtype: torch.dtype, bound: float) -> None:
    """Of equal numbers all are rounded the same way, which is the worst case: 64 messages of each of five lengths."""
    for count in (1, 2, 3, 7, 100):
        for step in range(64):
            value = torch.full((count,), 2 * bound * (1 + step / 67), dtype=dtype)
            short, within = clip_contribution({"w": value}, bound)
            assert within == 0
            assert exact_square(short["w"]) <= Fraction(bound) ** 2
            assert exact_square(short["w"]) >= Fraction(bound) ** 2 * (1 - 40 * Fraction(torch.finfo(dtype).eps))
