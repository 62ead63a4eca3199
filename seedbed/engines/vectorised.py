"""Many clients at once: vmap over clients; short clients are padded with steps that change nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from seedbed import tree
from seedbed.engines.one_by_one import one_thread
from seedbed.engines.owning import Owning
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Group, ServerState
from seedbed.learning.objectives import Metric
from seedbed.tasks.sampling import TaskSource
from seedbed.tree import Tree

EPISODES = 16  # of a client at once, in evaluation


class Vectorised(Owning):
    """vmap over chunks of clients of like size.

    Args:
        source: where the clients' tasks come from.
        chunk: at most so many clients at once, or in evaluation so many episodes; memory grows with it.
    """

    def __init__(self, source: TaskSource, *, chunk: int = 128):
        super().__init__(source)
        self.chunk = chunk

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterator[Group]:
        first = next(iter(sent.values()))
        shared = all(payload is first for payload in sent.values())
        for clients in _chunks(list(sent), self.source, self.chunk):
            tasks = self.source.tasks(clients, round)
            payload = first if shared else tree.stack([sent[c] for c in clients])
            kept = tree.stack([self.kept_by(algorithm, c, sent[c]) for c in clients])
            run = vmap(algorithm.client, in_dims=(None if shared else 0, 0, 0))
            messages, kept = _explained(run, payload, kept, tasks)
            for i, client in enumerate(clients):
                self.keep(client, tree.index(kept, i))
            yield Group(clients, messages)

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> dict[ClientId, Tensor]:
        scores: dict[ClientId, Tensor] = {}
        first = algorithm.send(state, source.clients[0])
        for clients in _chunks(list(source.clients), source, max(1, self.chunk // EPISODES)):
            task = source.tasks(clients, 0)
            sent = [algorithm.send(state, c) for c in clients]
            shared = all(payload is first for payload in sent)
            kept = tree.stack([self.kept_by(algorithm, c, s) for c, s in zip(clients, sent, strict=True)])

            def score(sent: Tree, kept: Tree, episodes: Any) -> Tensor:
                def one(episode: Any) -> Tensor:
                    return metric(algorithm.personalise(sent, kept, episode.support), episode.query)

                return vmap(one, chunk_size=EPISODES)(episodes)

            run = vmap(score, in_dims=(None if shared else 0, 0, 0))
            found = _explained(run, first if shared else tree.stack(sent), kept, task.items)
            scores.update((c, s[real.bool()]) for c, s, real in zip(clients, found, task.real, strict=True))
        return {c: scores[c] for c in source.clients}


def _chunks(clients: list[ClientId], source: TaskSource, size: int) -> list[list[ClientId]]:
    """Clients of like size together, so that little is padding."""
    ordered = sorted(clients, key=lambda c: (source.size(c), c))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def _explained(run: Callable[..., Any], *arguments: Any) -> Any:
    """Run; what vmap cannot do is said with the line that asked for it and the way out."""
    try:
        with one_thread(), torch.enable_grad():  # under vmap, gradients are functional ones
            return run(*arguments)
    except RuntimeError as error:
        if not any(word in str(error) for word in ("vmap", "functorch", "batching rule")):
            raise
        trace, where = error.__traceback__, "?"
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if "/torch/" not in name and "\\torch\\" not in name:
                where = f"{name}:{trace.tb_lineno}"
            trace = trace.tb_next
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the vectorised engine cannot run this model or algorithm for many clients at once ({where}: {reason}): "
            "use the engine one_by_one"
        ) from error
