"""Trees of tensors as bytes, and files that are written whole or not at all."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from seedbed import tree
from seedbed.errors import InputError
from seedbed.tree import Tree

RESUME = "`seedbed resume` goes on from the last checkpoint"


def to_bytes(trees: Mapping[str, Tree], metadata: dict[str, str] | None = None) -> bytes:
    """Trees of tensors as safetensors, each leaf under its tree's name and path."""
    return encode({n: t.detach().contiguous().clone() for n, t in tree.named_leaves(dict(trees)).items()}, metadata)


def from_bytes(data: bytes, name: str) -> dict[str, Tensor]:
    try:
        return decode(data)
    except SafetensorError as error:
        raise InputError(f"{name} is not a whole safetensors file ({error}): make or copy it again") from error


def fill(template: Tree, tensors: Mapping[str, Tensor], prefix: str) -> Tree:
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
    beside = path.with_name(path.name + ".part")
    with writing(path, go_on=go_on):
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            settle_folder(path.parent)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise


def refuse_used(folder: Path, other: str) -> None:
    """A new folder must not be there yet, or be empty.

    Args:
        other: what another one would be for: a new federation.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty: choose another folder for {other}")


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A folder that is there whole or not at all: what is made at the yielded place is moved to it at last."""
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    with writing(folder):
        try:
            yield beside
            if folder.exists():
                folder.rmdir()
            beside.replace(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def settle_folder(folder: Path) -> None:
    """Flush a folder's names to disk: without it a power cut may take back that a file was moved into it."""
    if os.name == "nt":
        return  # there a folder cannot be opened, and names are journalled by the file system
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path, *, go_on: str = RESUME) -> Iterator[None]:
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


# ---- between ranks: trees whose structure the other side does not know ----------------------------------------------


def pack(whole: Tree) -> bytes:
    """A tree of tensors with its structure: nested dicts, lists, tuples and NamedTuples. `unpack` gives it back.

    Devices are not kept, and neither are NamedTuples of classes that only one side has.
    """
    found: dict[str, Tensor] = {}
    structure = json.dumps(_outline(whole, found)).encode()
    held = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in found.items()}
    return len(structure).to_bytes(8, "little") + structure + encode(held)


def unpack(data: bytes) -> Tree:
    """The tree that `pack` made into bytes, on the CPU."""
    end = 8 + int.from_bytes(data[:8], "little")
    return _filled(json.loads(data[8:end]), decode(data[end:]))


def outline(whole: Tree) -> Any:
    """A tree's structure, and its leaves' shapes and types, as JSON takes it."""
    found: dict[str, Tensor] = {}
    structure = _outline(whole, found)
    return [structure, [[list(x.shape), str(x.dtype).removeprefix("torch.")] for x in found.values()]]


def blank(outlined: Any) -> Tree:
    """A tree of this outline, whose leaves have shapes and types and hold nothing (the device `meta`)."""
    structure, leaves = outlined
    kinds = [(shape, getattr(torch, dtype)) for shape, dtype in leaves]
    return _filled(structure, {str(i): torch.empty(s, dtype=d, device="meta") for i, (s, d) in enumerate(kinds)})


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
    kind, *rest = structure
    if kind == "leaf":
        return found[rest[0]]
    if kind == "dict":
        return {key: _filled(part, found) for key, part in rest[0]}
    parts = [_filled(part, found) for part in rest[-1]]
    if kind == "named":
        made: Any = sys.modules[rest[0]]  # loaded already: nothing is imported because bytes say so
        for name in rest[1].split("."):
            made = getattr(made, name)
        return made(*parts)
    return parts if kind == "list" else tuple(parts)
