"""LEAF JSON: {users, num_samples, user_data: {user: {x, y}}}. Shapes: M rows, D features, L characters.

Caldas et al., LEAF: A Benchmark for Federated Settings, 2018, arXiv:1812.01097.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from seedbed.data.population import Population
from seedbed.data.readers import arrays, targets
from seedbed.data.readers.targets import TaskKind
from seedbed.errors import InputError, closest_name
from seedbed.limits import BROKEN, from_json, read_unfolded

LEAF_SUFFIXES = (".json", ".json.xz", ".json.gz")
LAYOUT = "the layout is users, num_samples, user_data: {user: {x, y}}"
Users = dict[str, tuple[list[Any], list[Any]]]  # x and y of each user


def read(
    path: str | Path,
    *,
    task: TaskKind | None = None,
    scale_target: bool = False,
    episodic: bool = False,
    drop_short: bool = False,
    like: dict[str, Any] | None = None,
) -> Population:
    """A LEAF file (.json, .json.xz, .json.gz), or a folder of them; of train/ and test/ the parts are joined.

    Args:
        path: x of a user: feature vectors of one length (float32 [M, D]), or strings of one length (int64
            tokens [M, L], in the order of their code points); y: classes or numbers, as a table's.
        task, scale_target, episodic: as for a table.
        drop_short: leave out users without samples instead of refusing them.
        like: the encoding of another LEAF set, to be used instead of one fitted to this.
    Raises:
        InputError: bad JSON, a key that is missing, sizes that disagree, a user without samples.
    """
    path = Path(path)
    users, notes = load_leaf(path)
    empty = [name for name, (_, y) in users.items() if not y]
    if empty and not drop_short:
        raise InputError(
            f"client {empty[0]!r} of {path.name} has no samples: leave such clients out with drop_short=true"
        )
    notes += [f"client {name!r} left out: it has no samples" for name in empty]
    full = {name: xy for name, xy in users.items() if xy[1]}
    if not full:
        raise InputError(f"{path} has no samples")
    raw = [row for x, _ in full.values() for row in x]
    if like is None:
        symbols = sorted(set("".join(raw))) if _texts(raw) else []
        target = targets.encode_target(_labels(full, path), task, f"y of {path.name}", scale=scale_target)
    else:
        symbols = list(like["symbols"])
        target = targets.encode_target_like(_labels(full, path), like["target"], f"y of {path.name}", episodic=episodic)
    x = inputs(raw, symbols, path)
    encoding = {"format": "leaf", "input": arrays.describe_inputs(x), "symbols": "".join(symbols)}
    return Population.from_arrays(
        x,
        target.y,
        [name for name, (_, y) in full.items() for _ in y],
        classes=target.classes,
        episodic=episodic,
        source=path.name,
        notes=(*notes, *target.notes),
        encoding={**encoding, "target": target.encoding, "episodic": episodic},
    )


def read_like(path: Path, encoding: dict[str, Any], client: str | None) -> tuple[torch.Tensor, targets.Target]:
    """One user's samples, in the same tokens or features."""
    users, _ = load_leaf(path)
    if client is None and len(users) > 1:
        raise InputError(f"{path} holds {len(users)} clients ({next(iter(users))!r}, …): name one with client=NAME")
    if client is not None and client not in users:
        raise InputError(f"{path} has no client {client!r}: {closest_name(client, users)}")
    mine = {client or "": users[client]} if client is not None else users
    raw = [row for x, _ in mine.values() for row in x]
    x = inputs(raw, list(encoding["symbols"]), path)
    if list(x.shape[1:]) != encoding["input"]["shape"]:
        raise InputError(
            f"x of {path.name} has rows of shape {tuple(x.shape[1:])}, but the model takes "
            f"{tuple(encoding['input']['shape'])}"
        )
    return x, targets.encode_target_like(
        _labels(mine, path), encoding["target"], f"y of {path.name}", episodic=encoding["episodic"]
    )


def files_of(path: Path) -> list[Path]:
    """The LEAF files at a path: itself, or those in a folder (train/ before test/)."""
    if path.is_file():
        return [path]
    inside = [folder for folder in (path / "train", path / "test") if folder.is_dir()] or [path]
    return [file for folder in inside for file in sorted(folder.iterdir()) if file.name.endswith(LEAF_SUFFIXES)]


def load_leaf(path: Path) -> tuple[Users, list[str]]:
    """({user: (x, y)} of all files joined, notes)."""
    users: Users = {}
    files = files_of(path)
    if not files:
        raise InputError(f"{path} has no LEAF files ({', '.join(LEAF_SUFFIXES)}), nor has train/ or test/ in it")
    for file in files:
        for name, (x, y) in _load_one(file).items():
            seen = users.setdefault(name, ([], []))
            seen[0].extend(x)
            seen[1].extend(y)
    return users, ([f"{len(files)} files joined"] if len(files) > 1 else [])


def inputs(rows: list[Any], symbols: list[str], path: Path) -> torch.Tensor:
    """Feature vectors -> float32 [M, D]; strings -> int64 [M, L], symbols by their place."""
    lengths = {len(row) for row in rows} if all(isinstance(row, str | list) for row in rows) else {0}
    if len(lengths) > 1:
        raise InputError(f"x of {path.name} has rows of lengths {sorted(lengths)[:3]}: they must be of one length")
    if not _texts(rows):
        try:
            return torch.as_tensor(np.asarray(rows, np.float32))
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(
                f"x of {path.name} is neither vectors of numbers nor strings, such as {rows[0]!r:.60}"
            ) from error
    place = {symbol: i for i, symbol in enumerate(symbols)}
    unknown = sorted(set("".join(rows)) - set(symbols))
    if unknown:
        raise InputError(f"x of {path.name} has the character {unknown[0]!r}, which the model does not know")
    return torch.as_tensor([[place[c] for c in row] for row in rows], dtype=torch.int64)


def _texts(rows: list[Any]) -> bool:
    return all(isinstance(row, str) for row in rows)


def _labels(users: Users, path: Path) -> Any:
    try:
        labels = np.array([label for _, y in users.values() for label in y])
    except (ValueError, TypeError, OverflowError):  # labels of several lengths
        labels = np.zeros((0, 2))
    if labels.ndim != 1 or labels.dtype.kind not in "fiubU":
        raise InputError(f"y of {path.name} is not one number or text per sample, such as {labels[:1].tolist()!r:.60}")
    return labels


def _load_one(file: Path) -> Users:
    try:
        data = from_json(read_unfolded(file).decode("utf-8"))
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{file} cannot be read as JSON: {error or 'it ends too early'}") from error
    absent = [key for key in ("users", "num_samples", "user_data") if not isinstance(data, dict) or key not in data]
    if absent:
        raise InputError(f"{file} is not LEAF: it has no {absent[0]!r}; {LAYOUT}")
    kinds = {"users": list, "num_samples": list, "user_data": dict}
    odd = [key for key, kind in kinds.items() if not isinstance(data[key], kind)]
    if odd or not all(isinstance(name, str) for name in data["users"]):
        raise InputError(f"{file} is not LEAF: {(odd or ['users'])[0]!r} has another form; {LAYOUT}")
    return {name: _user(data, i, name, file) for i, name in enumerate(data["users"])}


def _user(data: dict[str, Any], i: int, name: str, file: Path) -> tuple[list[Any], list[Any]]:
    mine = data["user_data"].get(name, {})
    if not isinstance(mine, dict) or not isinstance(mine.get("x"), list) or not isinstance(mine.get("y"), list):
        raise InputError(f"client {name!r} of {file} has no x and y in user_data")
    said = data["num_samples"][i] if i < len(data["num_samples"]) else None
    if not len(mine["x"]) == len(mine["y"]) == said:
        raise InputError(
            f"client {name!r} of {file} has {len(mine['x'])} x and {len(mine['y'])} y, but "
            f"num_samples says {said}: "
            "is the file complete?"
        )
    return mine["x"], mine["y"]
