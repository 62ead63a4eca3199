"""What clients keep, on disk: memory does not grow with what they keep, and a checkpoint writes an index, not states.

A file for each structure of what is kept, of equal slots; a client has a slot from when it first keeps something. What
a checkpoint knows of is not overwritten: a client's next state goes to another slot, and the old one is free once
SAFE newer checkpoints are there. So the index that a checkpoint holds is always that of whole states.

Shapes: N clients, T of them that keep something.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedbed import tree
from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.limits import from_json
from seedbed.serialization import explain_write_errors, meta_tree_of, tree_schema, write_atomically
from seedbed.tree import Tree

SAFE = 2  # checkpoints that can be gone back to
SLOT_ALIGNMENT = 8  # bytes: where leaves start in a slot
KINDS_FILE = "kinds.json"
MOST_CLIENTS, MOST_SLOTS = 2**28, 2**28


class StoreEntry(NamedTuple):
    """Where a client's state is."""

    kind: int
    slot: int
    sum: int  # crc32 of its bytes


class ClientStateStore(MutableMapping[ClientId, Tree]):
    """{client: what it keeps}, in the files of a folder.

    Args:
        folder: made if it is not there. What it holds counts only after `restore`.
    Raises:
        InputError: (where something is read) a state is not the one that was written; (written) the disk is full.
    """

    def __init__(self, folder: Path):
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._kinds: list[SlotFile] = []
        self._entries = np.zeros((0, 3), np.int64)  # [N, 3] of `Entry`, the slot counted from 1: 0 is none
        self._count = 0
        self._fresh: set[ClientId] = set()  # whose slot no checkpoint knows of
        self._retired: list[tuple[int, StoreEntry]] = []  # by how many checkpoints there were; no client's any more
        self._checkpoints = 0
        self._said = b""  # of the kinds

    def __getitem__(self, client: ClientId) -> Tree:
        entry = self._entry(client)
        if entry is None:
            raise KeyError(client)
        data = self._kinds[entry.kind].read(entry.slot)
        if zlib.crc32(data) != entry.sum:
            raise InputError(
                f"what client {client} keeps, in {self._kinds[entry.kind].path}, is not what was written: put the file "
                "back, or start again"
            )
        return self._kinds[entry.kind].tree_of(data)

    def __setitem__(self, client: ClientId, kept: Tree) -> None:
        outlined = tree_schema(kept)
        kind = next((i for i, slots in enumerate(self._kinds) if slots.outline == outlined), len(self._kinds))
        if kind == len(self._kinds):
            self._kinds.append(SlotFile(self.folder / f"{kind}.bin", outlined, meta_tree_of(outlined)))
        slots, old = self._kinds[kind], self._entry(client)
        data = slots.bytes_of(kept)
        if old is not None and old.kind == kind and client in self._fresh:
            slot = old.slot
        else:
            slot = slots.free.pop() if slots.free else slots.grow()
            self._retire(client, old)
        slots.write(slot, data)
        if client >= len(self._entries):
            more = np.zeros((max(client + 1 - len(self._entries), len(self._entries)), 3), np.int64)
            self._entries = np.concatenate([self._entries, more])
        self._entries[client] = (kind, slot + 1, zlib.crc32(data))
        self._count += old is None
        self._fresh.add(client)

    def __delitem__(self, client: ClientId) -> None:
        old = self._entry(client)
        if old is None:
            raise KeyError(client)
        self._retire(client, old)
        self._entries[client] = 0
        self._count -= 1

    def __iter__(self) -> Iterator[ClientId]:
        return iter(np.flatnonzero(self._entries[:, 1]).tolist())

    def __len__(self) -> int:
        return self._count

    def __contains__(self, client: object) -> bool:
        return isinstance(client, int) and self._entry(client) is not None

    def checkpoint(self) -> dict[str, Tensor]:
        """Everything flushed to disk, and where it is: what `restore` takes. Slots that only older ones know are
        free."""
        with explain_write_errors(self.folder):
            for slots in self._kinds:
                os.fsync(slots.file)
        kinds = json.dumps([slots.outline for slots in self._kinds]).encode()
        if kinds != self._said:
            write_atomically(self.folder / KINDS_FILE, kinds)
            self._said = kinds
        self._checkpoints += 1
        self._fresh.clear()
        safe = self._checkpoints - SAFE
        for _, entry in (old for old in self._retired if old[0] <= safe):
            self._kinds[entry.kind].free.append(entry.slot)
        self._retired = [old for old in self._retired if old[0] > safe]
        clients = np.flatnonzero(self._entries[:, 1])
        return {"clients": torch.from_numpy(clients), "entries": torch.from_numpy(self._entries[clients])}

    def restore(self, index: Mapping[str, Tensor]) -> None:
        """What was kept at that checkpoint, and nothing since.

        Raises:
            InputError: the files are not there.
        """
        clients, entries = index["clients"].numpy(), index["entries"].numpy()
        path = self.folder / KINDS_FILE
        try:
            kinds = list(from_json(path.read_text())) if len(clients) else []
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}, of what clients keep, cannot be read ({error}): put it back") from error
        likes = [meta_tree_of(outlined, f"{path}, of what clients keep,") for outlined in kinds]
        _refuse_odd_index(clients, entries, len(kinds), path)
        self._kinds = [
            SlotFile(self.folder / f"{i}.bin", *kind) for i, kind in enumerate(zip(kinds, likes, strict=True))
        ]
        self._entries = np.zeros((int(clients.max(initial=-1)) + 1, 3), np.int64)
        self._entries[clients] = entries
        self._count, self._fresh, self._retired, self._checkpoints = len(clients), set(), [], 0
        for kind, slots in enumerate(self._kinds):
            taken = entries[entries[:, 0] == kind, 1] - 1
            slots.count = int(taken.max(initial=-1)) + 1
            slots.refuse_short(slots.count)
            slots.free = np.setdiff1d(np.arange(slots.count), taken).tolist()

    def _entry(self, client: ClientId) -> StoreEntry | None:
        if not 0 <= client < len(self._entries) or not self._entries[client, 1]:
            return None
        kind, slot, check = self._entries[client].tolist()
        return StoreEntry(kind, slot - 1, check)

    def _retire(self, client: ClientId, old: StoreEntry | None) -> None:
        """A state that is no client's any more; free at once where no checkpoint knows of it."""
        if old is not None and client in self._fresh:
            self._kinds[old.kind].free.append(old.slot)
        elif old is not None:
            self._retired.append((self._checkpoints, old))
        self._fresh.discard(client)


def _refuse_odd_index(clients: npt.NDArray[Any], entries: npt.NDArray[Any], kinds: int, path: Path) -> None:
    """An index that no checkpoint of these kinds has."""
    whole = clients.dtype == entries.dtype == np.int64 and clients.ndim == 1 and entries.shape == (len(clients), 3)
    if not whole or (len(clients) and not (
        clients.min() >= 0 and clients.max() < MOST_CLIENTS and len(np.unique(clients)) == len(clients)
        and entries[:, 0].min() >= 0 and entries[:, 0].max() < kinds
        and entries[:, 1].min() > 0 and entries[:, 1].max() <= MOST_SLOTS
    )):  # fmt: skip
        raise InputError(
            f"the checkpoint's index does not fit {path}, of what clients keep: put both back as they were"
        )


class SlotFile:
    """A file of equal slots, one for each state of a structure. It takes room on the disk as slots are written.

    Args:
        outline: of the states.
        like: a state of this outline, with nothing in it.
    """

    def __init__(self, path: Path, outline: Any, like: Tree):
        self.path, self.outline, self.like = path, outline, like
        sizes = [x.numel() * x.element_size() for x in tree.leaves(self.like)]
        self.places = np.concatenate(
            [[0], np.cumsum([-(-size // SLOT_ALIGNMENT) * SLOT_ALIGNMENT for size in sizes])]
        ).tolist()
        self.free: list[int] = []
        self.count = 0
        with explain_write_errors(path):
            self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)

    @property
    def size(self) -> int:
        """Bytes of a slot."""
        return int(self.places[-1])

    def grow(self) -> int:
        self.count += 1
        return self.count - 1

    def write(self, slot: int, data: bytes) -> None:
        with explain_write_errors(self.path):
            os.pwrite(self.file, data, slot * self.size)

    def read(self, slot: int) -> bytearray:
        """A slot's bytes; fewer where the file is cut short."""
        left = os.fstat(self.file).st_size - slot * self.size
        return bytearray(os.pread(self.file, min(self.size, left), slot * self.size)) if left > 0 else bytearray()

    def refuse_short(self, count: int) -> None:
        """
        Raises:
            InputError: the file does not hold so many slots.
        """
        if os.fstat(self.file).st_size < count * self.size:
            raise InputError(f"{self.path}, of what clients keep, is cut short: put the file back, or start again")

    def bytes_of(self, kept: Tree) -> bytes:
        data = bytearray(self.size)
        for place, leaf in zip(self.places, tree.leaves(kept), strict=False):
            raw = (
                leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                if leaf.numel()
                else b""
            )
            data[place : place + len(raw)] = raw
        return bytes(data)

    def tree_of(self, data: bytearray) -> Tree:
        def leaf(place: int, like: Tensor) -> Tensor:
            if not like.numel():
                return torch.empty(like.shape, dtype=like.dtype)
            return torch.frombuffer(data, dtype=like.dtype, count=like.numel(), offset=place).reshape(like.shape)

        pairs = zip(self.places, tree.leaves(self.like), strict=False)
        return tree.with_leaves(self.like, [leaf(place, like) for place, like in pairs])
