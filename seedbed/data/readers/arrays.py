"""An .npz file with arrays x, y and client. Shapes: M rows."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedbed.data.population import Population
from seedbed.data.readers import targets
from seedbed.data.readers.names import Alike, client_names
from seedbed.data.readers.targets import TaskKind, as_text
from seedbed.errors import InputError
from seedbed.limits import first_line_of, refuse_unfolded

INPUTS = {"float32": torch.float32, "float64": torch.float64, "uint8": torch.uint8, "int64": torch.int64}


def read(
    path: str | Path,
    *,
    task: TaskKind | None = None,
    scale_target: bool = False,
    episodic: bool = False,
    alike: Alike = "ask",
    pooled: bool = False,
) -> Population:
    """Arrays saved by `numpy.savez(path, x=..., y=..., client=...)`. Pickled objects are never loaded.

    Args:
        path: x [M, ...]: floats; uint8 (images) or other integers (tokens). y [M]: integers or texts are
            classes, floats are numbers (or classes, as a table's); y [M, ...] floats: several numbers. client
            [M].
        task: overrides what y looks like.
        scale_target: standardise a regression target over all rows.
        episodic: True when classes mean something only inside a client.
        alike: client names that differ only by case, width, spaces or leading zeros: ask, merge or keep them apart.
        pooled: one client holds all rows; `client` is not needed.
    Raises:
        InputError: unreadable, an array is missing or of another length, NaN.
    """
    path = Path(path)
    found = load_npz(path, ("x", "y") if pooled else ("x", "y", "client"))
    return of_arrays(found, path, task=task, scale_target=scale_target, episodic=episodic, alike=alike, pooled=pooled)


def of_arrays(
    found: Mapping[str, npt.NDArray[Any]],
    path: Path,
    *,
    task: TaskKind | None = None,
    scale_target: bool = False,
    episodic: bool = False,
    alike: Alike = "ask",
    pooled: bool = False,
) -> Population:
    """The population in arrays x, y and client: arguments and errors as of `read`."""
    y = found["y"]
    whole = y.dtype.kind in "iu"  # saved as such
    many = y.ndim > 1 and y[0].size > 1
    target = (
        targets.as_numbers(y, scale=scale_target)
        if many
        else targets.encode_target(as_vector(y), task, f"y of {path.name}", scale=scale_target, whole_are_classes=whole)
    )
    x = as_inputs(found["x"], path)
    owners = ["everyone"] * len(x) if pooled else as_vector(found["client"]).tolist()
    whose, notes = client_names([as_text(name) for name in owners], path.name, alike)
    return Population.from_arrays(
        x,
        target.y,
        whose,
        classes=target.classes,
        episodic=episodic,
        source=path.name,
        notes=(*notes, *target.notes),
        encoding={"format": "arrays", "input": describe_inputs(x), "target": target.encoding, "episodic": episodic},
    )


def load_npz(path: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """The named arrays of an .npz file, of equal length."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            _refuse_no_archive(archive, path)
            absent = [name for name in names if name not in archive.files]
            if absent:
                raise InputError(
                    f"{path} has no array {absent[0]!r}: it holds {', '.join(archive.files) or 'nothing'}; "
                    f"save it with numpy.savez(path, {', '.join(f'{name}=...' for name in names)})"
                    + (", or make clients up with partition=dirichlet" if absent == ["client"] else "")
                )
            _refuse_large(archive, names, path)
            found = {name: archive[name] for name in names}
    except InputError:
        raise
    except Exception as error:  # damaged files raise whatever zipfile and numpy meet
        raise InputError(f"{path} cannot be read as .npz: {first_line_of(error)}") from error
    odd = next((name for name, array in found.items() if not isinstance(array, np.ndarray)), None)
    if odd is not None:
        raise InputError(f"{path} holds no array under {odd!r}: save it with numpy.savez")
    lengths = {name: len(np.atleast_1d(array)) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"arrays of {path} differ in length: {lengths}; each row needs all of them")
    if not next(iter(lengths.values())):
        raise InputError(f"{path} has no rows")
    return found


def _refuse_no_archive(archive: Any, path: Path) -> None:
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{path} cannot be read as .npz: it is a single array; save it with numpy.savez")


def _refuse_large(archive: Any, names: Sequence[str], path: Path) -> None:
    """Arrays that say to be larger than their file can hold, or than the archive says, before memory is taken."""
    packed = path.stat().st_size
    for name in names:
        key = name if name in archive.zip.namelist() else f"{name}.npy"
        entry = archive.zip.getinfo(key)
        refuse_unfolded(f"{path}, array {name!r},", packed, entry.file_size)
        with archive.zip.open(key) as stream:
            shape, dtype = _declared(stream)
        if not dtype.hasobject and math.prod(shape) * dtype.itemsize > entry.file_size:  # numpy refuses objects itself
            raise InputError(f"{path} is damaged: array {name!r} of shape {shape} has {entry.file_size} bytes")


def _declared(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and type that an array's header says."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise ValueError(f"an array of version {version}")
    shape, _, dtype = read[version](stream)
    if any(n < 0 for n in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape, dtype


def as_vector(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[M] or [M, 1] -> [M]."""
    return values.reshape(len(values))


def as_inputs(x: npt.NDArray[Any], path: Path) -> Tensor:
    """float32, uint8 (images) or int64 (tokens)."""
    if x.dtype.kind not in "fiub":
        raise InputError(f"x of {path.name} holds {x.dtype}: it must be numbers")
    if x.dtype == np.uint8:
        return torch.as_tensor(x)
    wanted = np.int64 if x.dtype.kind in "iu" else np.float32
    return torch.as_tensor(np.ascontiguousarray(x, wanted))


def describe_inputs(x: Tensor) -> dict[str, Any]:
    """What inputs look like: their shape, and how they are stored (uint8: images of 0…255)."""
    return {"shape": list(x.shape[1:]), "dtype": str(x.dtype).removeprefix("torch.")}


def read_like(path: Path, encoding: dict[str, Any]) -> tuple[Tensor, targets.Target]:
    """New rows x, y of the population's shape and kind. Images of [H, W] are taken for [1, H, W]."""
    found = load_npz(path, ("x", "y"))
    x = of_kind(as_inputs(found["x"], path), encoding["input"], path)
    y = found["y"] if encoding["target"]["kind"] == "numbers" else as_vector(found["y"])
    return x, targets.encode_target_like(y, encoding["target"], f"y of {path.name}", episodic=encoding["episodic"])


def of_kind(x: Tensor, wanted: dict[str, Any], path: Path) -> Tensor:
    """Inputs of the wanted shape and kind: 0…1 and uint8 of 0…255 become each other."""
    shape = tuple(wanted["shape"])
    if (1, *x.shape[1:]) == shape:
        x = x[:, None]
    if tuple(x.shape[1:]) != shape:
        raise InputError(f"x of {path.name} has rows of shape {tuple(x.shape[1:])}, but the model takes {shape}")
    dtype = INPUTS.get(wanted["dtype"])
    if dtype is None:
        raise InputError(f"the model takes inputs of type {str(wanted['dtype'])[:40]!r}: none that is known")
    image = wanted["dtype"] == "uint8" or wanted.get("range") == [0, 1]
    if image and x.dtype != torch.uint8 and not (x.min() >= 0 and x.max() <= 1):
        raise InputError(
            f"x of {path.name} goes from {x.min():g} to {x.max():g}, but the model takes images of 0…1: "
            "scale them alike, or save them as uint8 of 0…255"
        )
    if image and x.dtype != dtype:
        return (x.float() * 255).round().to(dtype) if dtype == torch.uint8 else x.to(dtype) / 255
    if dtype == torch.int64 and x.dtype != dtype:
        raise InputError(f"x of {path.name} holds {x.dtype}, but the model takes whole numbers (tokens)")
    return x.to(dtype)
