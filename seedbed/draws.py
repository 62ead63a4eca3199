"""Randomness is data: every draw is a pure function of (seed, purpose, round, client), never of a global generator.

So a result does not depend on the engine, on the number of workers, on the order of clients, or on a restart.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A generator of its own for one purpose, round and client.

    >>> bool(generator(0, "cohort", 3).integers(100) == generator(0, "cohort", 3).integers(100))
    True
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *key])


@contextmanager
def initialising(seed: int) -> Iterator[None]:
    """Inside, modules initialise from the seed; the caller's generator is left as it was.

    PyTorch's layers draw their first weights from the global generator and take no other: hence the fork.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "initialise").integers(2**62)))
        yield
