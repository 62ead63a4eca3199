"""PNG images, written with zlib only (RFC 2083).

Shapes: H and W pixels, colours 1 or 3.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def png(image: Any, *, zoom: int = 1) -> bytes:
    """A PNG file of an image [H, W], [1, H, W] or [3, H, W] with values in 0…1, each pixel enlarged `zoom` times."""
    pixels = np.asarray(image, float)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    colours = 3 if len(pixels) == 3 else 1
    whole = np.rint(255 * np.nan_to_num(pixels[:colours]).clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
    whole = whole.repeat(zoom, 0).repeat(zoom, 1)
    height, width = whole.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if colours == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in whole)
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def side_by_side_images(images: Sequence[Any], *, gap: int = 1) -> Any:
    """Images of one size [C, H, W] in a row, separated by white."""
    arrays = [np.asarray(i, float).reshape(-1, *np.shape(i)[-2:]) for i in images]
    white = np.ones((*arrays[0].shape[:2], gap))
    parts = [p for array in arrays for p in (white, array)][1:]
    return np.concatenate(parts, 2)


def stack_images(images: Sequence[Any], *, gap: int = 1) -> Any:
    """Images of one width [C, H, W], stacked vertically."""
    arrays = [np.asarray(i, float) for i in images]
    white = np.ones((arrays[0].shape[0], gap, arrays[0].shape[2]))
    return np.concatenate([p for array in arrays for p in (white, array)][1:], 1)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
