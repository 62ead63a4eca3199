"""Image files -> arrays of one size and number of channels, and new ones alike. Shapes: C channels, H × W."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seedbed.data.readers.extras import require
from seedbed.errors import InputError
from seedbed.limits import PIXELS, first_line_of, refuse_pixels, refuse_unfolded

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
GREY = ("1", "L", "LA")
DEEP = ("I", "F")
ORIENTATION = 0x0112  # of EXIF: 1 is upright
TURNED, SIDEWAYS = range(2, 9), range(5, 9)

MAX_FOLDER_BYTES = 2**31  # bytes that all images of a folder may unfold to, however small they are on disk
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # of SUFFIXES; others would start programs: EPS

Images = npt.NDArray[np.uint8]  # [M, C, H, W]


def is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def inspect_images(files: Sequence[Path], size: int | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How these files are to be read, and notes.

    That is {"size": [H, W], "channels": 1 or 3, "ink_below": None, "ground": 0 or 255}. `ground` is the grey below what
    is transparent: black or white, whichever differs more from what is drawn. Where it is there, photographs are also
    turned as their camera says.

    Args:
        size: the side to which all are resized; None: as they are, which must be the same for all.
    """
    found = [_header(path) for path in files]
    if size is None:
        first = found[0].size
        odd = next((i for i, other in enumerate(found) if other.size != first), None)
        if odd is not None:
            raise InputError(
                f"{files[odd]} is {found[odd].size[1]}×{found[odd].size[0]} pixels, but {files[0]} is "
                f"{first[1]}×{first[0]}: "
                "images must be of one size; say size=28 to resize all of them"
            )
        shape = list(first)
        unfolded = len(files) * math.prod(shape) * 3
        refuse_unfolded("these images", sum(path.stat().st_size for path in files), unfolded, MAX_FOLDER_BYTES)
    else:
        shape = [size, size]
    see_through = [path for path, header in zip(files, found, strict=True) if header.transparent]
    ground = _ground_below(see_through)
    channels = 1 if all(header.grey for header in found) else 3
    how = {"size": shape, "channels": channels, "ink_below": None, "ground": ground}
    return how, _notes_on(found, "white" if ground else "black")


def _notes_on(found: Sequence["_Header"], colour: str) -> tuple[str, ...]:
    """What reading these files changes: transparent grounds, rotated photographs, films."""
    clear, turned, films = (sum(flags) for flags in zip(*(header.flags for header in found), strict=True))
    notes = [f"{clear} images have transparent pixels: laid on {colour}"] if clear else []
    notes += [f"{turned} images turned as their camera says (EXIF)"] if turned else []
    notes += [f"{films} images have several frames: the first is read"] if films else []
    return tuple(notes)


def _ground_below(files: Sequence[Path]) -> int:
    """0 or 255: what differs more from the colours that can be seen."""
    light = seen = 0.0
    for path in files:
        with _opened(path, str(path)) as image:
            pixels = np.asarray(image.convert("RGBA"), np.float64) / 255
        light += float((pixels[..., :3].mean(-1) * pixels[..., 3]).sum())
        seen += float(pixels[..., 3].sum())
    return 0 if light > seen / 2 else 255


def load_images(files: Sequence[Path], how: dict[str, Any]) -> Images:
    """[M, C, H, W] of these files, read as `inspect_images` says."""
    return np.stack([decode(path.read_bytes(), how, str(path)) for path in files])


def decode(data: bytes, how: dict[str, Any], name: str) -> Images:
    """One image file's bytes -> [C, H, W].

    Where `ink_below` is a number, pixels darker than it are ink (255), the others 0, after resizing by
    Lanczos.
    """
    image_module = require("PIL.Image", "reading images")
    height, width = how["size"]
    with _opened(io.BytesIO(data), name) as opened:
        mode = "L" if how["channels"] == 1 else "RGB"
        image = opened.convert(mode) if "ground" not in how else _laid_down(opened, how["ground"]).convert(mode)
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


def _laid_down(image: Any, ground: int) -> Any:
    """An image turned upright, its transparent parts on a ground of one grey."""
    upright = require("PIL.ImageOps", "reading images").exif_transpose(image)
    if not _is_transparent(upright):
        return upright
    drawn = upright.convert("RGBA")
    paper = require("PIL.Image", "reading images").new("RGBA", drawn.size, (ground, ground, ground, 255))
    paper.alpha_composite(drawn)
    return paper.convert("RGB")


def _is_transparent(image: Any) -> bool:
    return image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info


class _Header(NamedTuple):
    size: tuple[int, int]  # H, W
    grey: bool
    transparent: bool
    turned: bool
    film: bool

    @property
    def flags(self) -> tuple[bool, bool, bool]:
        return self.transparent, self.turned, self.film


def _header(path: Path) -> _Header:
    with _opened(path, str(path)) as image:
        mode, (width, height) = image.mode, image.size
        turn = image.getexif().get(ORIENTATION, 1)
        transparent, film = _is_transparent(image), getattr(image, "n_frames", 1) > 1
        grey = mode in GREY or (mode == "P" and _has_grey_palette(image))
        transparent = transparent and _has_clear_pixels(image)
    if mode.startswith(DEEP):
        raise InputError(f"{path} has more than 8 bits a pixel ({mode}): convert it to 8 bits first")
    size = (width, height) if turn in SIDEWAYS else (height, width)
    return _Header(size, grey, transparent, turn in TURNED, film)


def _has_clear_pixels(image: Any) -> bool:
    return bool(image.convert("RGBA").getextrema()[3][0] < 255)


def _has_grey_palette(image: Any) -> bool:
    colours = np.asarray(image.convert("RGB"))
    return bool((colours == colours[..., :1]).all())
