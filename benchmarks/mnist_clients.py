"""MNIST dealt to clients as the papers do it, for several seeds at once.

Shapes: M = 70,000 images, S seeds, N clients of each.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seedbed import randomness
from seedbed.data.partition import Partition, partitioned
from seedbed.data.population import Population
from seedbed.data.readers import read

Deal = Callable[[np.ndarray, int], Partition]  # (labels [M], seed) -> each client's rows


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        type=Path,
        default=os.environ.get("SEEDBED_DATA"),
        help="the folder that holds mnist/; without it, the environment's SEEDBED_DATA, else ~/.cache/seedbed",
    )


def images(root: Path | None, *, standardised: bool = False) -> Population:
    """All 70,000 images as rows of 784 numbers: 0…1, or each pixel standardised.

    Args:
        standardised: (x − mean)/(deviation + .001) over all images, pixels 0…255: as FedProx's and pFedMe's generators.
    """
    mnist = read("mnist", root=root)
    x = mnist.x.reshape(len(mnist.x), -1).to(torch.float32)
    x = (x - x.mean(0)) / (x.std(0, correction=0) + 0.001) if standardised else x / 255
    return replace(mnist, x=x)


def dealt(mnist: Population, deal: Deal, seeds: Sequence[int], *, test: float) -> tuple[Population, Population]:
    """The clients of all seeds, training rows and test rows: client n of seed number s is number s·N + n.

    Args:
        test: the part of each client's rows that is for testing, drawn by the seed.
    """
    parts = [split(rows, test, seed, n) for seed in seeds for n, rows in enumerate(deal(mnist.labels, seed))]
    return tuple(partitioned(mnist.x, mnist.y, [p[i] for p in parts], classes=mnist.classes) for i in (0, 1))


def split(rows: np.ndarray, test: float, seed: int, client: int) -> tuple[np.ndarray, np.ndarray]:
    """(1 − test) of the rows, and the rest."""
    order = randomness.generator(seed, "test rows", client).permutation(rows)
    return tuple(np.split(order, [int((1 - test) * len(rows))]))


def power_law(labels: np.ndarray, seed: int) -> Partition:
    """1,000 clients of two digits each: 5 images of both, and more by a power law (lognormal, σ = 2).

    As in FedProx's generator (data/mnist/generate_niid.py), from which LEAF's and FedML's MNIST comes.
    """
    rng = randomness.generator(seed, "power law")
    pools = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    shares = rng.lognormal(0, 2, (10, 100, 2))
    left = np.array([len(pool) - 1000 for pool in pools])[:, None, None]
    more = (left * shares / shares.sum((1, 2), keepdims=True)).astype(int)
    taken, clients = np.zeros(10, int), []
    for client in range(1000):
        mine = []
        for j in range(2):
            digit = (client + j) % 10
            count = 5 + more[digit, client // 10, j]
            mine.append(pools[digit][taken[digit] : taken[digit] + count])
            taken[digit] += count
        clients.append(np.concatenate(mine))
    return clients


def two_labels(labels: np.ndarray, seed: int) -> Partition:
    """20 clients of two digits each, k and k + 1: every digit's images are broken into four parts, one a client."""
    rng = randomness.generator(seed, "two labels")
    owned: list[list[np.ndarray]] = [[] for _ in range(20)]
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        ends = np.cumsum(_broken(len(rows), rng.integers))
        before = (digit - 1) % 10
        for client, part in zip((digit, before, 10 + digit, 10 + before), np.split(rows, ends[:3]), strict=True):
            owned[client].append(part)
    return [np.concatenate(mine) for mine in owned]


def two_labels_shared(labels: np.ndarray, seed: int) -> Partition:
    """pFedMe's own clients: two digits each, of which a client holds the *first* so many images, as do others.

    So clients share images, and what one tests on another may have trained on. The first version of the authors'
    generator (data/Mnist/generate_niid_20users.py of May 2020) never moves on within a digit, and with its seed, 1,
    gives the sizes that the paper names: 1,165 to 3,834 training images. The split does not depend on our seed.
    """
    random = np.random.RandomState(1).randint
    pools = [np.flatnonzero(labels == digit) for digit in range(10)]
    sizes = np.array(
        [_broken(len(pool), random) for pool in pools]
    ).T.ravel()  # as dealt: digit after digit, four times
    return [
        np.concatenate([pools[(client + j) % 10][: sizes[2 * client + j]] for j in range(2)]) for client in range(20)
    ]


def _broken(count: int, draw: Callable[[int, int], int]) -> list[int]:
    """A number broken into four: three times between a fifth and a half of what is left, then the rest."""
    parts = []
    for _ in range(3):
        parts.append(int(draw(count // 5, count // 2)))
        count -= parts[-1]
    return [*parts, count]


def unlike_halves(labels: np.ndarray, seed: int, *, clients: int = 50, a: int = 196) -> Partition:
    """Half of the clients hold `a` images of each of the digits 0 to 4, the others a/2 of one of these and 2a of one of
    5 to 9.

    Fallah, Mokhtari and Ozdaglar, NeurIPS 2020, section 5.
    """
    rng = randomness.generator(seed, "unlike halves")
    pools = [list(rng.permutation(np.flatnonzero(labels == digit))) for digit in range(10)]

    def take(digit: int, count: int) -> list[int]:
        mine, pools[digit] = pools[digit][:count], pools[digit][count:]
        return mine

    first = [np.array([row for digit in range(5) for row in take(digit, a)]) for _ in range(clients // 2)]
    others = [np.array(take(i % 5, a // 2) + take(5 + i // 5 % 5, 2 * a)) for i in range(clients - clients // 2)]
    return [*first, *others]


def accuracy(right: Tensor, sizes: Tensor) -> Tensor:
    """Each run's accuracy over all its clients' test examples: shares [S, N] weighted by sizes [S, N] -> [S]."""
    return (right * sizes).sum(1) / sizes.sum(1)
