"""What an attacker sees of clients' messages: within a secure sum, or under differential privacy. The real mechanisms
do it: the same `private()`, noise, cohorts and fixed-point sums that runs use.

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

MIN_VIEW_CLIENTS = 3  # clients of a secure sum


class FixedMessages:
    """A source of clients that have their messages already: leaves [N, ...]."""

    def __init__(self, messages: Tree):
        self.messages = messages
        self.clients = range(len(tree.leaves(messages)[0]))

    def size(self, client: int) -> int:
        return 1

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        here = tree.map(lambda x: x[list(clients)][:, None], self.messages)
        ones = torch.ones(len(clients), 1)
        return Task(here, ones, ones[:, 0])


def echo() -> Algorithm:
    """Clients send what they are given; the server's params are what is released of it: the mean."""

    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        return Message(tree.index(task.items, 0), task.examples, {}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        return ServerState(replies.value, {})

    def init(params: Params) -> ServerState:
        return ServerState(params, {})

    return Algorithm(init, client, server)


def private_engine(engine: Engine, mechanism: Mechanism, clip: float | Adaptive) -> Engine:
    """The engine whose clients add noise of their own, where the mechanism asks for that. Sums are taken without masks,
    which change no bit of them."""
    if isinstance(mechanism, LocalPrivacy):
        assert isinstance(clip, float)  # Promise.of sees to it
        return LocallyNoised(engine, mechanism, clip=clip)
    if isinstance(mechanism, DistributedNoise):
        return SecureSumEngine(engine, NoisedEncoding(mechanism), PlainSums(mechanism.honest))
    return engine


def release_of(mechanism: Mechanism, clip: float, messages: Tree, round: int = 0) -> Tree:
    """A round's noised sum of clipped messages, without those that the attacker knows and has taken off.

    Args:
        messages: those that it does not know, leaves [C, ...]. Under distributed noise others noise beside them, so
            that there are as many as are counted on.
    """
    algorithm = with_privacy(echo(), mechanism, clip=clip)
    if isinstance(mechanism, DistributedNoise):
        mechanism, messages = _with_others(mechanism, messages)
    source = FixedMessages(messages)
    engine = private_engine(Vectorised(source), mechanism, clip)
    state = algorithm.init(tree.map(lambda x: torch.zeros_like(x[0]), messages))
    state.extra["round"] = torch.tensor(round)
    groups = list(engine.ask(algorithm, {c: algorithm.send(state, c) for c in source.clients}, round))
    after = algorithm.server(state, gather(algorithm, groups, mechanism.population))
    return tree.scale(mechanism.expected, after.params)


def _with_others(mechanism: DistributedNoise, messages: Tree) -> tuple[DistributedNoise, Tree]:
    """As many clients as are counted on, those beyond the messages sending zero; and the grid of these messages."""
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
    """Each round's noised sum of its cohort, and the clip that it was made with.

    Args:
        messages: leaves [N, ...], the same in every round; N is the mechanism's population.
        answering: which clients of a cohort answer.
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
    """What the server learns of a cohort under secure aggregation: the sum, which it divides by the number of clients,
    and nothing else. Leaves [C, ...] of at least LEAST clients -> [...].

    The grid is as fine as these messages allow: an attacker gains from every bit.
    """
    source, largest = FixedMessages(messages), max(float(x.abs().max()) for x in tree.leaves(messages))
    grid = FixedPointGrid(clip=largest or 1.0, bits=bits, clients=max(2, len(source.clients)))
    engine = SecureSumEngine(Vectorised(source), WeightedEncoding(grid), MaskedSums())
    [group] = engine.ask(echo(), dict.fromkeys(source.clients, ()), 0)
    mean: Tree = tree.index(group.messages.value, 0)
    return mean


def update_in(value: Tree, params: Params) -> dict[str, torch.Tensor] | None:
    """The update of the model's parameters that a message holds, by name; None: it holds none.

    A message that is a model, not a difference of two, lies near the one that was sent; the attacker takes that off.
    """
    found = next((d for d in _dicts(value) if set(d) & set(params) and _tensors(d)), None)
    if found is None:
        return None
    sent = {n: params[n] for n in found if n in params}
    if any(found[n].shape != p.shape for n, p in sent.items()):
        return None
    update: dict[str, torch.Tensor] = {n: found[n] for n in sent}
    step = tree.sub(sent, update)
    is_model = tree.squared_norm(step) < tree.squared_norm(update) / 4
    return step if is_model else update


def _dicts(value: Tree) -> Iterator[Mapping[str, Tree]]:
    """All dicts in a tree, outer ones first."""
    if isinstance(value, Mapping):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for each in inner:
        yield from _dicts(each)


def _tensors(found: Mapping[str, Tree]) -> bool:
    return all(isinstance(x, torch.Tensor) for x in found.values())
