"""Local privacy: every client noises its own contribution before it leaves: not even the server sees it plain."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from seedbed import tree
from seedbed.federated import Algorithm, ClientId, Engine, Group, ServerState
from seedbed.learning.objectives import Metric
from seedbed.privacy.differential.mechanisms import Local
from seedbed.tasks.sampling import TaskSource
from seedbed.tree import Tree


class LocallyNoised:
    """An engine whose clients add noise of their own to what `private(algorithm, local, clip=C)` lets them send."""

    def __init__(self, engine: Engine, mechanism: Local, *, clip: float):
        self.engine, self.mechanism, self.clip = engine, mechanism, clip

    @property
    def population(self) -> Sequence[ClientId]:
        return self.engine.population

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[Group]:
        for group in self.engine.ask(algorithm, sent, round):
            plain = group.messages.value.value
            noised = [self._noised(tree.index(plain, i), c, round) for i, c in enumerate(group.clients)]
            value = group.messages.value._replace(
                value=tree.stack(noised), noised=torch.ones_like(group.messages.value.noised)
            )
            yield group._replace(messages=group.messages._replace(value=value))

    def _noised(self, value: Tree, client: ClientId, round: int) -> Tree:
        noise = self.mechanism.own_noise(value, client, round)
        return tree.map(lambda x, n: (x.double() + self.clip * n).to(x.dtype), value, noise)

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> Mapping[ClientId, Tensor]:
        return self.engine.evaluate(algorithm, state, source, metric)

    def memory(self) -> Mapping[ClientId, Tree]:
        return self.engine.memory()

    def recall(self, memory: Mapping[ClientId, Tree]) -> None:
        self.engine.recall(memory)
