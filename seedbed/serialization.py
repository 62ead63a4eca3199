"""Trees of tensors as bytes, and files that are written whole or not at all."""

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from seedbed import tree
from seedbed.errors import InputError
from seedbed.limits import from_json
from seedbed.temporary import fresh_name
from seedbed.tree import Tree

LARGEST_TENSOR = 2**48  # numbers of a tensor
RESUME = "`seedbed resume` goes on from the last checkpoint"


def trees_to_bytes(trees: Mapping[str, Tree], metadata: dict[str, str] | None = None) -> bytes:
    """Trees of tensors as safetensors, each leaf under its tree's name and path."""
    return encode({n: t.detach().contiguous().clone() for n, t in tree.named_leaves(dict(trees)).items()}, metadata)


def tensors_from_bytes(data: bytes, name: str) -> dict[str, Tensor]:
    try:
        return decode(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:  # its own, and of a type unknown
        raise InputError(f"{name} is not a whole safetensors file ({error}): make or copy it again") from error


def fill_template(template: Tree, tensors: Mapping[str, Tensor], prefix: str) -> Tree:
    """A tree of the template's structure from named tensors.

    Raises:
        InputError: a tensor is missing or has another shape: the file is of another model or algorithm.
    """
    values = []
    for path, leaf in tree.named_leaves(template).items():
        found = tensors.get(f"{prefix}.{path}")
        if found is None or found.shape != leaf.shape:
            shape = "is missing" if found is None else f"has shape {tuple(found.shape)}, not {tuple(leaf.shape)}"
            raise InputError(f"{prefix}.{path} {shape}: the file belongs to another model or algorithm")
        values.append(found.to(leaf.device))
    return tree.with_leaves(template, values)


def write_atomically(path: Path, data: bytes, *, go_on: str = RESUME) -> None:
    """The whole file or none: written beside its place, flushed to disk, moved into it, and the folder flushed too."""
    with explain_write_errors(path, go_on=go_on), fresh_name(path) as beside:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        fsync_folder(path.parent)


def require_empty_folder(folder: Path, other: str) -> None:
    """A new folder must not be there yet, or be empty.

    Args:
        other: what another one would be for: a new federation.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: choose another folder for {other}")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder that is there whole or not at all: what is made at the yielded place is moved to it at last."""
    with explain_write_errors(folder), fresh_name(folder, is_folder=True) as beside:
        yield beside
        if folder.exists():
            folder.rmdir()
        beside.replace(folder)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's names to disk: without it a power cut may take back that a file was moved into it."""
    if os.name == "nt":
        return  # there a folder cannot be opened, and names are journalled by the file system
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explain_write_errors(path: Path, *, go_on: str = RESUME) -> Iterator[None]:
    """Turns what the file system says into one line with a way out.

    Args:
        go_on: what to do once there is space again.
    """
    try:
        yield
    except OSError as error:
        full, closed = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), (errno.EACCES, errno.EPERM, errno.EROFS)
        way = "choose another place"
        if error.errno in full:
            way = f"free some space, then {go_on}"
        elif error.errno in closed:
            way = "choose a directory that you may write to"
        raise InputError(f"cannot write {path}: {error.strerror}; {way}") from error


# ---- trees whose structure the other side does not know -------------------------------------------------------------

DTYPES = {str(kind).removeprefix("torch."): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}


def pack_tree(whole: Tree) -> bytes:
    """A tree of tensors with its structure: nested dicts, lists, tuples and NamedTuples. `unpack` gives it back.

    Devices are not kept, and neither are NamedTuples of classes that only one side has.
    """
    found: dict[str, Tensor] = {}
    structure = json.dumps(_outline(whole, found)).encode()
    held = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in found.items()}
    return len(structure).to_bytes(8, "little") + structure + encode(held)


def unpack_tree(data: bytes, name: str = "what another process sent") -> Tree:
    """The tree that `pack` made into bytes, on the CPU.

    Raises:
        InputError: the bytes are not such a tree.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    with _structure_of(name):
        if not 8 < end <= len(data):
            raise ValueError(f"{len(data)} bytes do not hold a structure of {end - 8}")
        return _filled(from_json(data[8:end]), tensors_from_bytes(data[end:], name))


def tree_schema(whole: Tree) -> Any:
    """A tree's structure, and its leaves' shapes and types, as JSON takes it."""
    found: dict[str, Tensor] = {}
    structure = _outline(whole, found)
    return [structure, [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in found.values()]]


def meta_tree_of(outlined: Any, name: str = "an outline") -> Tree:
    """A tree of this outline, whose leaves have shapes and types and hold nothing (the device `meta`).

    Raises:
        InputError: it is no outline.
    """
    with _structure_of(name):
        structure, leaves = outlined
        return _filled(structure, {str(i): _meta(shape, dtype) for i, (shape, dtype) in enumerate(leaves)})


def loaded(base: type, module: object, name: object) -> type | None:
    """The class below `base` that this program has defined under this name; None: there is none.

    Looked for among the subclasses that exist: no module is imported or searched because bytes name it.
    """
    waiting, seen = [base], {base}
    while waiting:
        kind = waiting.pop()
        if (kind.__module__, kind.__qualname__) == (module, name):
            return kind
        below: list[type] = type.__subclasses__(kind)
        more = [sub for sub in below if sub not in seen]
        seen.update(more)
        waiting += more
    return None


def _meta(shape: Any, dtype: Any) -> Tensor:
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{str(shape)[:40]} is no shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{str(dtype)[:40]!r} is no type of numbers")
    if math.prod(shape) >= LARGEST_TENSOR:
        raise ValueError(f"a tensor of shape {shape} is too large")
    return torch.empty(shape, dtype=DTYPES[dtype], device="meta")


@contextmanager
def _structure_of(name: str) -> Iterator[None]:
    """A structure that cannot be rebuilt, in one line."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError, RuntimeError) as error:
        why = f"no tensor {error}" if isinstance(error, KeyError) else str(error).split("\n")[0][:200]
        raise InputError(
            f"{name} is no tree of tensors ({why or type(error).__name__}): nothing of it was used; make it again by "
            "this version of Seedbed"
        ) from error


def _outline(node: Any, found: dict[str, Tensor]) -> Any:
    """[kind, ...] of a tree; its leaves go into `found`, by their numbers in order."""
    if isinstance(node, Tensor):
        found[str(len(found))] = node
        return ["leaf", str(len(found) - 1)]
    if isinstance(node, Mapping):
        return ["dict", [[key, _outline(value, found)] for key, value in node.items()]]
    parts = [_outline(part, found) for part in node]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return ["named", type(node).__module__, type(node).__qualname__, parts]
    return ["list" if isinstance(node, list) else "tuple", parts]


def _filled(structure: Any, found: Mapping[str, Tensor]) -> Any:
    if not isinstance(structure, list) or not structure:
        raise ValueError(f"{str(structure)[:40]} is no part of a structure")
    kind, *rest = structure
    if kind == "leaf" and len(rest) == 1 and isinstance(rest[0], str):
        return found[rest[0]]
    if kind == "dict" and len(rest) == 1:
        return {_key(key): _filled(part, found) for key, part in rest[0]}
    if kind == "named" and len(rest) == 3:
        return _named(rest[0], rest[1], [_filled(part, found) for part in rest[2]])
    if kind in ("list", "tuple") and len(rest) == 1 and isinstance(rest[0], list):
        parts = [_filled(part, found) for part in rest[0]]
        return parts if kind == "list" else tuple(parts)
    raise ValueError(f"{str(kind)[:40]!r} is no kind of structure")


def _key(key: Any) -> str | int:
    if not isinstance(key, str | int):
        raise ValueError(f"{str(key)[:40]} is no key")
    return key


def _named(module: object, name: object, parts: list[Any]) -> Any:
    """A NamedTuple of a class that this program has. `tuple` makes it: no code of the class runs."""
    known = reversed(type.__subclasses__(tuple))  # the last of a name: a notebook defines a class again
    kind: Any = next((k for k in known if (k.__module__, k.__qualname__) == (module, name)), None)
    if kind is None or not _is_plain_namedtuple(kind):
        raise ValueError(
            f"{str(module)[:40]}.{str(name)[:60]} is no NamedTuple of this program; if it is yours, import its module "
            "first"
        )
    if len(parts) != len(kind._fields):
        raise ValueError(f"a {name} of {len(parts)} parts has {len(kind._fields)}")
    return tuple.__new__(kind, parts)


def _is_plain_namedtuple(kind: Any) -> bool:
    """Whether `typing.NamedTuple` or `collections.namedtuple` made it, with nothing put over it."""
    return bool(kind.__bases__ == (tuple,) and kind.__new__.__module__ == f"namedtuple_{kind.__name__}")
