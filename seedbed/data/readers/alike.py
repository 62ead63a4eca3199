"""New rows for a model that is already trained: read in the same encoding as its population."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from seedbed.data.population import Population
from seedbed.data.readers import arrays, folder, leaf, paths, table
from seedbed.data.readers.targets import Target
from seedbed.errors import InputError

TAKES = {
    "table": "a CSV or Parquet file with its columns",
    "arrays": "an .npz with x and y",
    "leaf": "a LEAF JSON file or an .npz with x and y",
    "images": "a folder class/*.png or an .npz with x and y",
}


def read_like(path: str | Path, encoding: dict[str, Any], *, client: str | None = None) -> Population:
    """One client's labelled examples, as the population that `encoding` comes from would hold them.

    The answer is a population of one client, so that everything that takes clients (samplers, evaluation)
    takes it. Where labels mean something only inside a client (episodic), those found become 0…N−1 in sorted
    order and `classes` names them; else they are the population's classes.

    Args:
        path: a table without client column (for a table), an .npz with x and y, a folder class/*.png or
            client/class/*.png (for images), LEAF JSON (for LEAF).
        encoding: `Population.encoding` of what the model was trained on, as a manifest keeps it.
        client: whose examples, where the file holds several clients.
    Raises:
        InputError: another kind of file, a missing column, a class or character that the model does not know,
            another shape.
    """
    path = Path(path)
    kind, given = find_formats(path, encoding)
    if given == "table" and kind == "table":
        x, target = table.read_like(path, encoding, client)
    elif given == "arrays" and kind != "table":
        x, target = arrays.read_like(path, encoding)
    elif given in ("folder", "nothing") and kind == "images" and path.is_dir():
        images, target = folder.read_like(path, encoding, client)
        x = arrays.of_kind(images, encoding["input"], path)
    elif given == "leaf" and kind == "leaf":
        x, target = leaf.read_like(path, encoding, client)
    else:
        raise other_format(path, kind)
    return one_client(x, target, encoding, client or path.name.split(".")[0], str(path))


def find_formats(path: Path, encoding: Mapping[str, Any]) -> tuple[str, str]:
    """The format that a model was trained on, and that of a file.

    Raises:
        InputError: there is no such file, or the model was not trained on files.
    """
    kind = encoding.get("format", "none")
    if kind not in TAKES:
        raise InputError("the model was trained on arrays made in Python, which say nothing of files: pass tensors")
    if not path.exists():
        raise InputError(f"no file {path}: give {TAKES[kind]}")
    return kind, paths.kind_of(path)


def other_format(path: Path, kind: str) -> InputError:
    """The error for a file of another format than the model was trained on."""
    return InputError(f"{path} does not fit what the model was trained on: give {TAKES[kind]}")


def one_client(x: Tensor, target: Target, encoding: dict[str, Any], client: str, source: str) -> Population:
    """The population of one client's examples."""
    return Population.from_arrays(
        x,
        target.y,
        np.full(len(x), client),
        classes=target.classes,
        episodic=bool(encoding["episodic"]),
        source=source,
        notes=target.notes,
        encoding=encoding,
    )
