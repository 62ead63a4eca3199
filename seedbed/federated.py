"""Read this first: an algorithm, what travels, and what each side keeps.

             send(state, client)                    client(sent, kept, task)
 ServerState ────────────────────►  sent  ────────────────────────────────────►  Message, kept'
      ▲                                                                             │   (kept' never leaves the client)
      │ server(state, replies)                                                      │
      │                                                                             ▼
   Replies  ◄──────────────────────────────  reduce  ◄──────────────────────────  messages

 personalise(sent, kept, support) -> Params      the product: this client's own model, from its few examples

Three choices never meet in one file: *what* is computed (`algorithms`), *when and with whom* (`rounds`), and *where*
(`engines`). Shapes: C clients of a round.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from seedbed.aggregation.mean import mean
from seedbed.data.sampling import TaskSource
from seedbed.data.types import Batch, Task
from seedbed.learning.objectives import Adapt, Metric
from seedbed.tree import Tree

Params = Any
ClientId = int
Cohort = Callable[[Sequence[ClientId], int], list[ClientId]]  # (population, round from 0) -> who takes part, or nobody
NEWCOMER: ClientId = -1  # a client never seen in training, whoever it is: what `send` gives it is what it adapts from


class Message(NamedTuple):
    """What a client gives to the server."""

    value: Tree
    weight: Tensor  # []  how much it counts in the mean: n_k, or 1
    info: Mapping[str, Tensor]  # numbers for people, such as the training loss; an algorithm never reads them


class Replies(NamedTuple):
    """What the server gets: the messages of a round, already reduced to one value."""

    value: Tree
    clients: Sequence[ClientId]
    population: int  # how many clients there are in all
    staleness: Tensor  # [C]  server updates since each client was sent its model; 0 in synchronous rounds
    weights: Tensor  # [C]  each message's, times `discount` of its staleness
    info: Mapping[str, Tensor]  # weighted means


class ServerState(NamedTuple):
    params: Params
    extra: Tree  # the outer optimiser's state, control variates, ...


class Reducer(Protocol):
    """How messages become one value.

    A linear reducer's result is a weighted sum over a sum of weights, so it may be added up in parts, over machines,
    and under secure aggregation; another needs each message.
    """

    linear: bool

    def __call__(self, stacked: Tree, weights: Tensor) -> Tree:
        """Values stacked [C, ...] and weights [C] -> one value."""
        ...


def stateless(sent: Tree) -> Tree:
    """A client that keeps nothing between rounds."""
    return {}


def broadcast(state: ServerState, client: ClientId) -> Tree:
    """Every client is sent the server's params: a broadcast."""
    return state.params


def as_sent(sent: Tree, kept: Tree, support: Batch) -> Params:
    """The client uses the shared model as it is."""
    return sent


def no_discount(staleness: Tensor) -> Tensor:
    """Late messages count like others: [C] -> ones [C]."""
    return torch.ones_like(staleness)


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm: pure functions, both halves, the same on every engine and schedule.

    Vary one by `dataclasses.replace(algorithm, client=...)`.
    """

    init: Callable[[Params], ServerState]
    client: Callable[[Tree, Tree, Task], tuple[Message, Tree]]  # the paper's ClientUpdate
    server: Callable[[ServerState, Replies], ServerState]  # the paper's server step
    send: Callable[[ServerState, ClientId], Tree] = broadcast
    remember: Callable[[Tree], Tree] = stateless  # a client's state, made from the first thing it is sent
    personalise: Callable[[Tree, Tree, Batch], Params] = as_sent
    reduce: Reducer = mean
    cohort: Cohort | None = None  # who takes part, where it is not for the schedule to choose
    discount: Callable[[Tensor], Tensor] = no_discount  # staleness [C] -> a factor on each message's weight [C]
    unlike: bool = False  # clients' messages differ in structure or shapes, so that the gate cannot compare them


def params_of(sent: Tree) -> Params:
    """The params in what was sent: it is them, or the server's whole state."""
    return sent.params if isinstance(sent, ServerState) else sent


def personalise_by(adapt: Adapt) -> Callable[[Tree, Tree, Batch], Params]:
    """Personalise by adapting the params that were sent, alone or in the server's whole state."""
    return lambda sent, kept, support: adapt(params_of(sent), support)


def uniform(algorithm: Algorithm) -> Algorithm:
    """The same algorithm with every client counting the same, instead of by its number of examples."""

    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        message, kept = algorithm.client(sent, kept, task)
        return message._replace(weight=torch.ones_like(message.weight)), kept

    return replace(algorithm, client=client)


def by_examples(algorithm: Algorithm) -> Algorithm:
    """The same algorithm with every client counting by its number of examples, instead of all alike."""

    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        message, kept = algorithm.client(sent, kept, task)
        return message._replace(weight=task.examples), kept

    return replace(algorithm, client=client)


class MessageBatch(NamedTuple):
    """Messages of some clients, stacked: leaves [c, ...].

    Under secure aggregation a message is the mean over several clients, and no other comes out of an engine.
    """

    clients: Sequence[ClientId]  # who sent each; of a mean one of its members, to call it by
    messages: Message
    members: Sequence[Sequence[ClientId]] | None = None  # over whom each message is the mean; None: its client alone
    lost: Mapping[ClientId, str] = {}  # who was asked, but is in no message, and why


class Engine(Protocol):
    """Where clients run. It owns the clients' data and what they keep."""

    @property
    def population(self) -> Sequence[ClientId]: ...

    def ask(self, algorithm: Algorithm, sent: Mapping[ClientId, Tree], round: int) -> Iterable[MessageBatch]:
        """Run `client` on each of these; yields groups of messages as they finish."""
        ...

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> Mapping[ClientId, Tensor]:
        """Personalise on the support of each of a client's E episodes, score on its query: {client: scores [E]}."""
        ...

    def memory(self) -> Mapping[ClientId, Tree]:
        """What clients keep, for checkpoints."""
        ...

    def recall(self, memory: Mapping[ClientId, Tree]) -> None:
        """Put back what `memory` gave."""
        ...


class EngineWrapper:
    """An engine around another, with `ask` still to be said: what its clients send is changed on the way."""

    def __init__(self, engine: Engine):
        self.engine = engine

    @property
    def population(self) -> Sequence[ClientId]:
        return self.engine.population

    def evaluate(
        self, algorithm: Algorithm, state: ServerState, source: TaskSource, metric: Metric
    ) -> Mapping[ClientId, Tensor]:
        return self.engine.evaluate(algorithm, state, source, metric)

    def memory(self) -> Mapping[ClientId, Tree]:
        return self.engine.memory()

    def recall(self, memory: Mapping[ClientId, Tree]) -> None:
        self.engine.recall(memory)
