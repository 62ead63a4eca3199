"""Hostile structures, and a mark that appears where one of them ran."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

Json = Any
LEAF = ["leaf", "0"]
ran: list[object] = []


class Quiet(NamedTuple):
    """A structure of the program's own."""

    x: torch.Tensor


class Loud(Quiet):
    """Not made by `NamedTuple` itself: its constructor runs."""

    def __new__(cls, *parts: Any) -> "Loud":
        ran.append(parts)
        return super().__new__(cls, *parts)


class Handmade(tuple):  # type: ignore[type-arg]
    _fields = ("x",)

    def __new__(cls, *parts: Any) -> "Handmade":
        ran.append(parts)
        return tuple.__new__(cls, parts)


def program(mark: Path) -> Json:
    """Starts a program, where names are resolved to what they name."""
    return ["named", "subprocess", "Popen", [["dict", [["touch", LEAF], [str(mark), LEAF]]]]]


def structures(mark: Path) -> Iterator[tuple[str, Json]]:
    """Everything that no structure may hold."""
    yield "a program", program(mark)
    yield "a program inside", ["tuple", [LEAF, ["dict", [["a", program(mark)]]]]]
    yield "a builtin", ["named", "builtins", "exec", [LEAF]]
    yield "a function", ["named", "os", "system", [LEAF]]
    yield "a method of ours", ["named", "seedbed.serialization", "write_atomically", [LEAF, LEAF]]
    yield "a class with a constructor", ["named", __name__, "Loud", [LEAF]]
    yield "a tuple made by hand", ["named", __name__, "Handmade", [LEAF]]
    yield "a structure of PyTorch", ["named", "torch", "Size", [LEAF]]
    yield "too many parts", ["named", __name__, "Quiet", [LEAF, LEAF]]
    yield "no such class", ["named", __name__, "Gone", [LEAF]]
    yield "a name that is no text", ["named", ["os"], {"system": 1}, [LEAF]]
    yield "a leaf that is not there", ["leaf", "7"]
    yield "a leaf without a name", ["leaf", ["0"]]
    yield "a key that is a list", ["dict", [[["a"], LEAF]]]
    yield "not a kind", ["set", [LEAF]]
    yield "no structure", 7
    yield "nothing", []
    yield "texts", ["tuple", "abc"]


def as_json(structure: Json) -> bytes:
    return structure if isinstance(structure, bytes) else json.dumps(structure).encode()


def deep(depth: int) -> bytes:
    """A structure of so many tuples inside each other, as JSON."""
    return b'["tuple",[' * depth + as_json(LEAF) + b"]]" * depth


def packed(structure: Json) -> bytes:
    """As `stored.pack` writes it."""
    text = as_json(structure)
    return len(text).to_bytes(8, "little") + text + save({"0": torch.zeros(1)})


def nested(depth: int = 100_000) -> bytes:
    """JSON that a recursive parser does not survive."""
    return b"[" * depth + b"]" * depth


def altered(table: Json, hostile: Json) -> Iterator[tuple[str, Json]]:
    """The table with each of its values in turn replaced, and each key in turn missing."""
    items = table.items() if isinstance(table, dict) else enumerate(table)
    for key, value in list(items)[:40]:
        changed = dict(table) if isinstance(table, dict) else list(table)
        changed[key] = hostile
        yield f"{key}", changed
        if isinstance(table, dict):
            yield f"without {key}", {k: v for k, v in table.items() if k != key}
        if isinstance(value, dict | list):
            for where, inner in altered(value, hostile):
                deeper = dict(table) if isinstance(table, dict) else list(table)
                deeper[key] = inner
                yield f"{key}.{where}", deeper
