"""What every engine of one process owns: where its clients' tasks come from, and what the clients keep."""

from collections.abc import Mapping, MutableMapping, Sequence
from itertools import count
from typing import cast

import torch

from seedbed import tree
from seedbed.data.sampling import TaskSource
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, ClientId
from seedbed.randomness import step_keys
from seedbed.tree import Tree


class BaseEngine:
    """The clients of an engine, with `ask` and `evaluate` still to be said.

    Args:
        kept: where to put what clients keep; None: in memory. `OnDisk(folder)` for many.
    """

    def __init__(self, source: TaskSource, *, kept: MutableMapping[ClientId, Tree] | None = None):
        self.source = source
        self._kept: MutableMapping[ClientId, Tree] = {} if kept is None else kept

    @property
    def population(self) -> Sequence[ClientId]:
        return self.source.clients

    def kept_by(self, algorithm: Algorithm, client: ClientId, sent: Tree) -> Tree:
        """What a client has kept, or for one not asked before, what it makes of what it is sent."""
        return tree.to_device_of(self._kept[client], sent) if client in self._kept else algorithm.remember(sent)

    def tasks(self, source: TaskSource, clients: Sequence[ClientId], round: int, sent: Tree) -> Task:
        """The clients' tasks, on the device where what they are sent lies."""
        return cast(Task, tree.to_device_of(source.tasks(clients, round), sent))

    def training_tasks(self, clients: Sequence[ClientId], round: int, sent: Tree) -> Task:
        """The clients' tasks of a round, each batch with the key from which a model that trains on it draws."""
        task = self.tasks(self.source, clients, round, sent)
        seed = getattr(self.source, "seed", 0)
        steps = task.real.shape[1]
        keys = torch.as_tensor(step_keys(seed, round, clients, steps), device=task.real.device)
        places = count()

        def with_key(batch: Batch) -> Batch:
            return batch._replace(key=keys + next(places))

        return task._replace(items=tree.map_subtrees(with_key, task.items, Batch))

    def keep(self, client: ClientId, kept: Tree) -> None:
        """Put away what a client keeps, if it is anything."""
        if tree.leaves(kept):
            self._kept[client] = tree.form_unformed(kept)

    def memory(self) -> Mapping[ClientId, Tree]:
        return self._kept

    def recall(self, memory: Mapping[ClientId, Tree]) -> None:
        before = dict(memory)
        self._kept.clear()
        self._kept.update(before)
