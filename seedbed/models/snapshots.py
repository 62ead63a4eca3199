"""What a module holds beside its parameters, before and after a call: how it is seen what forward writes."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MODULE_STATE = frozenset(nn.Module().__dict__)  # what PyTorch keeps in every module
PLAIN_VALUES = (int, float, complex, str, bytes, bool, type(None))
DEPTH, WIDTH = 4, 1000  # how deep and how wide containers are looked into


@dataclass(frozen=True)
class Place:
    """Where something lies: in the buffers or attributes of a module, or outside of it (a class, a global, a hook)."""

    layer: str
    name: str
    kind: str  # buffer | attribute | outside

    def __str__(self) -> str:
        where = f"layer {self.layer!r}" if self.layer else "the module"
        return f"{where}: {self.kind if self.kind != 'outside' else 'what lies outside it,'} {self.name!r}"


Snapshot = dict[Place, Any]


def snapshot(module: nn.Module) -> Snapshot:
    """All that a module holds beside parameters, copied: equal (`is_same`) if nothing was written."""
    found: Snapshot = {}
    for layer, m in module.named_modules():
        for name, buffer in m._buffers.items():
            found[Place(layer, name, "buffer")] = _copied(buffer)
        for name, value in vars(m).items():
            if name not in MODULE_STATE:
                found[Place(layer, name, "attribute")] = _copied(value)
        for name, value in _outside(m):
            found[Place(layer, name, "outside")] = _copied(value)
    return found


def is_same(a: Snapshot, b: Snapshot, place: Place) -> bool:
    """Whether two snapshots have the same there; what is missing is equal to nothing."""
    return (place in a) == (place in b) and (place not in a or _equal(a[place], b[place]))


class Restorer:
    """Puts a module's buffers and attributes back as they were."""

    def __init__(self, module: nn.Module):
        self._saved = [(m, {n: _cloned(b) for n, b in m._buffers.items()}, _attributes(m)) for m in module.modules()]

    def restore(self, *, attributes: bool = True) -> None:
        """Buffers, and attributes unless these stay."""
        for m, buffers, own in self._saved:
            m._buffers.update({n: _cloned(b) for n, b in buffers.items()})
            if not attributes:
                continue
            for name in [n for n in vars(m) if n not in MODULE_STATE and n not in own]:
                del vars(m)[name]
            vars(m).update({n: _deep(value) for n, value in own.items()})


def _attributes(m: nn.Module) -> dict[str, Any]:
    return {n: _deep(value) for n, value in vars(m).items() if n not in MODULE_STATE}


def _deep(value: Any) -> Any:
    """Containers and tensors copied, other objects as they are; parameters stay the module's."""
    if isinstance(value, nn.Parameter) or not isinstance(value, list | dict | set | Tensor):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if any(isinstance(x, nn.Parameter | nn.Module) for x in (value.values() if isinstance(value, dict) else value)):
        return copy.copy(value)
    try:
        return copy.deepcopy(value)
    except (TypeError, RuntimeError):
        return copy.copy(value)


def _cloned(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.detach().clone()


def _outside(m: nn.Module) -> Iterator[tuple[str, Any]]:
    """Plain values and containers that a module's code can write: of its classes, of its file, in its hooks."""
    for kind in type(m).__mro__:
        if not kind.__module__.startswith("torch.") and kind is not object:
            yield from ((f"{kind.__name__}.{n}", v) for n, v in vars(kind).items() if _may_be_written(n, v))
    code = getattr(type(m).forward, "__code__", None)
    if code is not None and not type(m).__module__.startswith("torch."):
        known: Mapping[str, Any] = type(m).forward.__globals__
        yield from ((n, known[n]) for n in code.co_names if n in known and _may_be_written(n, known[n]))
    hooks = [*m._forward_hooks.values(), *m._forward_pre_hooks.values()]
    for hook in hooks:
        inner = getattr(hook, "func", hook)
        name = getattr(inner, "__name__", type(inner).__name__)
        for n, value in zip(
            getattr(getattr(inner, "__code__", None), "co_freevars", ()),
            getattr(inner, "__closure__", None) or (),
            strict=False,
        ):
            yield f"{n} (of hook {name})", value.cell_contents
        code, known = getattr(inner, "__code__", None), getattr(inner, "__globals__", {})
        if code is not None:
            yield from ((f"{n} (of hook {name})", known[n]) for n in code.co_names if _may_be_written(n, known.get(n)))
        owner = getattr(inner, "__self__", None)
        if owner is not None and not isinstance(owner, nn.Module):
            yield f"the object of hook {name}", owner


def _may_be_written(name: str, value: Any) -> bool:
    return not name.startswith("__") and isinstance(value, int | float | list | dict | set | Tensor)


@dataclass(frozen=True)
class _Tensor:
    value: Tensor


def _copied(value: Any, depth: int = DEPTH) -> Any:
    """A copy that later writes do not reach; of objects that are no data, only which they are."""
    if isinstance(value, Tensor):
        return _Tensor(value.detach().clone())
    if isinstance(value, PLAIN_VALUES):
        return value
    if isinstance(value, torch.Generator):
        return _Tensor(value.get_state())
    if isinstance(value, np.ndarray | np.generic):
        return value.tobytes() if value.dtype != object else id(value)
    if depth == 0 or isinstance(value, nn.Module | type) or callable(value):
        return id(value)
    if isinstance(value, Mapping):
        return {"of": [(repr(k), _copied(v, depth - 1)) for k, v in list(value.items())[:WIDTH]], "n": len(value)}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return {"of": [_copied(v, depth - 1) for v in list(items)[:WIDTH]], "n": len(value)}
    if hasattr(value, "__len__") and hasattr(value, "__iter__"):
        return {"of": [_copied(v, depth - 1) for v in list(value)[:WIDTH]], "n": len(value)}
    if hasattr(value, "__dict__"):
        return {"is": id(type(value)), "of": _copied(vars(value), depth - 1)}
    return id(value)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, _Tensor) and isinstance(b, _Tensor):
        x, y = a.value, b.value
        return x.shape == y.shape and x.dtype == y.dtype and bool(((x == y) | ((x != x) & (y != y))).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b or (a != a and b != b))
