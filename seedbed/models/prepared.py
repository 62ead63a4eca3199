"""A module made ready to be called with other parameters: what cannot be is refused by name.

Shapes: C channels.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from seedbed.errors import InputError
from seedbed.tree import STATISTIC

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)

ParameterSlots = list[
    tuple[dict[str, Any], str, str]
]  # where a parameter or a statistic lies: its module's dict, its key there, its name


def prepare_module(module: Any, batch_norm: str) -> nn.Module:
    """A copy that can be called under watch.

    Raises:
        InputError: it is no module, has no number that trains, or has what a copy loses.
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise InputError(f"{module.__name__} is a class: call it, Model({module.__name__}(...))")
    if not isinstance(module, nn.Module):
        raise InputError(
            f"Model takes an nn.Module, not a {type(module).__name__}: a function has no parameters that could train; "
            "put it into the forward of a module that has"
        )
    if batch_norm not in ("running", "batch"):
        raise InputError(f"batch_norm={batch_norm!r} is unknown: choose running or batch")
    module = _unwrapped(module)
    _refuse_lazy(module)
    _refuse_hooks(module)
    _refuse_parameters(module)
    computed = {id(v): v.detach().clone() for m in module.modules() for v in vars(m).values() if _is_computed(v)}
    try:
        made: nn.Module = copy.deepcopy(module, computed)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"the module cannot be copied ({type(error).__name__}: {reason[:120]}): keep tensors that are computed and "
            "open files out of its attributes"
        ) from error
    for name, m in made.named_modules():
        if isinstance(m, NORMS):
            _prepare_norm(name, m)
    return made


def _unwrapped(module: Any) -> nn.Module:
    """Compiled and parallel modules as they were before: clients run on the engines' own executors."""
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("a scripted module cannot be given other parameters: hand over the module it was made from")
    inner = vars(module)["_modules"].get("_orig_mod")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = module.module
    found: nn.Module = module if inner is None else _unwrapped(inner)
    return found


def _is_computed(value: Any) -> bool:
    """Whether it is a tensor with a graph, which weight normalisation by hooks keeps and computes anew in forward."""
    return isinstance(value, Tensor) and not value.is_leaf


def _refuse_lazy(module: nn.Module) -> None:
    held = (*module.named_parameters(), *module.named_buffers())
    for name, value in held:
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise InputError(
                f"{name!r} has no shape yet, as its layer is lazy: run one batch through the module first, module(x)"
            )


def _refuse_hooks(module: nn.Module) -> None:
    for name, m in module.named_modules():
        if m._backward_hooks or m._backward_pre_hooks:
            raise InputError(
                f"layer {name!r} has a backward hook, which functional gradients do not call: write what it does into "
                "the loss, or as a torch.autograd.Function in forward"
            )
    for name, p in module.named_parameters():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            raise InputError(
                f"parameter {name!r} has a hook on its gradient, which functional gradients do not call: write what it "
                "does into the loss or the optimiser"
            )


def _refuse_parameters(module: nn.Module) -> None:
    params = dict(module.named_parameters())
    if not any(p.requires_grad for p in params.values()):
        why = "every parameter has requires_grad=False" if params else "it has no parameters"
        raise InputError(f"the module has nothing to train: {why}; let one at least train")
    for name, p in params.items():
        if p.requires_grad and p.is_complex():
            raise InputError(
                f"parameter {name!r} is complex, which norms and clipping do not take: keep its real and imaginary "
                "parts as real parameters, and join them in forward (torch.view_as_complex)"
            )


def _prepare_norm(name: str, m: Any) -> None:
    """Without the count of batches, which only a cumulative average needs."""
    if not m.track_running_stats:
        return
    if m.momentum is None:
        raise InputError(
            f"layer {name!r} averages over all batches (momentum=None), of which clients see unlike many: set a "
            "momentum, such as 0.1"
        )
    m.num_batches_tracked = None


def running_statistics(module: nn.Module) -> list[str]:
    """The names of the running statistics of its normalisation layers that train."""
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, NORMS) and m.track_running_stats]
    names = [(n, key) for n, m in layers if m.training for key in ("running_mean", "running_var")]
    return [f"{n}.{key}" if n else key for n, key in names]


def tied_names(module: nn.Module, head: str) -> dict[str, str]:
    """The name of every place of a parameter that trains: of tied ones the first, or the head's if it is among them."""
    places: dict[int, list[str]] = {}
    for path, m in module.named_modules():
        for key, p in m._parameters.items():
            if p is not None and p.requires_grad:
                places.setdefault(id(p), []).append(f"{path}.{key}" if path else key)
    found: dict[str, str] = {}
    for names in places.values():
        inside = [n for n in names if head and n.startswith(f"{head}.")]
        found |= dict.fromkeys(names, (inside or names)[0])
    return found


def slots_of(module: nn.Module, names: Mapping[str, str], running: Sequence[str]) -> ParameterSlots:
    """Where parameters that train and running statistics lie."""
    found: ParameterSlots = []
    for path, m in module.named_modules():
        for key in m._parameters:
            place = f"{path}.{key}" if path else key
            if place in names:
                found.append((m._parameters, key, names[place]))
        for key in m._buffers:
            place = f"{path}.{key}" if path else key
            if place in running:
                found.append((m._buffers, key, STATISTIC + place))
    return found
