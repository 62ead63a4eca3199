"""What every engine of one process owns: where its clients' tasks come from, and what the clients keep."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import cast

from seedbed import tree
from seedbed.data.sampling import TaskSource
from seedbed.data.types import Task
from seedbed.federated import Algorithm, ClientId
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
