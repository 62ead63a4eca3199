"""An attacker's views of clients' messages: within a secure sum, or under differential privacy. They come from the real
mechanisms: the same `with_privacy`, noise, cohorts and fixed-point sums as in runs.

Shapes: N clients, C of a cohort.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch

from seedbed import tree
from seedbed.data.types import Task
from seedbed.engines import Vectorised
from seedbed.federated import Algorithm, ClientId, Engine, Message, Params, Replies, ServerState
from seedbed.privacy.differential import Adaptive, DistributedNoise, LocallyNoised, LocalPrivacy, with_privacy
from seedbed.privacy.differential.mechanisms import Mechanism
from seedbed.privacy.secure import (
    FixedPointGrid,
    MaskedSums,
    NoisedEncoding,
    PlainSums,
    SecureSumEngine,
    WeightedEncoding,
)
from seedbed.rounds import synchronous
from seedbed.rounds.round import gather
from seedbed.tree import Tree

MIN_VIEW_CLIENTS = 3  # smallest secure sum


class FixedMessages:
    """A task source of clients with fixed messages: leaves [N, ...]."""

    def __init__(self, messages: Tree):
        self.messages = messages
        self.clients = range(len(tree.leaves(messages)[0]))

    def size(self, client: int) -> int:
        return 1

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        items = tree.map(lambda x: x[list(clients)][:, None], self.messages)
        ones = torch.ones(len(clients), 1)
        return Task(items, ones, ones[:, 0])


def echo() -> Algorithm:
    """An algorithm whose clients send their task's item; the server's parameters are the released mean."""

    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        return Message(tree.index(task.items, 0), task.examples, {}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        return ServerState(replies.value, {})

    def init(params: Params) -> ServerState:
        return ServerState(params, {})

    return Algorithm(init, client, server)


def private_engine(engine: Engine, mechanism: Mechanism, clip: float | Adaptive) -> Engine:
    """An engine whose clients add their own noise, if the mechanism requires it. Sums are computed without masks, which
    do not change them."""
    if isinstance(mechanism, LocalPrivacy):
        assert isinstance(clip, float)  # ensured by PrivacyPromise.of
        return LocallyNoised(engine, mechanism, clip=clip)
    if isinstance(mechanism, DistributedNoise):
        return SecureSumEngine(engine, NoisedEncoding(mechanism), PlainSums(mechanism.honest))
    return engine


def release_of(mechanism: Mechanism, clip: float, messages: Tree, round: int = 0) -> Tree:
    """A round's noised sum of clipped messages, after the attacker has subtracted those that it knows.

    Args:
        messages: those that it does not know, leaves [C, ...]. Under distributed noise other clients add their noise,
            so that the number of noising clients is as planned.
    """
    algorithm = with_privacy(echo(), mechanism, clip=clip)
    if isinstance(mechanism, DistributedNoise):
        mechanism, messages = _with_others(mechanism, messages)
    source = FixedMessages(messages)
    engine = private_engine(Vectorised(source), mechanism, clip)
    state = algorithm.init(tree.map(lambda x: torch.zeros_like(x[0]), messages))
    state.extra["round"] = torch.tensor(round)
    groups = list(engine.ask(algorithm, {c: algorithm.send(state, c) for c in source.clients}, round))
    released = algorithm.server(state, gather(algorithm, groups, mechanism.population))
    return tree.scale(mechanism.expected, released.params)


def _with_others(mechanism: DistributedNoise, messages: Tree) -> tuple[DistributedNoise, Tree]:
    """Pad the messages with zeros to the planned number of clients, and adapt the grid to them."""
    leaves = tree.leaves(messages)
    missing = max(0, mechanism.honest - len(leaves[0]))
    padded = tree.map(lambda x: torch.cat([x, x.new_zeros((missing, *x.shape[1:]))]), messages)
    return replace(mechanism, size=sum(x[0].numel() for x in leaves)), padded


def every_release(
    mechanism: Mechanism,
    clip: float | Adaptive,
    messages: Tree,
    rounds: int,
    *,
    answering: Callable[[Sequence[ClientId]], Sequence[ClientId]],
) -> Iterator[tuple[Tree, float]]:
    """Each round's noised sum of its cohort, and the clip used for it.

    Args:
        messages: leaves [N, ...], the same in every round; N is the mechanism's population.
        answering: selects the clients of a cohort that answer.
    """
    algorithm = with_privacy(echo(), mechanism, clip=clip)
    start = algorithm.init(tree.map(lambda x: torch.zeros_like(x[0]), messages))
    schedule = synchronous(
        algorithm,
        private_engine(Vectorised(FixedMessages(messages)), mechanism, clip),
        start,
        answering=lambda chosen, round: list(answering(chosen)),
    )
    bound = clip.start if isinstance(clip, Adaptive) else clip
    for round in islice(schedule, rounds):
        yield tree.scale(mechanism.expected, round.state.params), bound
        bound = float(round.state.extra.get("clip", bound))


def secure_mean(messages: Tree, *, bits: int = 20) -> Tree:
    """The server's view of a cohort under secure aggregation: the sum divided by the number of clients. Leaves [C, ...]
    → [...], C ≥ MIN_VIEW_CLIENTS.

    The grid is as fine as these messages allow, since an attacker gains from every bit.
    """
    source, largest = FixedMessages(messages), max(float(x.abs().max()) for x in tree.leaves(messages))
    grid = FixedPointGrid(clip=largest or 1.0, bits=bits, clients=max(2, len(source.clients)))
    engine = SecureSumEngine(Vectorised(source), WeightedEncoding(grid), MaskedSums())
    [group] = engine.ask(echo(), dict.fromkeys(source.clients, ()), 0)
    mean: Tree = tree.index(group.messages.value, 0)
    return mean


def update_in(value: Tree, params: Params) -> dict[str, torch.Tensor] | None:
    """The update of the model's parameters in a message, by name; None if it contains none.

    A message that is a model instead of an update is close to the sent model; the attacker subtracts the sent model.
    """
    content = next((d for d in _dicts(value) if set(d) & set(params) and _tensors(d)), None)
    if content is None:
        return None
    sent = {n: params[n] for n in content if n in params}
    if any(content[n].shape != p.shape for n, p in sent.items()):
        return None
    update: dict[str, torch.Tensor] = {n: content[n] for n in sent}
    step = tree.sub(sent, update)
    is_model = tree.squared_norm(step) < tree.squared_norm(update) / 4
    return step if is_model else update


def _dicts(value: Tree) -> Iterator[Mapping[str, Tree]]:
    """All dicts in a tree, outer ones first."""
    if isinstance(value, Mapping):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for part in inner:
        yield from _dicts(part)


def _tensors(values: Mapping[str, Tree]) -> bool:
    return all(isinstance(x, torch.Tensor) for x in values.values())
