"""Trees that one process hands to another in memory that both map: written once, and read without copying.

A piece is a header (JSON, which says what is in it) and the leaves' bytes, from the start of a page on. A tensor that
both sides have is named by its number. A factored matrix (`seedbed.lowrank.factored_matrix`) is passed as its rows.
"""

import json
import mmap
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.limits import from_json
from seedbed.lowrank.factored_matrix import Factored, OuterProducts, StackedFactored, as_dense_leaf
from seedbed.serialization import meta_tree_of, tree_schema
from seedbed.tree import Tree

LEAF_ALIGNMENT = 64  # bytes: where leaves start, as PyTorch's own do
HEADER_BYTES = 8  # bytes: the length of the header


class NamedTuplePart(NamedTuple):
    """A tensor that both sides have: which of them."""

    number: Tensor  # []


class FactoredParts(NamedTuple):
    """A factored matrix by its parts."""

    like: Tensor  # [0, O, I], of its type
    multiples: Tensor  # of each base, in double precision, as Python's numbers are
    bases: tuple[Tensor | NamedTuplePart, ...]
    sums: tuple[tuple[Tensor, Tensor, Tensor], ...]  # coefficients [n], inputs [n, I], slopes [n, O]


class SharedTrees(NamedTuple):
    """Factored matrices that are stacked."""

    members: tuple[FactoredParts, ...]


class SharedPiece(NamedTuple):
    """Where something that was handed over lies, in bytes from the start of the memory."""

    start: int
    length: int


class SharedMemory:
    """Memory without a name, for whoever has its file (Linux). It is gone when nobody has or maps it any more.

    Args:
        file: of memory that another process has made; None: it is made.
    """

    def __init__(self, file: int | None = None):
        self.file = os.memfd_create("seedbed") if file is None else file
        self._end = 0  # of what is written

    def __enter__(self) -> "SharedMemory":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.file)  # what is read stays readable

    def write(self, words: Any, whole: Tree, known: Sequence[Tensor] = ()) -> SharedPiece:
        """Put a tree after what is there.

        Args:
            words: for the header, as JSON takes it.
            known: tensors that the reader has too.
        """
        whole = _taken_apart(whole, known)
        leaves = [leaf.detach() for leaf in tree.leaves(whole)]
        orders = [_order(leaf) for leaf in leaves]
        head = json.dumps([words, tree_schema(whole), orders]).encode()
        places, length = _places(len(head), leaves)
        start = self._end
        self._put(start, len(head).to_bytes(HEADER_BYTES, "little") + head)
        for place, leaf, order in zip(places, leaves, orders, strict=True):
            if leaf.numel():
                data = leaf if order is None else leaf.permute(order)
                self._put(start + place, data.contiguous().reshape(-1).view(torch.uint8).numpy())
        self._end = -(-(start + length) // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(self.file, self._end)
        return SharedPiece(start, length)

    def read(self, piece: SharedPiece, known: Sequence[Tensor] = ()) -> tuple[Any, Tree]:
        """The words and the tree of a piece. Its leaves are the memory itself."""
        # PyTorch's own mapping: Python's keeps the file open for as long as there is a tensor, and files are few.
        size = piece.start + piece.length
        held = torch.from_file(f"/proc/self/fd/{self.file}", shared=True, size=size, dtype=torch.uint8)[piece.start :]
        end = HEADER_BYTES + int.from_bytes(held[:HEADER_BYTES].numpy().tobytes(), "little")
        words, outlined, orders = from_json(held[HEADER_BYTES:end].numpy().tobytes())
        like = meta_tree_of(outlined, "what another process handed over")
        shapes = tree.leaves(like)
        places, _ = _places(end - HEADER_BYTES, shapes)
        found = [_leaf(held, *where) for where in zip(places, shapes, orders, strict=True)]
        return words, _put_together(tree.with_leaves(like, found), known)

    def _put(self, place: int, data: Any) -> None:
        rest = memoryview(data)
        while len(rest):
            written = os.pwrite(self.file, rest, place)
            place, rest = place + written, rest[written:]


def _places(head: int, leaves: Sequence[Tensor]) -> tuple[list[int], int]:
    """Where leaves lie behind a header of so many bytes, and where the last one ends."""
    places, end = [], HEADER_BYTES + head
    for leaf in leaves:
        start = -(-end // LEAF_ALIGNMENT) * LEAF_ALIGNMENT
        places.append(start)
        end = start + leaf.numel() * leaf.element_size()
    return places, end


def _order(leaf: Tensor) -> list[int] | None:
    """How its dimensions lie in memory, the widest first; None: as usual.

    With another layout operations round otherwise, so that it is kept (such as channels_last).
    """
    if leaf.is_contiguous():
        return None
    strides = leaf.stride()
    return sorted(range(leaf.ndim), key=lambda d: (-strides[d], d))


def _leaf(held: Tensor, place: int, like: Tensor, order: list[int] | None) -> Tensor:
    flat = held[place : place + like.numel() * like.element_size()].view(like.dtype)
    if order is None:
        return flat.reshape(like.shape)
    back = sorted(range(like.ndim), key=order.__getitem__)
    return flat.reshape([like.shape[d] for d in order]).permute(back)


def _taken_apart(whole: Tree, known: Sequence[Tensor]) -> Tree:
    """The tree with tensors that are known named, and factored matrices as their parts."""
    numbers = {id(leaf): number for number, leaf in enumerate(known)}

    def plain(x: Tensor) -> Tensor | NamedTuplePart:
        return NamedTuplePart(torch.tensor(numbers[id(x)])) if id(x) in numbers else as_dense_leaf(x)

    def parts(matrix: Factored) -> FactoredParts:
        multiples = torch.tensor([a for a, _ in matrix.bases], dtype=torch.float64)
        sums = tuple((c, *rows.first(len(c))) for c, rows in matrix.sums)
        like = torch.empty(0, *matrix.shape, dtype=matrix.dtype)
        return FactoredParts(like, multiples, tuple(plain(base) for _, base in matrix.bases), sums)

    def leaf(x: Tensor) -> Any:
        if isinstance(x, StackedFactored):
            return SharedTrees(tuple(parts(member) for member in x.members))
        return parts(x) if isinstance(x, Factored) else plain(x)

    return tree.map(leaf, whole)


def _put_together(whole: Tree, known: Sequence[Tensor]) -> Tree:
    """The tree that was taken apart."""

    def plain(x: Tensor | NamedTuplePart) -> Tensor:
        return known[int(x.number)] if isinstance(x, NamedTuplePart) else x

    def matrix(parts: FactoredParts) -> Factored:
        bases = tuple(zip(parts.multiples.tolist(), map(plain, parts.bases), strict=True))
        sums = []
        for c, inputs, slopes in parts.sums:
            rows = OuterProducts()
            rows.add(inputs, slopes)
            sums.append((c, rows))
        like = torch.empty((), dtype=parts.like.dtype).expand(parts.like.shape[1:])
        return Factored(bases, tuple(sums), like)

    whole = tree.map_subtrees(lambda several: StackedFactored([matrix(p) for p in several.members]), whole, SharedTrees)
    whole = tree.map_subtrees(matrix, whole, FactoredParts)
    return tree.map_subtrees(plain, whole, NamedTuplePart)
