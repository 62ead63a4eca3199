"""Clients abreast: the same step of all of them at once, each operation done to one after another.

A model is called once for all clients of a group, on an `Each`: a tensor of every client's. What PyTorch does to it is
done to each client's by itself, which for convolutions is the fast way, but at a large factored matrix that all share
there is one product of all their rows, which reads the matrix once.

Shapes: B examples of a batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.executors.loop import ClientTrainer, without_mask
from seedbed.executors.max_pool import fast_max_pool
from seedbed.learning.objectives import Proximal, Supervised
from seedbed.learning.training import Item, LocalWork, Objective, Params, TrainResult, differentiable, use_gradients
from seedbed.lowrank.factored_matrix import GradRecorder, record_linears

PLAIN = (bool, int, float, str, torch.Size, torch.dtype, torch.device, torch.layout, type(None))


class NotGroupable(Exception):
    """An objective does what cannot be done for all clients at once: its way hangs on a client's numbers."""


class ClientBatchTensor(Tensor):
    """A tensor of each client's, all of one shape."""

    members: list[Tensor]

    def __new__(cls, members: list[Tensor]) -> "ClientBatchTensor":
        first = members[0]
        made: ClientBatchTensor = Tensor._make_wrapper_subclass(
            cls, first.shape, dtype=first.dtype, device=first.device
        )
        made.members = members
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Inside an autograd.Function of the model's own there is no graph: what is done there would have no gradient.
        if not torch.is_grad_enabled() or "out" in kwargs or _overwrites_shared(func, args):
            raise NotGroupable
        if func is F.linear and not kwargs and _all_heard(args[1]):
            return _linear(*args)
        count = len(_first_of((args, kwargs)).members)
        quickly = fast_max_pool(func)
        return _joined([quickly(*_of(args, i), **_of(kwargs, i)) for i in range(count)])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch's own stub is of the switched-off form
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """What passes by `__torch_function__`."""
        raise NotGroupable

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Each({len(self.members)} of {self.members[0]!r})"


def _overwrites_shared(func: Any, args: Any) -> bool:
    """Whether all clients would write over one tensor."""
    name = getattr(func, "__name__", "")
    writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    return writes and not isinstance(args[0], ClientBatchTensor)


def _all_heard(weight: Any) -> bool:
    return isinstance(weight, ClientBatchTensor) and all(isinstance(member, GradRecorder) for member in weight.members)


def _linear(x: Any, weight: ClientBatchTensor, bias: Any = None) -> Any:
    count = len(weight.members)
    found = record_linears([_of(x, i) for i in range(count)], weight.members)  # type: ignore[arg-type]
    return _joined([y if bias is None else y + _of(bias, i) for i, y in enumerate(found)])


def _of(given: Any, i: int) -> Any:
    """What client i has of it."""
    if isinstance(given, ClientBatchTensor):
        return given.members[i]
    if type(given) in (tuple, list):
        return type(given)([_of(part, i) for part in given])
    if type(given) is dict:
        return {key: _of(part, i) for key, part in given.items()}
    return given


def _first_of(given: Any) -> Any:
    """An Each in it."""
    if isinstance(given, ClientBatchTensor):
        return given
    parts = given.values() if type(given) is dict else given if type(given) in (tuple, list) else ()
    return next((found for part in parts if (found := _first_of(part)) is not None), None)


def _joined(found: Sequence[Any]) -> Any:
    """What an operation gave for each client, as one; other than tensors it must be the same for all."""
    first = found[0]
    if isinstance(first, Tensor):
        if any(x.shape != first.shape or x.dtype != first.dtype for x in found):
            raise NotGroupable
        return ClientBatchTensor(list(found))
    if isinstance(first, tuple | list) and not isinstance(first, torch.Size):
        if any(len(x) != len(first) for x in found):
            raise NotGroupable
        parts = [_joined(part) for part in zip(*found, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if not isinstance(first, PLAIN) or any(x != first for x in found):
        raise NotGroupable
    return first


def gradients(objective: Objective, params: Sequence[Params], items: Sequence[Item]) -> list[tuple[Params, Tensor]]:
    """The gradient at each client's params on its item, and the value [] there, by one backward pass.

    Raises:
        NotAbreast, NotFactorable: the objective must be asked client by client.
    """
    with torch.enable_grad():
        leaves = [[differentiable(leaf) for leaf in tree.leaves(own)] for own in params]
        together = tree.with_leaves(
            params[0], [ClientBatchTensor(list(column)) for column in zip(*leaves, strict=True)]
        )
        values = objective(together, tree.map(lambda *xs: ClientBatchTensor(list(xs)), *items))
        if not isinstance(values, ClientBatchTensor):
            raise NotGroupable
        return use_gradients(values.members, leaves, params)


def grouped_train(locals: Sequence[LocalWork]) -> list[TrainResult]:
    """A step for every real item of each client, the first steps of all together, then the second ones, and so on.

    Raises:
        NotAbreast, NotFactorable: they must be trained one by one.
    """
    paths = [ClientTrainer(local, in_place=False) for local in locals]
    while going := [path for path in paths if path.goes_on]:
        found = _slopes([path.objective for path in going], [p.params for p in going], [p.item for p in going])
        for path, (grads, loss) in zip(going, found, strict=True):
            path.step(grads, loss)
    return [path.end() for path in paths]


def _slopes(
    objectives: Sequence[Objective], params: Sequence[Params], items: Sequence[Item]
) -> list[tuple[Params, Tensor]]:
    pulls = [objective for objective in objectives if isinstance(objective, Proximal)]
    if not pulls:
        return gradients(objectives[0], params, items)
    found = _slopes([pull.objective for pull in pulls], params, items)
    return [pull.pulled(own, *one) for pull, own, one in zip(pulls, params, found, strict=True)]


def can_group(a: LocalWork, b: LocalWork) -> bool:
    """Whether two clients can go abreast: one loss but for what pulls them, one shape of all that they have."""
    return (
        _pulls(a.objective) == _pulls(b.objective)
        and isinstance(core_objective(a.objective), Supervised)
        and core_objective(a.objective) == core_objective(b.objective)
        and _shapes(a) == _shapes(b)
        and [type(leaf) for leaf in tree.leaves(a.params)] == [type(leaf) for leaf in tree.leaves(b.params)]
    )


def all_without_mask(locals: Sequence[LocalWork]) -> Sequence[LocalWork]:
    """Clients that go abreast, without masks where the examples of all are real."""
    plain = [local._replace(objective=without_mask(local.objective, local.task)) for local in locals]
    return (
        plain if all(core_objective(one.objective) == core_objective(plain[0].objective) for one in plain) else locals
    )


def core_objective(objective: Objective) -> Objective:
    """An objective without what pulls it."""
    return core_objective(objective.objective) if isinstance(objective, Proximal) else objective


def _pulls(objective: Objective) -> int:
    return 1 + _pulls(objective.objective) if isinstance(objective, Proximal) else 0


def _shapes(local: LocalWork) -> Any:
    return tree.kind(local.params), tree.kind(tree.index(local.task.items, 0))
