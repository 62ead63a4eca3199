"""A run on several ranks: all compute the same stages, and rank 0 alone writes the run's directory.

The others work in a copy of it, which goes when they end: so whatever a stage reads is the same everywhere.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from seedbed.engines.process_group import current_group, is_torchrun
from seedbed.errors import InputError
from seedbed.experiments.config import GateSettings, Settings
from seedbed.experiments.run_directory import LOCK, RunDirectory
from seedbed.experiments.setting_names import with_new_names
from seedbed.limits import from_json, inside, refuse_links
from seedbed.locks import hold_lock
from seedbed.serialization import explain_write_errors, pack_tree, unpack_tree
from seedbed.tree import Tree

A = TypeVar("A")
GOES_ON = "the run goes on there; wait until it has ended, or stop it first"
SAME_VERSIONS = ("seedbed", "torch", "numpy")  # versions that must be the same everywhere


def agree_over_ranks(make: Callable[[], A]) -> A:
    """What each rank makes, if all can; else all end, and the first of those that cannot says why.

    Raises:
        InputError: this rank is that one.
        SystemExit: another is.
    """
    made, error = None, None
    try:
        made = make()
    except InputError as reason:
        error = reason
    ranks = current_group()
    failed = [rank for rank, said in enumerate(ranks.gather(b"" if error is None else b"cannot")) if said]
    if error is not None and failed[0] == ranks.rank:
        raise error
    if failed:
        raise SystemExit(2)
    return made  # type: ignore[return-value]


def require_same_manifest(manifest: Mapping[str, Any]) -> None:
    """Ranks that would not compute the same run.

    Raises:
        InputError: which one, and what differs.
    """
    settings = {key: value for key, value in manifest["settings"].items() if key not in ("data", "data_dir")}
    mine = {
        "versions": {name: manifest["versions"][name] for name in SAME_VERSIONS},
        "settings": settings,
        "data": manifest["data"]["fingerprint"],
    }
    first, *others = (from_json(said) for said in current_group().gather(json.dumps(mine).encode()))

    def check() -> None:
        for rank, other in enumerate(others, 1):
            if other != first and current_group().rank == 0:
                what, theirs, ours = _unlike(other, first)
                raise InputError(
                    f"rank {rank} has other {what} than rank 0 ({theirs} instead of {ours}): start all ranks by the "
                    "same command, on copies of the same data"
                )

    agree_over_ranks(check)


@contextmanager
def open_on_ranks(path: Path, manifest: Mapping[str, Any] | None = None) -> Iterator[RunDirectory]:
    """The run in rank 0's directory, which no other process gets meanwhile; elsewhere in a copy that goes afterwards.

    Args:
        manifest: of a new run, whose directory rank 0 makes; under torchrun the same command goes on with the run that
            the directory holds. None: of the run that is there.
    Raises:
        InputError: there is none, the directory holds something else, or another process works in it.
    """
    ranks = current_group()
    with ExitStack() as stack:
        agree_over_ranks(lambda: stack.enter_context(_held(path, manifest)) if ranks.rank == 0 else None)
        if ranks.size == 1:
            yield RunDirectory(path)
            return
        files = ranks.gather(pack_tree(_files(path)) if ranks.rank == 0 else b"")[0]
        if ranks.rank == 0:
            yield RunDirectory(path)
            return
        copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seedbed-")))
        (copy / "checkpoints").mkdir()
        copy_files(unpack_tree(files, "what rank 0 sent of its run directory"), copy)
        yield RunDirectory(copy)


def copy_files(files: Tree, folder: Path) -> None:
    """Write what another rank sent, {name: bytes}, into a folder.

    Raises:
        InputError: it is something else, or a name leads out of the folder. Nothing was written then.
    """
    if not isinstance(files, dict) or not all(isinstance(d, Tensor) and d.dtype == torch.uint8 for d in files.values()):
        raise InputError("rank 0 sent no files of a run directory: start all ranks by the same version of Seedbed")
    places = {inside(folder, name): data for name, data in files.items()}
    for place, data in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data.numpy().tobytes())


@contextmanager
def _held(path: Path, manifest: Mapping[str, Any] | None) -> Iterator[None]:
    """Lock the directory before anything in it is read to go on from, and make it if it is a new run's."""
    there = (path / "manifest.json").is_file()
    if manifest is None and RunDirectory.open(path).is_done():
        yield  # nothing will be written, so that it may lie where nothing can be
        return
    if manifest is not None and not (path / LOCK).exists() and not (is_torchrun() and there):
        RunDirectory.refuse_used(path)
        with explain_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    with hold_lock(path / LOCK, "process", way=GOES_ON):
        refuse_links(path)
        if manifest is None or (is_torchrun() and _is_of(path, manifest)):
            RunDirectory.open(path)
        else:
            RunDirectory.create(path, manifest)
        yield


def needs_each_message(settings: Settings) -> bool:
    """Whether somebody around the engine looks at every message, so that a sum would not do."""
    return (
        settings.schedule.name not in (None, "synchronous")
        or settings.gate != GateSettings()
        or settings.attack.name is not None
        or settings.secure.form != "none"
        or settings.privacy.epsilon is not None
    )


def _unlike(mine: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """The first thing in which two tables differ, and both values.

    >>> _unlike({"settings": {"seed": 1}}, {"settings": {"seed": 0}})
    ('settings.seed', 1, 0)
    """
    name = next(name for name in {**mine, **other} if mine.get(name) != other.get(name))
    a, b = mine.get(name), other.get(name)
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return name, a, b
    inner, a, b = _unlike(a, b)
    return f"{name}.{inner}", a, b


def _is_of(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a directory holds this very run."""
    if not (path / "manifest.json").is_file():
        return False
    there = RunDirectory(path).manifest
    same = (with_new_names(there["settings"]), there["data"]["fingerprint"])
    return same == (with_new_names(manifest["settings"]), manifest["data"]["fingerprint"])


def _files(path: Path) -> dict[str, torch.Tensor]:
    """What a run's directory holds, by name."""
    held = {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    return {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in held.items() if data}
