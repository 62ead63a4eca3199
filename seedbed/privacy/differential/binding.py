"""SHA-256 digest of everything that a release depends on. The noise is derived from the digest, so two different
releases never share noise.

The difference of two releases with the same noise is exact, and so reveals what the noise should hide. A run therefore
binds its key to settings, data and versions (`experiments.privacy_plan`); `with_privacy` also binds it to the state
before each round.

The digest covers a canonical form: values by type, length and content; functions by their code, defaults and closures;
objects by type and attributes. Two processes that build the same value get the same digest.
"""

import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from seedbed import tree
from seedbed.tree import Tree

Inner = Callable[[Any], bytes]


def digest_of(*parts: Any) -> bytes:
    """A 32-byte SHA-256 digest; it differs if any part differs.

    >>> digest_of({"lr": 1, "rounds": 2}) == digest_of({"rounds": 2, "lr": 1}) != digest_of({"rounds": 2, "lr": 2})
    True
    """
    return _Walk().of(parts)


def digest_of_tree(value: Tree) -> bytes:
    """Digest of a tree's leaves, bit for bit; the same on any device."""
    return digest_of([tree.form_unformed(leaf) for leaf in tree.leaves(value)])


class _Walk:
    """One pass over a value; objects that contain themselves are digested once."""

    def __init__(self) -> None:
        self.known: dict[int, bytes] = {}
        self.alive: list[Any] = []  # keeps objects alive, so that no id() is reused

    def of(self, value: Any) -> bytes:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return _hash(type(value).__name__, [repr(value).encode()])
        if id(value) in self.known:
            return self.known[id(value)]
        self.known[id(value)] = _hash("cycle", [])
        self.alive.append(value)
        self.known[id(value)] = digest = _hash(_name(value), _contents(value, self.of))
        return digest


def _hash(name: str, parts: Iterable[bytes]) -> bytes:
    total = hashlib.sha256()
    for part in (name.encode(), *parts):
        total.update(len(part).to_bytes(8, "big"))
        total.update(part)
    return total.digest()


def _name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _contents(value: Any, of: Inner) -> Iterable[bytes]:
    """Byte strings that describe a value which is neither a number nor text."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return [repr((value.dtype, tuple(value.shape))).encode(), flat.view(torch.uint8).numpy().tobytes()]
    if isinstance(value, np.ndarray):
        return [repr((value.dtype.str, value.shape)).encode(), value.tobytes()]
    if isinstance(value, Mapping):
        return sorted(of(key) + of(inner) for key, inner in value.items())
    if isinstance(value, Set):
        return sorted(map(of, value))
    if isinstance(value, tuple | list):
        return [of(inner) for inner in value]
    if isinstance(value, functools.partial):
        return [of(value.func), of(value.args), of(value.keywords)]
    if isinstance(value, types.MethodType):
        return [of(value.__func__), of(value.__self__)]
    if isinstance(value, types.FunctionType):
        return _of_function(value, of)
    if isinstance(value, types.CodeType):
        return [value.co_code, *(of(x) for x in (value.co_names, value.co_consts))]
    if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
        return [str(getattr(value, "__module__", "")).encode(), getattr(value, "__qualname__", value.__name__).encode()]
    return [of(_attributes(value))]


def _of_function(value: types.FunctionType, of: Inner) -> Iterable[bytes]:
    cells = []
    for cell in value.__closure__ or ():
        try:
            cells.append(of(cell.cell_contents))
        except ValueError:  # not filled yet
            cells.append(b"")
    named = f"{value.__module__}.{value.__qualname__}".encode()
    return [named, of(value.__code__), of(value.__defaults__), of(value.__kwdefaults__), *cells]


def _attributes(value: Any) -> dict[str, Any]:
    """An object's attributes, without cached properties."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    attributes = getattr(value, "__dict__", {})
    stored = {
        k: v
        for k, v in attributes.items()
        if not isinstance(inspect.getattr_static(type(value), k, None), functools.cached_property)
    }
    slots = [s for kind in type(value).__mro__ for s in _slots(kind) if hasattr(value, s)]
    return stored | {slot: getattr(value, slot) for slot in slots if not slot.startswith("__")}


def _slots(kind: type) -> Iterable[str]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots
