"""What clients keep, on disk: a mapping like any other, checkpoints that stay whole, and damage that is said."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seedbed import tree
from seedbed.engines import ClientStateStore
from seedbed.errors import InputError
from seedbed.randomness import generator


def state(number: float) -> dict[str, Any]:
    """What a client keeps: several types, and sizes that are no multiple of a word."""
    return {
        "a": (torch.full((3,), number), torch.full((2, 2), number, dtype=torch.float64)),
        "b": [torch.tensor([True, number > 0, False]), torch.tensor(int(number)), torch.zeros(0, 4)],
    }


def same(a: Any, b: Any) -> bool:
    return tree.structure_of(a) == tree.structure_of(b) and all(
        x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True)
    )


def test_it_is_a_mapping(tmp_path: Path) -> None:
    """Against a dict, through 300 random writes and removals of two structures."""
    rng, plain, stored = generator(0, "kept"), dict[int, Any](), ClientStateStore(tmp_path)
    for step in range(300):
        client = int(rng.integers(20))
        if client in plain and rng.random() < 0.3:
            del plain[client], stored[client]
        else:
            plain[client] = stored[client] = state(step) if rng.random() < 0.8 else {"c": torch.tensor([float(step)])}
        if step % 7 == 0:
            stored.checkpoint()
    assert sorted(plain) == list(stored)
    assert len(plain) == len(stored)
    assert all(same(plain[c], stored[c]) for c in plain)
    absent = next(c for c in range(20) if c not in plain)
    assert absent not in stored
    with pytest.raises(KeyError):
        stored[absent]
    stored.clear()
    assert len(stored) == 0


def test_the_last_two_checkpoints_stay_whole(tmp_path: Path) -> None:
    """After any number of rounds both give back what was kept then, though every client has kept more since; and slots
    of older ones are used again, so that the file does not grow for ever."""
    stored, before, sizes = ClientStateStore(tmp_path), [], []
    for step in range(12):
        for client in range(step % 3, 30, 2):
            stored[client] = state(100 * step + client)
        before.append((stored.checkpoint(), {c: stored[c] for c in stored}))
        for client in range(30):  # torn: never in a checkpoint
            stored[client] = state(-1.0)
        sizes.append(os.path.getsize(tmp_path / "0.bin"))
        for index, want in before[-2:]:
            again = ClientStateStore(tmp_path)
            again.restore(index)
            assert list(again) == list(want)
            assert all(same(again[c], want[c]) for c in want)
    assert len(set(sizes[4:])) == 1


def test_a_checkpoint_is_an_index_and_not_the_states(tmp_path: Path) -> None:
    stored = ClientStateStore(tmp_path)
    for client in range(100):
        stored[client] = {"w": torch.zeros(10_000)}
    index = stored.checkpoint()
    assert sum(x.numel() * x.element_size() for x in index.values()) == 100 * 8 * 4


def test_room_is_taken_when_a_client_first_keeps_something(tmp_path: Path) -> None:
    stored = ClientStateStore(tmp_path)
    stored[999_999] = {"w": torch.ones(1000)}
    assert os.path.getsize(tmp_path / "0.bin") == 4000
    assert same(stored[999_999], {"w": torch.ones(1000)})


def test_what_is_read_is_nobodys_but_the_readers(tmp_path: Path) -> None:
    stored = ClientStateStore(tmp_path)
    stored[0] = {"w": torch.ones(3)}
    stored[0]["w"].zero_()
    assert same(stored[0], {"w": torch.ones(3)})


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "kinds"])
def test_damage_is_said(damage: str, tmp_path: Path) -> None:
    stored = ClientStateStore(tmp_path)
    for client in range(4):
        stored[client] = state(client + 1.0)
    index, data = stored.checkpoint(), bytearray((tmp_path / "0.bin").read_bytes())
    if damage == "flip":
        data[-30] ^= 1
    if damage in ("flip", "cut"):
        (tmp_path / "0.bin").write_bytes(data if damage == "flip" else data[:-50])
    else:
        (tmp_path / {"gone": "0.bin", "kinds": "kinds.json"}[damage]).unlink()

    def read() -> None:
        again = ClientStateStore(tmp_path)
        again.restore(index)
        _ = again[3]

    with pytest.raises(InputError, match=r"put (it|the file) back"):
        read()


def test_nothing_kept_is_a_checkpoint_too(tmp_path: Path) -> None:
    index = ClientStateStore(tmp_path).checkpoint()
    again = ClientStateStore(tmp_path)
    again.restore(index)
    assert len(again) == 0
    assert np.asarray(index["clients"]).shape == (0,)
