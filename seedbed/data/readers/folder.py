"""Folders of images: client/class/*.png. Shapes: M images, [C, H, W] each."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed.data.population import Population
from seedbed.data.readers import images, targets
from seedbed.data.readers.names import Alike, client_names, same_text
from seedbed.errors import InputError

MOST_CLASSES = 0.8  # share of the numbered classes that clients have on average, if they mean the same


@dataclass(frozen=True)
class ImageFolder:
    """Images on disk, before they are opened."""

    file: Path
    client: str
    label: str


def read(
    path: str | Path,
    *,
    size: int | None = None,
    episodic: bool | None = None,
    drop_short: bool = False,
    alike: Alike = "ask",
) -> Population:
    """Images in folders: one per client, in it one per class.

    Args:
        path: the folder of the clients.
        size: side in pixels to which all images are resized (Lanczos); None: they must be of one size.
        episodic: False when class names mean the same for all clients; True when they do not, as with alphabets: a
            class is then named 'client/class'. None: by the names (see `_mean_the_same`); a note says what was taken.
        drop_short: leave out clients without images instead of refusing them.
        alike: client names that differ only by case, width, spaces or leading zeros: ask, merge or keep them apart.
    Raises:
        InputError: a client without images, an image that cannot be read, images of several sizes.
    """
    path = Path(path)
    found, empty = _walk(path, drop_short)
    how, seen = images.inspect_images([f.file for f in found], size)
    x = torch.as_tensor(images.load_images([f.file for f in found], how))
    names, told = client_names([f.client for f in found], path.name, alike)
    found = [replace(f, client=name) for f, name in zip(found, names, strict=True)]
    if episodic is None:
        episodic, guess = _are_episodic(found)
        told += guess
    labels = [f"{f.client}/{f.label}" if episodic else f.label for f in found]
    target = targets.as_classes(labels)
    return Population.from_arrays(
        x,
        target.y,
        [f.client for f in found],
        classes=target.classes,
        episodic=episodic,
        source=path.name or str(path),
        notes=(
            *(f"client {name!r} left out: it has no images" for name in empty),
            *told,
            *seen,
            *targets.alike_note(target.classes, path.name),
        ),
        encoding=encoding_of(x, how, target, episodic),
    )


def encoding_of(x: Tensor, how: dict[str, Any], target: targets.Target, episodic: bool) -> dict[str, Any]:
    """What a population of images says about reading more of them."""
    shape = {"shape": list(x.shape[1:]), "dtype": str(x.dtype).removeprefix("torch.")}
    return {
        "format": "images",
        "input": shape,
        "images": how,
        "target": target.encoding,
        "episodic": episodic,
    }


def read_like(path: Path, encoding: dict[str, Any], client: str | None) -> tuple[Tensor, targets.Target]:
    """New images class/*.png, or client/class/*.png with the client named; of the same size and channels."""
    mine = _one_client(path, client)
    found = [ImageFolder(file, "", same_text(label.name)) for label in _folders(mine) for file in _files(label)]
    if not found:
        raise InputError(f"{mine} has no images in folders class/*.png")
    x = torch.as_tensor(images.load_images([f.file for f in found], encoding["images"]))
    labels = np.array([f.label for f in found])
    return x, targets.encode_target_like(labels, encoding["target"], f"{mine}", episodic=encoding["episodic"])


def holds_images(path: Path) -> bool:
    """Does the folder look like client/class/*.png (or like one that is torn)?"""
    return any(images.is_image_file(file) for file in path.glob("*/*/*")) or any(
        images.is_image_file(file) for file in path.glob("*/*")
    )


def _walk(path: Path, drop_empty: bool) -> tuple[list[ImageFolder], list[str]]:
    """(images found, clients without any)."""
    found: list[ImageFolder] = []
    empty: list[str] = []
    for client in _folders(path):
        mine = [
            ImageFolder(file, client.name, same_text(label.name))
            for label in _folders(client)
            for file in _files(label)
        ]
        if not mine and _files(client):
            raise InputError(
                f"{client} holds images of its own: the layout is client/class/*.png, one folder per class in it"
            )
        if not mine and not drop_empty:
            raise InputError(
                f"client {client.name!r} has no images in {client}: give it some, remove the folder, "
                f"or leave such "
                "clients out (drop_short=true)"
            )
        found += mine
        empty += [] if mine else [client.name]
    if not found:
        raise InputError(f"{path} has no images: the layout is client/class/*.png")
    return found, empty


def _are_episodic(found: list[ImageFolder]) -> tuple[bool, tuple[str, ...]]:
    """Whether class names mean something only inside a client, and a note where that is a guess."""
    own: dict[str, set[str]] = {}
    for image in found:
        own.setdefault(image.client, set()).add(image.label)
    if len({frozenset(labels) for labels in own.values()}) == 1:
        return False, ()
    same = _mean_the_same(list(own.values()))
    what = "mean the same for all" if same else "mean something only inside a client (N-way episodes)"
    return not same, (
        f"clients' class names differ: taken to {what}; episodic={str(same).lower()} says otherwise (on the command "
        f"line: --set reader.episodic={str(same).lower()})",
    )


def _mean_the_same(own: list[set[str]]) -> bool:
    """Whether classes are shared, by the class names of each client.

    Words are, where at least half of them occur at two clients: some clients lack some classes. Numbers are, where
    clients have most of them. Words that are counted (character01) are not: so are the letters of alphabets named.
    """
    every = set().union(*own)
    shared = sum(sum(name in labels for labels in own) > 1 for name in every)
    if any(not re.fullmatch(r"\D*\d+", name) for name in every):
        return 2 * shared >= len(every)
    numbers = all(name.isdigit() for name in every)
    return numbers and sum(map(len, own)) >= MOST_CLASSES * len(every) * len(own)


def _one_client(path: Path, client: str | None) -> Path:
    if client is not None:
        mine = next((folder for folder in _folders(path) if same_text(folder.name) == same_text(client)), None)
        if mine is None:
            names = ", ".join(folder.name for folder in _folders(path))
            raise InputError(f"{path} has no folder of client {client!r}: it holds {names or 'none'}")
        return mine
    if any(_files(folder) for folder in _folders(path)):
        return path
    inner = _folders(path)
    if len(inner) > 1:
        raise InputError(
            f"{path} holds several clients ({', '.join(f.name for f in inner[:5])}, …): name one with client=NAME"
        )
    return inner[0] if inner else path


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if images.is_image_file(p))
