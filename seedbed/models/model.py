"""Any nn.Module as a pure function of named parameters.

Shapes: B examples, F features, N classes.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from seedbed import tree
from seedbed.errors import InputError
from seedbed.models.normalisation import STATISTICS, BatchNorm
from seedbed.models.precision import Precision, matmul_precision

Params = dict[str, Tensor]
Made = TypeVar("Made")

BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class Model:
    """A module's parameters, and what it computes from any others of their kind.

    Attributes:
        params: the initial parameters, by name.
        normalising: the names of all that its `BatchNorm` layers have; statistics: those of what `measure` sets.

    Args:
        module: any nn.Module that is a function of its parameters: it is copied, never changed.
        head: the name of the last linear layer; None: the last nn.Linear (or none, if there is no linear layer).
        precision: of its products; what it gives is in the default precision all the same.
    Raises:
        InputError: the module keeps running statistics or draws random numbers, so it is no function of its
            parameters; or the head is not a linear layer of it.

    >>> model = Model(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    >>> model.head, model.width, model.predict(model.params, torch.ones(5, 4)).shape
    ('2', 3, torch.Size([5, 2]))
    >>> model.features(model.params, torch.ones(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, module: nn.Module, *, head: str | None = None, precision: Precision = "float32"):
        _refuse_impure(module)
        self.precision = precision
        self.module = copy.deepcopy(module)
        self.params: Params = {n: p.detach().clone() for n, p in module.named_parameters()}
        self.head = _last_linear(module) if head is None else head
        layer = dict(module.named_modules()).get(self.head)
        if head is not None and not isinstance(layer, nn.Linear):
            raise InputError(
                f"head={head!r} is not a linear layer of the model: name an nn.Linear in it, or leave it out"
            )
        self.width = layer.in_features if isinstance(layer, nn.Linear) else 0
        layers = [name for name, m in module.named_modules() if isinstance(m, BatchNorm)]
        self.statistics = frozenset(f"{layer}.{s}" for layer in layers for s in STATISTICS)
        self.normalising = self.statistics | {f"{layer}.{p}" for layer in layers for p in ("weight", "bias")}
        self._skeletons, self._slots = threading.local(), threading.local()

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """The module's output, [B, ...]. Parameters that it does not have are ignored; a head may have any number
        of classes; a missing head is zero, so that a body alone predicts nothing in particular."""
        with self._holding(params) as skeleton, matmul_precision(self.precision, x):
            output: Tensor = skeleton(x)
        return output if self.precision != "bf16" else output.to(torch.get_default_dtype())

    def measure(self, params: Params, x: Tensor, mask: Tensor) -> Params:
        """The params with the statistics of a batch in its `BatchNorm` layers, each measured under those before it.

        A function of params and batch like `predict`, differentiable in both: the loss under what it gives is the loss
        of batch normalisation in training.

        Args:
            x: [B, ...].  mask: [B] 1 = real example, 0 = padding.
        """
        skeleton = self._skeleton("")
        layers = {name: m for name, m in skeleton.named_modules() if isinstance(m, BatchNorm)}
        for layer in layers.values():
            layer.mask = mask
        try:
            with matmul_precision(self.precision, x):
                functional_call(skeleton, self._whole(params), (x,))
            found = {f"{name}.{s}": layer.measured[s] for name, layer in layers.items() for s in STATISTICS}
        finally:
            for layer in layers.values():
                layer.mask, layer.measured = None, {}
        return {**params, **found}

    def features(self, params: Params, x: Tensor) -> Tensor:
        """What the head sees, [B, F]."""
        if not self.head:
            raise InputError("the model has no linear layer to be its head: end it with an nn.Linear")
        return self.entering(self.head, params, x)

    def entering(self, layer: str, params: Params, x: Tensor) -> Tensor:
        """What the layer of this name is given, [B, ...]; parameters of it and of later ones change nothing."""
        before = {n: params[n] for n in self.params if not n.startswith(f"{layer}.")}
        try:
            with matmul_precision(self.precision, x):
                functional_call(self._skeleton(layer), before, (x,))
        except _Reached as reached:
            given = reached.given
            return given if self.precision != "bf16" else given.to(torch.get_default_dtype())
        raise InputError(f"layer {layer!r} is not used when the model predicts: leave it out")

    def each(self, make: Callable[["Model"], Made]) -> Made:
        """make(model): what `Several` does for every model of it."""
        return make(self)

    def to(self, device: torch.device | str, *, precision: Precision | None = None) -> "Model":
        """The same on another device, and perhaps with products in another precision."""
        return Model(
            copy.deepcopy(self.module).to(device), head=self.head or None, precision=precision or self.precision
        )

    def is_head(self, name: str) -> bool:
        """Whether a parameter of this name belongs to the head."""
        return bool(self.head) and name.startswith(f"{self.head}.")

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.params.values())
        return f"Model({type(self.module).__name__}, {count:,} parameters, head {self.head!r})"

    def _whole(self, params: Params) -> Params:
        return {
            n: params[n] if n in params else tree.to_device_of(torch.zeros_like(p), params)
            for n, p in self.params.items()
        }

    @contextmanager
    def _holding(self, params: Params) -> Iterator[nn.Module]:
        """A copy of the module with these parameters in it. As `functional_call`, in a fifth of its time."""
        skeleton = self._skeleton("")
        slots: ParameterSlots | None = getattr(self._slots, "found", None)
        if slots is None:
            slots = self._slots.found = _slots(skeleton)
        whole = params if all(name in params for _, _, name in slots) else self._whole(params)
        before = [holder[key] for holder, key, _ in slots]
        try:
            for holder, key, name in slots:
                holder[key] = whole[name]
            yield skeleton
        finally:
            for (holder, key, _), own in zip(slots, before, strict=True):
                holder[key] = own

    def _skeleton(self, layer: str) -> nn.Module:
        """A copy of the module that stops before this layer, or does not if none is named.

        Each thread has its own: a functional call puts the parameters in and out of it.
        """
        found: nn.Module | None = getattr(self._skeletons, layer, None)
        if found is None:
            found = copy.deepcopy(self.module)
            if layer:
                found.set_submodule(layer, _Stop())
            setattr(self._skeletons, layer, found)
        return found


ParameterSlots = list[
    tuple[dict[str, Any], str, str]
]  # where a parameter lies: its module's dict, its key there, its name


def _slots(module: nn.Module) -> ParameterSlots:
    """One that lies in several places has the name of the first."""
    first: dict[int, str] = {}
    found: ParameterSlots = []
    for path, m in module.named_modules():
        for key, p in m._parameters.items():
            if p is not None:
                name = first.setdefault(id(p), f"{path}.{key}" if path else key)
                found.append((m._parameters, key, name))
    return found


class _Reached(Exception):
    """A layer was reached: what it is given."""

    def __init__(self, given: Tensor):
        self.given = given


class _Stop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise _Reached(x)


def _last_linear(module: nn.Module) -> str:
    names = [name for name, m in module.named_modules() if isinstance(m, nn.Linear) and name]
    return names[-1] if names else ""


def _refuse_impure(module: nn.Module) -> None:
    for name, m in module.named_modules():
        kind: Any = type(m).__name__
        if isinstance(m, BATCH_STATISTICS) and m.track_running_stats:
            raise InputError(
                f"layer {name!r} is a {kind} with running statistics, which are no function of the parameters: use "
                "nn.GroupNorm, or seedbed.BatchNorm with fedbn (each client's own statistics), or "
                "track_running_stats=False (statistics of the batch at hand: predictions then depend on the other "
                "examples of the batch, which few-shot papers call transductive)"
            )
        if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 and m.training:
            raise InputError(
                f"layer {name!r} is a {kind}, which draws from a global generator, so that runs could not be "
                "repeated: set p=0, or call .eval() on the module to switch it off"
            )
