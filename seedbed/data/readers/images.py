"""Image files -> arrays of one size and number of channels, and new ones alike. Shapes: C channels, H × W."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seedbed.data.readers.extras import require
from seedbed.errors import InputError
from seedbed.limits import PIXELS, first_line_of, refuse_pixels, refuse_unfolded

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
GREY = ("1", "L", "LA")
DEEP = ("I", "F")

MAX_FOLDER_BYTES = 2**31  # bytes that all images of a folder may unfold to, however small they are on disk
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # of SUFFIXES; others would start programs: EPS

Images = npt.NDArray[np.uint8]  # [M, C, H, W]


def is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def inspect_images(files: Sequence[Path], size: int | None) -> dict[str, Any]:
    """How these files are to be read: {"size": [H, W], "channels": 1 or 3, "ink_below": None}.

    Args:
        size: the side to which all are resized; None: as they are, which must be the same for all.
    """
    found = [_header(path) for path in files]
    if size is None:
        first = found[0][0]
        odd = next((i for i, (other, _) in enumerate(found) if other != first), None)
        if odd is not None:
            raise InputError(
                f"{files[odd]} is {found[odd][0][1]}×{found[odd][0][0]} pixels, but {files[0]} is "
                f"{first[1]}×{first[0]}: "
                "images must be of one size; say size=28 to resize all of them"
            )
        shape = list(first)
        unfolded = len(files) * math.prod(shape) * 3
        refuse_unfolded("these images", sum(path.stat().st_size for path in files), unfolded, MAX_FOLDER_BYTES)
    else:
        shape = [size, size]
    return {"size": shape, "channels": 1 if all(grey for _, grey in found) else 3, "ink_below": None}


def load_images(files: Sequence[Path], how: dict[str, Any]) -> Images:
    """[M, C, H, W] of these files, read as `look` says."""
    return np.stack([decode(path.read_bytes(), how, str(path)) for path in files])


def decode(data: bytes, how: dict[str, Any], name: str) -> Images:
    """One image file's bytes -> [C, H, W].

    Where `ink_below` is a number, pixels darker than it are ink (255), the others 0, after resizing by
    Lanczos.
    """
    image_module = require("PIL.Image", "reading images")
    height, width = how["size"]
    with _opened(io.BytesIO(data), name) as opened:
        image = opened.convert("L" if how["channels"] == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), image_module.Resampling.LANCZOS)
    pixels = np.asarray(image, np.uint8).reshape(height, width, how["channels"]).transpose(2, 0, 1)
    return pixels if how["ink_below"] is None else np.where(pixels < how["ink_below"], 255, 0).astype(np.uint8)


@contextmanager
def _opened(source: Path | io.BytesIO, name: str) -> Iterator[Any]:
    """An image whose header was read, and its pixels not yet.

    Raises:
        InputError: it has too many pixels, or (inside too) it cannot be read.
    """
    image_module = require("PIL.Image", "reading images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of damaged metadata and of large images
        try:
            with image_module.open(source, formats=IMAGE_FORMATS) as image:
                refuse_pixels(name, *image.size)
                yield image
        except InputError:
            raise
        except image_module.DecompressionBombError as error:  # Pillow refuses the largest by itself
            raise InputError(f"{name} has more than {PIXELS:,} pixels: make it smaller, or leave it out") from error
        except Exception as error:  # damaged files raise whatever Pillow's parsers meet
            raise InputError(f"{name} cannot be read as an image: {first_line_of(error)}") from error


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    """((H, W), is it grey)."""
    with _opened(path, str(path)) as image:
        mode, (width, height) = image.mode, image.size
    if mode.startswith(DEEP):
        raise InputError(f"{path} has more than 8 bits a pixel ({mode}): convert it to 8 bits first")
    return (height, width), mode in GREY
