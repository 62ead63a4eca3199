"""LEAF JSON: {users, num_samples, user_data: {user: {x, y}}}. Shapes: M rows, D features, L characters.

Caldas et al., LEAF: A Benchmark for Federated Settings, 2018, arXiv:1812.01097.
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from seedbed.data.population import Population
from seedbed.data.readers import arrays, targets
from seedbed.data.readers.names import Alike, client_names
from seedbed.data.readers.targets import TaskKind
from seedbed.errors import InputError, closest_name
from seedbed.limits import BROKEN, from_json, read_unfolded

LEAF_SUFFIXES = (".json", ".json.xz", ".json.gz")
SHOWN = 5  # names in a note
LAYOUT = "the layout is users, num_samples, user_data: {user: {x, y}}"


class User(NamedTuple):
    """A user's samples, of the training part before those of the test part."""

    x: list[Any]
    y: list[Any]
    tested: list[bool]  # which samples the set holds out for testing


Users = dict[str, User]


def read(
    path: str | Path,
    *,
    task: TaskKind | None = None,
    scale_target: bool = False,
    episodic: bool = False,
    drop_short: bool = False,
    alike: Alike = "ask",
    like: dict[str, Any] | None = None,
) -> Population:
    """A LEAF file (.json, .json.xz, .json.gz), or a folder of them, or of train/ and test/.

    The set's own split is kept: samples in test/ of users in train/ are held out, users in test/ only are never seen.

    Args:
        path: x of a user: feature vectors of one length (float32 [M, D]), or strings of one length (int64
            tokens [M, L], in the order of their code points); y: whole numbers and texts are classes, others numbers.
        task, scale_target, episodic: as for a table.
        drop_short: leave out users without samples instead of refusing them.
        alike: user names that differ only by case, width, spaces or leading zeros: ask, merge or keep them apart.
        like: the encoding of another LEAF set, to be used instead of one fitted to this.
    Raises:
        InputError: bad JSON, a key that is missing, sizes that disagree, a user without samples.
    """
    path = Path(path)
    users, notes = load_leaf(path, alike)
    empty = [name for name, user in users.items() if not user.y]
    if empty and not drop_short:
        raise InputError(
            f"client {empty[0]!r} of {path.name} has no samples: leave such clients out with drop_short=true"
        )
    notes += [f"client {name!r} left out: it has no samples" for name in empty]
    full = {name: user for name, user in users.items() if user.y}
    if not full:
        raise InputError(f"{path} has no samples")
    raw = [row for user in full.values() for row in user.x]
    if like is None:
        symbols = sorted(set("".join(raw))) if _texts(raw) else []
        labels = _labels(full, path)
        whole = labels.dtype.kind in "iu"  # the format's convention: LEAF's own sets have such classes
        what = f"y of {path.name}"
        target = targets.encode_target(labels, task, what, scale=scale_target, whole_are_classes=whole)
    else:
        symbols = list(like["symbols"])
        target = targets.encode_target_like(_labels(full, path), like["target"], f"y of {path.name}", episodic=episodic)
    x = inputs(raw, symbols, path)
    encoding = {"format": "leaf", "input": arrays.describe_inputs(x), "symbols": "".join(symbols)}
    tested = np.array([flag for user in full.values() for flag in user.tested])
    unseen = tuple(name for name, user in full.items() if all(user.tested)) if not tested.all() else ()
    return Population.from_arrays(
        x,
        target.y,
        [name for name, user in full.items() for _ in user.y],
        classes=target.classes,
        episodic=episodic,
        unseen=unseen,
        tested=tested if tested.any() and not tested.all() else None,
        source=path.name,
        notes=(*notes, *target.notes),
        encoding={**encoding, "target": target.encoding, "episodic": episodic},
    )


def read_like(path: Path, encoding: dict[str, Any], client: str | None) -> tuple[torch.Tensor, targets.Target]:
    """One user's samples, in the same tokens or features."""
    users, _ = load_leaf(path, "keep")
    if client is None and len(users) > 1:
        raise InputError(f"{path} holds {len(users)} clients ({next(iter(users))!r}, …): name one with client=NAME")
    if client is not None and client not in users:
        raise InputError(f"{path} has no client {client!r}: {closest_name(client, users)}")
    mine = {client or "": users[client]} if client is not None else users
    raw = [row for user in mine.values() for row in user.x]
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


def load_leaf(path: Path, alike: Alike = "ask") -> tuple[Users, list[str]]:
    """({user: samples} of all files joined, notes)."""
    users: Users = {}
    files = files_of(path)
    if not files:
        raise InputError(f"{path} has no LEAF files ({', '.join(LEAF_SUFFIXES)}), nor has train/ or test/ in it")
    notes = [f"{len(files)} files joined"] if len(files) > 1 else []
    has_parts = (path / "train").is_dir() and (path / "test").is_dir()
    for file in files:
        found, told = _load_one(file)
        notes += told
        for name, (x, y) in found.items():
            seen = users.setdefault(name, User([], [], []))
            seen.x.extend(x)
            seen.y.extend(y)
            seen.tested.extend([has_parts and file.parent.name == "test"] * len(y))
    users, told = _renamed(users, path, alike)
    return users, [*notes, *told, *_split_notes(users)]


def _renamed(users: Users, path: Path, alike: Alike) -> tuple[Users, list[str]]:
    """Users by one spelling of their names."""
    names, notes = client_names(list(users), path.name, alike)
    found: Users = {}
    for name, user in zip(names, users.values(), strict=True):
        seen = found.setdefault(name, User([], [], []))
        for whole, part in zip(seen, user, strict=True):
            whole.extend(part)
    return found, list(notes)


def _split_notes(users: Users) -> list[str]:
    """What the set's own split says."""
    tested = sum(map(sum, (user.tested for user in users.values())))
    apart = sum(bool(user.tested) and all(user.tested) for user in users.values())
    if not tested or apart == len(users):
        return []
    held = sum(sum(user.tested) for user in users.values() if not all(user.tested))
    found = [f"test/ holds out {held} samples of users in train/: they are not trained on"] if held else []
    return found + ([f"{apart} users are in test/ only: set apart as never seen"] if apart else [])


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
        labels = np.array([label for user in users.values() for label in user.y])
    except (ValueError, TypeError, OverflowError):  # labels of several lengths
        labels = np.zeros((0, 2))
    if labels.ndim != 1 or labels.dtype.kind not in "fiubU":
        raise InputError(f"y of {path.name} is not one number or text per sample, such as {labels[:1].tolist()!r:.60}")
    return labels


def _load_one(file: Path) -> tuple[dict[str, tuple[list[Any], list[Any]]], list[str]]:
    """({user: (x, y)}, notes) of a file."""
    try:
        data = from_json(read_unfolded(file).decode("utf-8-sig"), unique=True)
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
    twice = next((name for name, count in Counter(data["users"]).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{file} lists the user {twice!r} twice: remove one")
    listed = set(data["users"])
    unlisted = [name for name in data["user_data"] if name not in listed]
    shown = ", ".join(map(repr, unlisted[:SHOWN])) + (", …" if len(unlisted) > SHOWN else "")
    told = (
        [f"{len(unlisted)} users in user_data left out, since `users` does not list them: {shown}"] if unlisted else []
    )
    return {name: _user(data, i, name, file) for i, name in enumerate(data["users"])}, told


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
