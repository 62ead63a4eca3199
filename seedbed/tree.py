"""Arithmetic on trees of tensors: nested dicts, lists, tuples and NamedTuples whose leaves are tensors.

Shapes: C trees, stacked along a new first dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from seedbed.lowrank import factored_matrix

Tree = Any
LEAF = Tensor, np.ndarray  # types handled here, without PyTorch's pytree
STATISTIC = "statistics:"  # name prefix of running statistics among params: averaged, never trained


def is_statistic(name: str) -> bool:
    """Whether a name among params denotes a running statistic.

    >>> is_statistic("statistics:1.running_mean"), is_statistic("1.weight")
    (True, False)
    """
    return name.startswith(STATISTIC)


class NamedParams(dict[str, Tensor]):
    """Trainable parameters by name, plus others that can be read by name but do not belong to the tree.

    The others are frozen parameters (requires_grad=False) and further names of tied ones. No function of this module
    maps, counts or sends them.

    Args:
        params: the trainable parameters.
        beside: the others: a frozen tensor, or for a tied parameter its name in `params`.

    >>> params = NamedParams({"b": torch.ones(1)}, {"a": torch.zeros(2), "tied": "b"})
    >>> list(params), leaves(map(lambda x: x + 1, params)), params["a"], params["tied"]
    (['b'], [tensor([2.])], tensor([0., 0.]), tensor([1.]))
    """

    def __init__(self, params: Mapping[str, Any], beside: Mapping[str, Tensor | str]):
        super().__init__(params)
        self.beside = beside

    def __missing__(self, name: str) -> Tensor:
        other = self.beside[name]
        return self[other] if isinstance(other, str) else other

    def __or__(self, other: Mapping[str, Any]) -> "NamedParams":  # type: ignore[override]
        return NamedParams({**self, **other}, self.beside)


class _Beside:
    """Names and non-tree parameters of a `NamedParams`; two with the same names have the same structure."""

    def __init__(self, params: NamedParams):
        self.names, self.beside = tuple(params), params.beside

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Beside) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)


def _with_keys(params: NamedParams) -> tuple[list[Any], _Beside]:
    return [(pytree.MappingKey(name), value) for name, value in params.items()], _Beside(params)


pytree.register_pytree_node(
    NamedParams,
    lambda params: (list(params.values()), _Beside(params)),
    lambda values, context: NamedParams(dict(zip(context.names, values, strict=True)), context.beside),
    flatten_with_keys_fn=_with_keys,
)


DICTS = dict, NamedParams


def map(f: Callable[..., Any], *trees: Tree) -> Tree:
    """Apply f to corresponding leaves."""
    first, others = trees[0], trees[1:]
    kind = type(first)
    if isinstance(first, Tensor):
        return f(*trees)
    # The types of params and batches are handled here, ten times as fast as by PyTorch's pytree.
    if kind in DICTS and all(type(other) in DICTS and other.keys() == first.keys() for other in others):
        mapped = {key: map(f, part, *(other[key] for other in others)) for key, part in first.items()}
        return mapped if kind is dict else NamedParams(mapped, first.beside)
    if kind is tuple and not first:
        return first
    if _is_named(kind) and all(type(other) is kind for other in others):
        return kind(*(map(f, *parts) for parts in zip(*trees, strict=True)))
    return pytree.tree_map(f, *trees)


def leaves(tree: Tree) -> list[Any]:
    kind = type(tree)
    if isinstance(tree, LEAF):
        return [tree]
    if kind in DICTS or _is_named(kind):
        parts = tree.values() if kind in DICTS else tree
        return [leaf for part in parts for leaf in ((part,) if isinstance(part, LEAF) else leaves(part))]
    if kind is tuple and not tree:
        return []
    return list(pytree.tree_leaves(tree))


def _is_named(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def named_leaves(tree: Tree) -> dict[str, Tensor]:
    """The leaves under their paths.

    >>> sorted(named_leaves({"body": {"weight": torch.ones(2)}, "steps": (torch.ones(1),)}))
    ['body.weight', 'steps.0']
    """
    return {".".join(_step(key) for key in path): leaf for path, leaf in pytree.tree_leaves_with_path(tree)}


def structure_of(tree: Tree) -> str:
    """The nesting of the leaves as text, equal for trees of one structure.

    >>> structure_of({"a": (1,)}) == structure_of({"a": (2,)}), structure_of({"a": (1,)}) == structure_of({"a": [1]})
    (True, False)
    """
    return str(pytree.tree_structure(map_subtrees(dict, tree, NamedParams)))


def with_leaves(template: Tree, values: Sequence[Any]) -> Tree:
    """A tree with the template's structure and other leaves, in the order of `leaves`."""
    if type(template) is dict and all(isinstance(leaf, Tensor) for leaf in template.values()):
        return dict(zip(template, values, strict=True))
    return pytree.tree_unflatten(list(values), pytree.tree_structure(template))


def add(a: Tree, b: Tree) -> Tree:
    return map(torch.add, a, b)


def sub(a: Tree, b: Tree) -> Tree:
    return map(torch.sub, a, b)


def scale(s: float | Tensor, a: Tree) -> Tree:
    return map(lambda x: s * x, a)


def axpy(s: float | Tensor, x: Tree, y: Tree) -> Tree:
    """s·x + y."""
    return map(lambda a, b: s * a + b, x, y)


def lerp(a: Tree, b: Tree, weight: float | Tensor) -> Tree:
    """a + weight·(b − a): a at 0, b at 1."""
    return map(lambda x, y: x + weight * (y - x), a, b)


def zeros_like(a: Tree) -> Tree:
    return map(torch.zeros_like, a)


def form_unformed(a: Tree) -> Tree:
    """The tree with unformed matrices (`seedbed.lowrank`) formed."""
    return map(factored_matrix.as_dense_leaf, a)


def full_like(a: Tree, value: float) -> Tree:
    return map(lambda x: torch.full_like(x, value), a)


def detach(a: Tree) -> Tree:
    return map(lambda x: x.detach(), a)


def dot(a: Tree, b: Tree) -> Tensor:
    """⟨a, b⟩ over all leaves: []."""
    return torch.stack([factored_matrix.inner_product(x, y) for x, y in zip(leaves(a), leaves(b), strict=True)]).sum()


def squared_norm(a: Tree) -> Tensor:
    """‖a‖² over all leaves: []."""
    return dot(a, a)


def to_device_of(a: Tree, b: Tree) -> Tree:
    """The first tree, moved to the device of the second's leaves; unchanged if the second has none.

    >>> to_device_of(torch.ones(1), torch.empty(1, device="meta")).device.type
    'meta'
    """
    targets = leaves(b)
    return map(lambda x: x.to(targets[0].device), a) if targets else a


def where(condition: Tensor, a: Tree, b: Tree) -> Tree:
    """a where the condition [] holds, else b."""
    return map(lambda x, y: torch.where(condition, x, y), a, b)


def stack(trees: Sequence[Tree]) -> Tree:
    """C trees with leaves [...] → one tree with leaves [C, ...]."""
    return map(lambda *xs: torch.stack(xs), *trees)


def concatenate(trees: Sequence[Tree]) -> Tree:
    """Trees with leaves [C_i, ...] → one tree with leaves [ΣC_i, ...]."""
    return trees[0] if len(trees) == 1 else map(lambda *xs: torch.cat(xs), *trees)


def concatenate_ragged(trees: Sequence[Tree]) -> Tree:
    """Trees with leaves [C_i, ...] of different sizes → one tree with leaves [ΣC_i, ...], padded with zeros.

    >>> concatenate_ragged([torch.ones(1, 1), torch.ones(1, 2)])
    tensor([[1., 0.],
            [1., 1.]])
    """

    def join(*xs: Tensor) -> Tensor:
        longest = [max(sizes) for sizes in zip(*(x.shape[1:] for x in xs), strict=True)]
        whole = xs[0].new_zeros(sum(len(x) for x in xs), *longest)
        start = 0
        for x in xs:
            whole[(slice(start, start + len(x)), *(slice(n) for n in x.shape[1:]))] = x
            start += len(x)
        return whole

    return map(join, *trees)


def nbytes(tree: Tree) -> int:
    """The leaves' size in bytes; an unformed matrix counts as if it were formed.

    >>> nbytes({"a": torch.ones(3), "b": (torch.ones(2, dtype=torch.int64),)})
    28
    """
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(tree))


def kind(tree: Tree) -> Any:
    """Structure and shapes: trees of equal kind can be stacked."""
    if isinstance(tree, Tensor):
        return tree.shape
    if type(tree) in DICTS:
        return dict, [(key, kind(part)) for key, part in tree.items()]
    if _is_named(type(tree)):
        return type(tree), [kind(part) for part in tree]
    flat, structure = pytree.tree_flatten(tree)
    return structure, [leaf.shape for leaf in flat]


def same_structure(trees: Sequence[Tree]) -> bool:
    """Whether all trees have the same structure, regardless of leaves and of the order of dict keys.

    >>> same_structure([{"a": 1, "b": 2}, {"b": 3, "a": 4}]), same_structure([{"a": 1}, {"a": (1,)}])
    (True, False)
    """
    first, *others = trees
    structure = pytree.tree_structure(first)
    return all(pytree.tree_structure(other) == structure or _places(other) == _places(first) for other in others)


def _places(tree: Tree) -> set[str]:
    """Paths of the leaves as text, which distinguish dict keys from tuple positions."""
    return {pytree.keystr(path) for path, _ in pytree.tree_leaves_with_path(tree)}


def subtrees(tree: Tree, kind: type) -> list[Any]:
    """The subtrees of one type, in order.

    >>> subtrees({"a": (1, 2), "b": [(3,)], "c": 4}, tuple)
    [(1, 2), (3,)]
    """
    nodes = pytree.tree_leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def map_subtrees(f: Callable[[Any], Any], tree: Tree, kind: type) -> Tree:
    """Apply f to the subtrees of one type; everything else is unchanged."""
    return pytree.tree_map(
        lambda node: f(node) if isinstance(node, kind) else node, tree, is_leaf=lambda node: isinstance(node, kind)
    )


def index(tree: Tree, i: Any) -> Tree:
    """Leaves [C, ...] → leaves x[i]."""
    return map(lambda x: x[i], tree)


def weighted_sum(stacked: Tree, weights: Tensor) -> Tree:
    """Σ_c weights[c]·tree[c]: leaves [C, ...] → leaves [...]."""
    return map(lambda x: torch.tensordot(weights.to(x.dtype), x, 1), stacked)


def is_equal(a: Tree, b: Tree) -> bool:
    """Whether two trees contain identical tensor objects, not just equal ones."""
    return all(x is y for x, y in zip(leaves(a), leaves(b), strict=True))


def unsqueeze0(tree: Tree) -> Tree:
    """A tree with leaves [...] as a stack of one: leaves [1, ...], not copied."""
    return map(lambda x: x.unsqueeze(0), tree)


def is_finite(tree: Tree) -> bool:
    return all(bool(factored_matrix.is_finite_leaf(x.unsqueeze(0)).all()) for x in leaves(tree))


def _step(key: Any) -> str:
    """One step of a path as text: a dict's key, a tuple's position, or a NamedTuple's field."""
    return str(next(getattr(key, a) for a in ("key", "idx", "name") if hasattr(key, a)))
