"""MNIST: 70,000 handwritten digits without writers, so that clients must be made up. Shapes: M images."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from seedbed.data.population import Population
from seedbed.data.readers import folder, targets
from seedbed.errors import InputError
from seedbed.limits import BROKEN, read_unfolded

MNIST_SPLITS = ("train", "t10k")


def read(path: str | Path) -> Population:
    """All images, the training part first, as one client: `read("mnist", partition=...)` deals them out.

    Source: LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998.
    """
    images = np.concatenate([_idx(Path(path) / f"{part}-images-idx3-ubyte.gz", 3) for part in MNIST_SPLITS])
    labels = np.concatenate([_idx(Path(path) / f"{part}-labels-idx1-ubyte.gz", 1) for part in MNIST_SPLITS])
    if len(images) != len(labels):
        raise InputError(f"{path} holds {len(images)} images, but {len(labels)} labels: fetch them again")
    x = torch.as_tensor(images)[:, None]
    target = targets.as_classes(labels)
    how = {"size": [28, 28], "channels": 1, "ink_below": None}
    return Population.from_arrays(
        x,
        target.y,
        np.full(len(x), "everyone"),
        classes=target.classes,
        source="mnist",
        encoding=folder.encoding_of(x, how, target, False),
    )


def _idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The idx format: 0, 0, 8 (bytes), the number of dimensions, their sizes as big-endian int32, values."""
    try:
        data = read_unfolded(path)
        if data[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError("it is not an idx file of bytes")
        shape = np.frombuffer(data, ">i4", dimensions, 4).astype(int)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(tuple(shape.tolist()))
    except BROKEN as error:
        raise InputError(f"{path} cannot be read: {error}; fetch it with: seedbed data get mnist") from error
