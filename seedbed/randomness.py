"""Randomness as data: every draw is a pure function of (seed, purpose, round, client), never of a global generator.

So a result does not depend on the engine, the number of workers, the order of clients, or a restart.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

Words = npt.NDArray[np.uint32]


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A separate generator for one purpose, round and client.

    >>> bool(generator(0, "cohort", 3).integers(100) == generator(0, "cohort", 3).integers(100))
    True
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *key])


def generators(seed: int, purpose: str, *key: int, each: Sequence[int]) -> Iterator[np.random.Generator]:
    """`generator(seed, purpose, *key, one)` for each `one`: the same numbers, several times faster for many clients.

    >>> many = generators(0, "train", 3, each=range(5))
    >>> all(g.random() == generator(0, "train", 3, c).random() for c, g in enumerate(many))
    True
    """
    last = np.asarray(each, np.int64)
    if min(seed, *key, 0) < 0 or not (len(last) and last.min() >= 0 and last.max() < 2**32):
        yield from (generator(seed, purpose, *key, one) for one in each)
        return
    before = [word for number in (seed, zlib.crc32(purpose.encode()), *key) for word in _words(number)]
    columns = [np.full(len(last), word, np.uint32) for word in before]
    for state in _states([*columns, last.astype(np.uint32)]):
        yield np.random.Generator(np.random.PCG64(cast(Any, _Seeded(state))))


def step_keys(seed: int, round: int, clients: Sequence[int], steps: int) -> npt.NDArray[np.int64]:
    """A random key for each client and step, [C, K], for draws inside a model in training, such as dropout.

    >>> bool((step_keys(0, 3, [4, 5], 2)[1] == step_keys(0, 3, [5], 9)[0, :2]).all())
    True
    """
    with np.errstate(over="ignore"):
        word = np.uint64(zlib.crc32(b"steps"))
        for number in (seed % 2**64, round % 2**64):
            word = _scramble(word ^ np.uint64(number))
        own = _scramble(word ^ np.asarray(clients, np.int64).astype(np.uint64))[:, None]
        keys: npt.NDArray[np.int64] = _scramble(own ^ np.arange(steps, dtype=np.uint64)).astype(np.int64)
        return keys


def _scramble(z: Any) -> Any:
    """One step of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), modulo 2⁶⁴."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class _Seeded(np.random.bit_generator.ISeedSequence):
    """A seed sequence with a precomputed state."""

    def __init__(self, state: npt.NDArray[np.uint64]):
        self._state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[np.uint64]:
        return self._state


# NumPy's SeedSequence (after M. E. O'Neill's seed_seq), vectorised over keys: [N] of each word → states [N, 4].
# NumPy guarantees that it will not change (NEP 19), and a test compares the two.
POOL, STATE = 4, 4  # 32-bit words of the pool, 64-bit words of PCG64's state
INIT_A, MULT_A, INIT_B, MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
MIX_L, MIX_R, SHIFT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715), np.uint32(16)


def _states(entropy: Sequence[Words]) -> npt.NDArray[np.uint64]:
    constants = _multiples(INIT_A, MULT_A)

    def hash_word(x: Words) -> Words:
        x = (x ^ next(constants)) * next(constants)
        return x ^ (x >> SHIFT)

    def mix(x: Words, y: Words) -> Words:
        word: Words = MIX_L * x - MIX_R * hash_word(y)
        return word ^ (word >> SHIFT)

    empty = np.zeros_like(entropy[0])
    pool = [hash_word(entropy[i] if i < len(entropy) else empty) for i in range(POOL)]
    for i in range(POOL):
        for j in range(POOL):
            if i != j:
                pool[j] = mix(pool[j], pool[i])
    for word in entropy[POOL:]:
        pool = [mix(x, word) for x in pool]
    constants = _multiples(INIT_B, MULT_B)
    words = np.stack([hash_word(pool[i % POOL]) for i in range(2 * STATE)], 1)
    return np.ascontiguousarray(words.astype("<u4")).view("<u8").astype(np.uint64)


def _multiples(first: int, factor: int) -> Iterator[np.uint32]:
    """first, then each multiple by `factor` twice: a hash XORs with one value and multiplies by the next."""
    value = first
    while True:
        yield np.uint32(value)
        value = value * factor & 0xFFFFFFFF
        yield np.uint32(value)


def _words(number: int) -> list[int]:
    """A number as 32-bit words, lowest first."""
    words = [number & 0xFFFFFFFF]
    while number := number >> 32:
        words.append(number & 0xFFFFFFFF)
    return words


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Within this context, modules initialise from the seed; the global generator is restored afterwards.

    PyTorch's layers draw their initial weights only from the global generator, hence the fork.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "initialise").integers(2**62)))
        yield
