"""Trees of tensors as bytes, and files that are written completely or not at all."""

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

LARGEST_TENSOR = 2**48  # limit on the numbers of a tensor
RESUME = "`seedbed resume` continues from the last checkpoint"


def trees_to_bytes(trees: Mapping[str, Tree], metadata: dict[str, str] | None = None) -> bytes:
    """Serialize trees of tensors as safetensors; each leaf's name is its tree's name and path."""
    return encode({n: t.detach().contiguous().clone() for n, t in tree.named_leaves(dict(trees)).items()}, metadata)


def tensors_from_bytes(data: bytes, name: str) -> dict[str, Tensor]:
    try:
        return decode(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:  # including unknown data types
        raise InputError(f"{name} is not a complete safetensors file ({error}): make or copy it again") from error


def fill_template(template: Tree, tensors: Mapping[str, Tensor], prefix: str) -> Tree:
    """Build a tree with the template's structure from named tensors.

    Raises:
        InputError: a tensor is missing or has another shape: the file belongs to another model or algorithm.
    """
    values = []
    for path, leaf in tree.named_leaves(template).items():
        tensor = tensors.get(f"{prefix}.{path}")
        if tensor is None or tensor.shape != leaf.shape:
            shape = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}, not {tuple(leaf.shape)}"
            raise InputError(f"{prefix}.{path} {shape}: the file belongs to another model or algorithm")
        values.append(tensor.to(leaf.device))
    return tree.with_leaves(template, values)


def write_atomically(path: Path, data: bytes, *, go_on: str = RESUME) -> None:
    """Write a file completely or not at all: write a temporary file, flush it, rename it, and flush the folder."""
    with explain_write_errors(path, go_on=go_on), fresh_name(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)


def require_empty_folder(folder: Path, other: str) -> None:
    """Refuse a folder that exists and is not empty.

    Args:
        folder: the folder to create.
        other: its purpose, for the error message: a new federation.
    Raises:
        InputError: the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: choose another folder for {other}")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Create a folder completely or not at all: yields a temporary folder, which is renamed at the end."""
    with explain_write_errors(folder), fresh_name(folder, is_folder=True) as temporary:
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.replace(folder)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk; without it a power cut may undo a rename."""
    if os.name == "nt":
        return  # a folder cannot be opened there, and the file system journals names
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explain_write_errors(path: Path, *, go_on: str = RESUME) -> Iterator[None]:
    """Turn a file system error into an `InputError` with a way out.

    Args:
        path: the file or folder.
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


# ---- trees whose structure the receiver does not know ----------------------------------------------------------------

DTYPES = {str(kind).removeprefix("torch."): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}


def pack_tree(whole: Tree) -> bytes:
    """Serialize a tree of tensors with its structure: nested dicts, lists, tuples and NamedTuples. See `unpack_tree`.

    Devices are not stored. NamedTuples can only be read where their class is defined.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_outline(whole, tensors)).encode()
    stored = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in tensors.items()}
    return len(structure).to_bytes(8, "little") + structure + encode(stored)


def unpack_tree(data: bytes, name: str = "what another process sent") -> Tree:
    """Deserialize a tree from `pack_tree`, on the CPU.

    Raises:
        InputError: the bytes are not such a tree.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    with _structure_of(name):
        if not 8 < end <= len(data):
            raise ValueError(f"{len(data)} bytes do not hold a structure of {end - 8}")
        return _fill(from_json(data[8:end]), tensors_from_bytes(data[end:], name))


def tree_schema(whole: Tree) -> Any:
    """A tree's structure and its leaves' shapes and types, as JSON."""
    tensors: dict[str, Tensor] = {}
    structure = _outline(whole, tensors)
    return [structure, [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in tensors.values()]]


def meta_tree_of(outlined: Any, name: str = "an outline") -> Tree:
    """A tree from the JSON of `tree_schema`; its leaves are on the device `meta`, without storage.

    Raises:
        InputError: it is not such a structure.
    """
    with _structure_of(name):
        structure, leaves = outlined
        return _fill(structure, {str(i): _meta(shape, dtype) for i, (shape, dtype) in enumerate(leaves)})


def find_loaded_class(base: type, module: object, name: object) -> type | None:
    """The subclass of `base` with this name in the running program; None if there is none.

    Only existing subclasses are searched: no module is imported or searched because bytes name it.
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
        raise ValueError(f"{str(shape)[:40]} is not a shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{str(dtype)[:40]!r} is not a number type")
    if math.prod(shape) >= LARGEST_TENSOR:
        raise ValueError(f"a tensor of shape {shape} is too large")
    return torch.empty(shape, dtype=DTYPES[dtype], device="meta")


@contextmanager
def _structure_of(name: str) -> Iterator[None]:
    """Turn the errors of an invalid structure into one `InputError`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError, RuntimeError) as error:
        why = f"no tensor {error}" if isinstance(error, KeyError) else str(error).split("\n")[0][:200]
        raise InputError(
            f"{name} is not a tree of tensors ({why or type(error).__name__}): nothing of it was used; make it again "
            "with this version of Seedbed"
        ) from error


def _outline(node: Any, tensors: dict[str, Tensor]) -> Any:
    """[kind, ...] of a tree; its leaves are added to `tensors`, under their index."""
    if isinstance(node, Tensor):
        tensors[str(len(tensors))] = node
        return ["leaf", str(len(tensors) - 1)]
    if isinstance(node, Mapping):
        return ["dict", [[key, _outline(value, tensors)] for key, value in node.items()]]
    parts = [_outline(part, tensors) for part in node]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return ["named", type(node).__module__, type(node).__qualname__, parts]
    return ["list" if isinstance(node, list) else "tuple", parts]


def _fill(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(structure, list) or not structure:
        raise ValueError(f"{str(structure)[:40]} is not part of a structure")
    kind, *rest = structure
    if kind == "leaf" and len(rest) == 1 and isinstance(rest[0], str):
        return tensors[rest[0]]
    if kind == "dict" and len(rest) == 1:
        return {_key(key): _fill(part, tensors) for key, part in rest[0]}
    if kind == "named" and len(rest) == 3:
        return _make_namedtuple(rest[0], rest[1], [_fill(part, tensors) for part in rest[2]])
    if kind in ("list", "tuple") and len(rest) == 1 and isinstance(rest[0], list):
        parts = [_fill(part, tensors) for part in rest[0]]
        return parts if kind == "list" else tuple(parts)
    raise ValueError(f"{str(kind)[:40]!r} is not a kind of structure")


def _key(key: Any) -> str | int:
    if not isinstance(key, str | int):
        raise ValueError(f"{str(key)[:40]} is not a key")
    return key


def _make_namedtuple(module: object, name: object, parts: list[Any]) -> Any:
    """An instance of an existing NamedTuple class, made by `tuple`: no code of the class runs."""
    known = reversed(type.__subclasses__(tuple))  # the latest definition first: a notebook may define a class again
    kind: Any = next((k for k in known if (k.__module__, k.__qualname__) == (module, name)), None)
    if kind is None or not _is_plain_namedtuple(kind):
        raise ValueError(
            f"{str(module)[:40]}.{str(name)[:60]} is not a NamedTuple of this program; if it is yours, import its "
            "module first"
        )
    if len(parts) != len(kind._fields):
        raise ValueError(f"a {name} has {len(kind._fields)} parts, not {len(parts)}")
    return tuple.__new__(kind, parts)


def _is_plain_namedtuple(kind: Any) -> bool:
    """Whether `typing.NamedTuple` or `collections.namedtuple` made the class, without overridden methods."""
    return bool(kind.__bases__ == (tuple,) and kind.__new__.__module__ == f"namedtuple_{kind.__name__}")
