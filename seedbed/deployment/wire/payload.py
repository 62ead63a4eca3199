"""Tensors as a safetensors payload with an agreed schema, which is checked before anything is loaded."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from seedbed.deployment.wire.frames import FrameRefused

SAFETENSORS_TYPES: Mapping[torch.dtype, tuple[str, int]] = {  # type names in safetensors, and bytes per number
    torch.float64: ("F64", 8),
    torch.float32: ("F32", 4),
    torch.float16: ("F16", 2),
    torch.bfloat16: ("BF16", 2),
    torch.int64: ("I64", 8),
    torch.int32: ("I32", 4),
    torch.int16: ("I16", 2),
    torch.int8: ("I8", 1),
    torch.uint8: ("U8", 1),
    torch.bool: ("BOOL", 1),
}


class TensorSchema(NamedTuple):
    """The agreed type and shape of a tensor."""

    type: str
    bytes: int
    shape: tuple[int, ...]


def tensor_schemas(tensors: Mapping[str, Tensor]) -> dict[str, TensorSchema]:
    """The schemas of tensors, by name."""
    return {n: TensorSchema(*_type(n, t), tuple(t.shape)) for n, t in tensors.items()}


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialize tensors; the same tensors always give the same bytes."""
    return save({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()})


def unpack_tensors(payload: bytes, agreed: Mapping[str, TensorSchema]) -> dict[str, Tensor]:
    """Deserialize a payload.

    Raises:
        FrameRefused: it contains anything other than the agreed tensors. Checked before memory is allocated for any.
    """
    entries, start = _header(payload, _longest_header(agreed))
    if entries.keys() != agreed.keys():
        raise FrameRefused(
            f"tensors differ from the schema: {_list_names(entries.keys() ^ agreed.keys())} missing or unexpected"
        )
    spans = sorted(_span(name, entries[name], form) for name, form in agreed.items())
    at = 0
    for begin, end in spans:
        if begin != at:
            raise FrameRefused(f"tensors overlap or leave a gap at byte {at}")
        at = end
    if start + at != len(payload):
        raise FrameRefused(f"tensors end at byte {start + at} of {len(payload)}")
    try:
        return load(payload)
    except SafetensorError as error:
        raise FrameRefused(f"not valid safetensors: {error}") from error


def payload_size(agreed: Mapping[str, TensorSchema]) -> int:
    """The largest size of a payload with these tensors, in bytes."""
    return 8 + _longest_header(agreed) + sum(form.bytes * math.prod(form.shape) for form in agreed.values())


def _longest_header(agreed: Mapping[str, TensorSchema]) -> int:
    """Largest header: a name, a type, a shape and two offsets each, and room for padding that writers may add."""
    return 64 + sum(128 + 6 * len(name) + 24 * len(form.shape) for name, form in agreed.items())


def _header(payload: bytes, most: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(payload[:8], "little")
    if len(payload) < 8 or length > min(most, len(payload) - 8):
        raise FrameRefused(f"a safetensors header of {length} bytes in {len(payload)}: at most {most} are accepted")
    try:
        header = json.loads(payload[8 : 8 + length], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise FrameRefused(f"the safetensors header is not valid JSON: {type(error).__name__}") from error
    if not isinstance(header, dict):
        raise FrameRefused("the safetensors header is not a table")
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table; duplicate names are refused, because readers differ in how they treat them."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise FrameRefused("the safetensors header has a name twice")
    return table


def _span(name: str, entry: Any, form: TensorSchema) -> tuple[int, int]:
    """The byte range of a tensor that matches its schema."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FrameRefused(f"{name} has entries other than safetensors defines")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if entry["dtype"] != form.type or not _whole(shape) or tuple(shape) != form.shape:
        raise FrameRefused(f"{name} is not as agreed: {form.type} {list(form.shape)}")
    if not _whole(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != form.bytes * math.prod(form.shape):
        raise FrameRefused(f"{name} does not have the bytes of its shape")
    return offsets[0], offsets[1]


def _whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**62 for n in numbers)


def _type(name: str, tensor: Tensor) -> tuple[str, int]:
    if tensor.dtype not in SAFETENSORS_TYPES:
        raise FrameRefused(
            f"{name} has type {tensor.dtype}, which cannot be sent: use one of {', '.join(map(str, SAFETENSORS_TYPES))}"
        )
    return SAFETENSORS_TYPES[tensor.dtype]


def _list_names(names: set[str]) -> str:
    """The first names, shortened: names from outside may have any length and content."""
    shown = [repr(name[:40]) for name in sorted(names)[:3]]
    return ", ".join(shown) + (" ..." if len(names) > 3 else "")
