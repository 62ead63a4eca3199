"""Activities of 23 people from a phone or a watch. Shapes: M windows of 6 channels × 128 samples."""

import re
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from seedbed.data.population import Population
from seedbed.data.readers import targets
from seedbed.errors import InputError
from seedbed.limits import BROKEN, open_bounded

WEARABLES_FILE = "sp_sw_har_DATA.tar.xz"
LENGTH, STRIDE, PURE = 128, 64, 0.8


def read(path: str | Path, *, device: Literal["sp", "sw"] = "sp") -> Population:
    """Windows [6, 128] of acceleration and rotation, and the activity of at least 80 % of each.

    Args:
        path: the folder of sp_sw_har_DATA.tar.xz.
        device: sp (phone) or sw (watch).

    Source: Matey-Sanz, Casteleyn, Granell, Data in Brief 2023, 109809, CC BY 4.0.
    """
    windows: list[npt.NDArray[np.float64]] = []
    labels: list[str] = []
    people: list[str] = []
    for person, values, activity in _recordings(Path(path) / WEARABLES_FILE, device):
        for start in range(0, len(values) - LENGTH + 1, STRIDE):
            found, counts = np.unique(activity[start : start + LENGTH], return_counts=True)
            if counts.max() >= PURE * LENGTH:
                windows.append(values[start : start + LENGTH].T)
                labels.append(str(found[counts.argmax()]))
                people.append(person)
    stacked = np.stack(windows)
    scaled = (stacked - stacked.mean((0, 2), keepdims=True)) / stacked.std((0, 2), keepdims=True)
    target = targets.as_classes(labels)
    return Population.from_arrays(
        torch.as_tensor(scaled, dtype=torch.float32),
        target.y,
        people,
        classes=target.classes,
        source="sp_sw_har",
        notes=("channels standardised over all people; in a real federation each client does its own",),
        encoding={
            "format": "arrays",
            "input": {"shape": [6, LENGTH], "dtype": "float32"},
            "target": target.encoding,
            "episodic": False,
        },
    )


def _recordings(path: Path, device: str) -> list[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.str_]]]:
    """(person, [T, 6], activity [T]) of each recording, in the order of names."""
    name = re.compile(rf".*/(s\d+)_\d+_{re.escape(device)}\.csv")
    try:
        # once through: going back would unpack again
        with open_bounded(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            wanted = ((m.name, archive.extractfile(m)) for m in archive if name.fullmatch(m.name))
            texts = {member: file.read().decode() for member, file in wanted if file is not None}
    except InputError:
        raise
    except (*BROKEN, tarfile.TarError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not texts:
        raise InputError(f"{path} has no recordings of device={device!r}: choose sp (phone) or sw (watch)")
    out = []
    for member in sorted(texts):
        rows = texts[member].splitlines()[1:]
        values = np.loadtxt(rows, delimiter=",", usecols=range(6), ndmin=2)
        activity = np.array([row.rpartition(",")[2] for row in rows])
        match = name.fullmatch(member)
        assert match is not None  # only such members were read
        out.append((match[1], values, activity))
    return out
