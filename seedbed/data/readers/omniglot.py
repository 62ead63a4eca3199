"""Omniglot by alphabet: 1,623 characters of 50 alphabets by 20 people; 30 to train on, 20 never seen.

Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic program induction, Science
2015. Shapes: M images [M, 1, 28, 28], ink = 255.
"""

import re
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from seedbed.data.population import Population
from seedbed.data.readers import folder, images, targets
from seedbed.errors import InputError, closest_name
from seedbed.limits import BROKEN, from_json, read_unfolded

ZIPS = {"background": "images_background.zip", "evaluation": "images_evaluation.zip"}
BITS = "omniglot28.bits.xz"
INDEX = "omniglot28.json"
SIDE, DRAWERS, INK_BELOW = 28, 20, 180
MOST = 2**16  # bytes of one drawing
HOW = {"size": [SIDE, SIDE], "channels": 1, "ink_below": INK_BELOW}
MEMBER = re.compile(r"images_(?:background|evaluation)/([^/]+)/(character\d+)/[^/]+\.png")

Alphabets = list[tuple[str, int, str]]  # name, characters, part


def read(path: str | Path, *, alphabets: Collection[str] | None = None) -> Population:
    """All alphabets, from the packed bits (0.4 s) if they are there, else from the two original zips (30 s).

    Args:
        path: the folder that holds omniglot28.bits.xz and omniglot28.json, or images_background.zip and
            images_evaluation.zip.
        alphabets: only these; None: all.
    """
    path = Path(path)
    found, x = _from_bits(path) if (path / BITS).is_file() else _from_zips(path, alphabets)
    population = _population(found, x)
    if alphabets is None:
        return population
    for name in alphabets:
        if name not in population.names:
            raise InputError(f"Omniglot has no alphabet {name!r}: {closest_name(name, population.names)}")
    return population.only([i for i, name in enumerate(population.names) if name in set(alphabets)])


def _population(alphabets: Alphabets, x: images.Images) -> Population:
    names = [f"{name}/character{i + 1:02d}" for name, count, _ in alphabets for i in range(count)]
    y = torch.arange(len(names)).repeat_interleave(DRAWERS)
    target = targets.Target(y, tuple(names), {"kind": "classes", "classes": names}, ())
    tensor = torch.as_tensor(x)
    return Population.from_arrays(
        tensor,
        y,
        np.repeat([name for name, _, _ in alphabets], [count * DRAWERS for _, count, _ in alphabets]),
        classes=target.classes,
        episodic=True,
        unseen=tuple(name for name, _, part in alphabets if part == "evaluation"),
        source="omniglot",
        encoding=folder.encoding_of(tensor, HOW, target, True),
    )


def _from_bits(path: Path) -> tuple[Alphabets, images.Images]:
    """98 bytes an image, alphabets in the order of the index, characters sorted, drawers 1…20."""
    try:
        alphabets = [(str(n), int(c), str(p)) for n, c, p in from_json((path / INDEX).read_text())["alphabets"]]
        packed = np.frombuffer(read_unfolded(path / BITS), np.uint8)
        bits = np.unpackbits(packed.reshape(-1, SIDE * SIDE // 8), axis=1)
    except (*BROKEN, KeyError, TypeError) as error:
        raise InputError(f"{path / BITS} (with {INDEX}) cannot be read: {error}") from error
    expected = DRAWERS * sum(count for _, count, _ in alphabets)
    if len(bits) != expected:
        raise InputError(f"{path / BITS} holds {len(bits)} images, but {INDEX} says {expected}: fetch both again")
    return alphabets, (bits * np.uint8(255)).reshape(-1, 1, SIDE, SIDE)


def _from_zips(path: Path, only: Collection[str] | None) -> tuple[Alphabets, images.Images]:
    alphabets: Alphabets = []
    found: list[images.Images] = []
    for part, name in ZIPS.items():
        try:
            with zipfile.ZipFile(path / name) as archive:
                counts = _read_zip(archive, found, only)
        except InputError:
            raise
        except (*BROKEN, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise InputError(
                f"{path / name} cannot be read: {error}; fetch it with: seedbed data get omniglot"
            ) from error
        alphabets += [(alphabet, count, part) for alphabet, count in counts.items()]
    if not found:
        raise InputError(f"{path}: no alphabet {', '.join(only or ())!r} in {' or '.join(ZIPS.values())}")
    return alphabets, np.stack(found)


def _read_zip(archive: zipfile.ZipFile, found: list[images.Images], only: Collection[str] | None) -> dict[str, int]:
    """Adds the images in order; {alphabet: how many characters}."""
    characters: dict[str, dict[str, int]] = {}
    for member in sorted(archive.namelist()):
        match = MEMBER.fullmatch(member)
        if match is None or (only is not None and match[1] not in only):
            continue
        drawn = characters.setdefault(match[1], {})
        drawn[match[2]] = drawn.get(match[2], 0) + 1
        if archive.getinfo(member).file_size > MOST:
            raise InputError(f"{archive.filename}:{member} unfolds to more than {MOST} bytes: fetch the archive again")
        found.append(images.decode(archive.read(member), HOW, f"{archive.filename}:{member}"))
    for alphabet, drawn in characters.items():
        for character, count in drawn.items():
            if count != DRAWERS:
                raise InputError(f"{archive.filename}: {alphabet}/{character} has {count} images, not {DRAWERS}")
    return {alphabet: len(drawn) for alphabet, drawn in characters.items()}
