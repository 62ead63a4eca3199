"""Rows that are read when somebody looks are those that are read at once."""

import torch
from torch.func import vmap

from seedbed import Population, Sampled, batches, tree
from seedbed.data.row_references import RowReferences, deferred_reads


def drawn(x: torch.Tensor, later: bool) -> torch.Tensor:
    source = Sampled(Population.from_arrays(x, torch.arange(len(x)) % 3, [i % 4 for i in range(len(x))]), batches(3))
    with deferred_reads(later):
        found: torch.Tensor = source.tasks([0, 2, 3], round=5).items.x
    return found


def test_they_are_the_same_to_every_operation() -> None:
    x = torch.randn(50, 2, 4)
    at_once, later = drawn(x, False), drawn(x, True)
    assert type(at_once) is torch.Tensor
    assert isinstance(later, RowReferences)
    assert (later.shape, later.dtype, later.stride()) == (at_once.shape, at_once.dtype, at_once.stride())
    assert later._read is None  # so far nobody has looked
    assert torch.equal(later, at_once)
    for f in (lambda t: t[:, 1], lambda t: t.sum(), lambda t: torch.stack([t, t]), lambda t: 2 * t.to(torch.float64)):
        assert torch.equal(f(later), f(at_once))
        assert torch.equal(vmap(f)(drawn(x, True)), vmap(f)(at_once))
    assert torch.equal(tree.index((later,), 0)[0], at_once[0])


def test_what_models_take_otherwise_is_read_at_once() -> None:
    """Images become real numbers, and so do numbers of another precision."""
    for x in (torch.randint(0, 255, (50, 3), dtype=torch.uint8), torch.randn(50, 3, dtype=torch.float64)):
        assert type(drawn(x, True)) is torch.Tensor
        assert torch.equal(drawn(x, True), drawn(x, False))
