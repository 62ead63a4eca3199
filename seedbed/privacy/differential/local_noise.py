"""Local privacy: every client adds noise to its own contribution, so that not even the server sees the exact value."""

from collections.abc import Iterator, Mapping

import torch

from seedbed import tree
from seedbed.federated import Algorithm, ClientId, Engine, EngineWrapper, MessageBatch
from seedbed.privacy.differential.mechanisms import LocalPrivacy
from seedbed.tree import Tree


class LocallyNoised(EngineWrapper):
    """Engine wrapper whose clients add their own noise to the contribution that `with_privacy` clipped to C."""

    def __init__(self, engine: Engine, mechanism: LocalPrivacy, *, clip: float):
        super().__init__(engine)
        self.mechanism, self.clip = mechanism, clip

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[MessageBatch]:
        for group in self.engine.ask(algorithm, sent, round):
            plain = group.messages.value.value
            noised = [self._add_noise(tree.index(plain, i), c, round) for i, c in enumerate(group.clients)]
            value = group.messages.value._replace(
                value=tree.stack(noised), noised=torch.ones_like(group.messages.value.noised)
            )
            yield group._replace(messages=group.messages._replace(value=value))

    def _add_noise(self, value: Tree, client: ClientId, round: int) -> Tree:
        noise = self.mechanism.own_noise(value, client, round)
        return tree.map(lambda x, n: (x.double() + self.clip * n).to(x.dtype), value, noise)
