"""No rounds: a server that steps whenever enough replies are in, on a simulated clock. For FedAsync and FedBuff.

Nothing waits and nothing runs beside: time is a number, and what happens next is the earliest finishing time. Clients
are computed when the first of those at work finishes, all of them at once, so that the vectorised engine has them
together; a client's work depends on what it was sent alone, so that computing it early changes nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from statistics import fmean
from typing import NamedTuple

import torch

from seedbed import randomness, tree
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Engine, Message, MessageBatch, Replies, ServerState
from seedbed.rounds.round import (
    Rest,
    Round,
    by_client_id,
    by_client_name,
    choose_cohort,
    gather,
    one_by_one,
    refuse_infinite,
    refuse_other_than,
    refuse_own_cohorts,
)

Latency = Callable[[ClientId, int], float]  # (client, version of the model that it was sent) -> seconds, above 0


def equal_latency(seconds: float = 1.0) -> Latency:
    """Every client always takes as long."""
    return lambda client, version: seconds


def lognormal_latency(seed: int, *, median: float = 1.0, spread: float = 0.5, jitter: float = 0.1) -> Latency:
    """median·exp(spread·z_client + jitter·z_{client, version}) seconds, each z a standard normal of its own.

    Args:
        spread: how unlike devices are; 0: all alike. At 1 the slowest of a hundred takes about ten times the median.
        jitter: how unlike one device's pieces of work are.
    """

    def latency(client: ClientId, version: int) -> float:
        device = randomness.generator(seed, "device", client).normal()
        piece = randomness.generator(seed, "latency", client, version).normal()
        return float(median * math.exp(spread * device + jitter * piece))

    return latency


class InFlight(NamedTuple):
    """A client at work. Of two the lesser finishes first, or at the same moment is the client of lesser number."""

    finish: float  # seconds
    client: ClientId
    version: int  # server updates before it was sent its model


class AheadOfTime(NamedTuple):
    """The clock, who is at work, and what is already known of what they will say.

    Attributes:
        draws, asks: how often clients were sent out, and computed. Tasks are drawn by the number of the ask, so that
            each piece of a client's work has a task of its own.
        working: in the order in which they will finish.
        states: the server's, by version, that were sent to clients who are still to be computed.
        messages: of clients at work that have been computed.
    """

    clock: float = 0.0
    draws: int = 0
    asks: int = 0
    working: tuple[InFlight, ...] = ()
    states: Mapping[int, ServerState] = {}
    messages: Mapping[ClientId, Message] = {}

    @property
    def more_now(self) -> bool:
        """Whether another reply comes in at this very moment."""
        return bool(self.working) and self.working[0].finish == self.clock


def asynchronous(
    algorithm: Algorithm,
    engine: Engine,
    start: ServerState,
    *,
    latency: Latency,
    concurrency: int | None = None,
    buffer: int = 1,
    seed: int = 0,
    done: int = 0,
    rest: Rest | None = None,
) -> Iterator[Round]:
    """Endless server updates, each yielded as a `Round`; stop by leaving the loop.

    At each moment all replies of that moment come in, the client of least number first; the server steps whenever
    `buffer` are there; then clients that are idle are sent the newest model until `concurrency` are at work again.
    Where all take equally long and concurrency = buffer, these are the synchronous rounds of such a cohort.

    Info: `time`, simulated seconds; `staleness`, the mean over the replies of the server's updates since their
    clients were sent their models. A client that is fast may have several replies in one update.

    Args:
        start: `algorithm.init(params)`, or the state of an earlier round to go on from.
        latency: how long a client works: (client, version) -> seconds.
        concurrency: clients at work at once; who is next is drawn by (seed, how often was drawn). None: all.
        buffer: replies that a step of the server waits for: FedBuff's K, 1 for FedAsync.
        done: updates that `start` has behind it.
        rest: what the earlier round's `rest()` gave, to go on exactly.
    Raises:
        InputError: concurrency is larger than the population, a latency is not above 0, or the model became NaN or
            infinite.
    """
    population = engine.population
    refuse_own_cohorts(algorithm, "asynchronous")
    refuse_other_than(1, concurrency, len(population), "concurrency")
    if buffer < 1:
        raise InputError(f"buffer={buffer} replies for a step of the server: it must be at least 1")
    at_once = len(population) if concurrency is None else concurrency
    state, number, ahead, replies = start, done, AheadOfTime(), list[tuple[InFlight, Message]]()
    if rest is not None:
        ahead = _found(rest, algorithm, engine, state)
    while True:
        if len(ahead.working) < at_once and not ahead.more_now:
            busy = {work.client for work in ahead.working}
            idle = [c for c in population if c not in busy]
            chosen = choose_cohort(idle, at_once - len(busy), seed, ahead.draws)
            ahead = _send_out(ahead, [_work(c, number, ahead.clock, latency) for c in chosen], {number: state})
        if ahead.working[0].client not in ahead.messages:
            ahead = _compute(ahead, algorithm, engine)
        reply, ahead = _next_reply(ahead)
        replies.append(reply)
        if len(replies) < buffer:
            continue
        got, replies = _gathered(algorithm, replies, number, len(population)), []
        state, number = algorithm.server(state, got), number + 1
        refuse_infinite(state, number, got.info)
        info = {name: float(value) for name, value in got.info.items()}
        info |= {"time": ahead.clock, "staleness": float(got.staleness.mean())}
        yield Round(number, state, got.clients, info, partial(_rest, ahead))


def in_rounds(updates: Iterator[Round], count: int) -> Iterator[Round]:
    """Server updates, so many a round: of each the last one's state, all replies' clients, and mean numbers."""
    while some := list(islice(updates, count)):
        last = some[-1]
        info = {name: fmean(update.info[name] for update in some) for name in last.info} | {"time": last.info["time"]}
        clients = [client for update in some for client in update.clients]
        yield last._replace(number=last.number // count, clients=clients, info=info)


def _work(client: ClientId, version: int, clock: float, latency: Latency) -> InFlight:
    seconds = latency(client, version)
    if not 0 < seconds < math.inf:
        raise InputError(f"latency({client}, {version}) is {seconds} seconds: it must be above 0, and finite")
    return InFlight(clock + seconds, client, version)


def _send_out(ahead: AheadOfTime, works: Sequence[InFlight], state: Mapping[int, ServerState]) -> AheadOfTime:
    working = tuple(sorted((*ahead.working, *works)))
    return ahead._replace(working=working, states={**ahead.states, **state}, draws=ahead.draws + 1)


def _compute(ahead: AheadOfTime, algorithm: Algorithm, engine: Engine) -> AheadOfTime:
    """Compute all at work who are not computed yet."""
    todo = sorted((work.client, work.version) for work in ahead.working if work.client not in ahead.messages)
    sent = {client: algorithm.send(ahead.states[version], client) for client, version in todo}
    messages = {**ahead.messages, **one_by_one(engine.ask(algorithm, sent, ahead.asks))}
    return ahead._replace(messages=messages, asks=ahead.asks + 1, states={})


def _next_reply(ahead: AheadOfTime) -> tuple[tuple[InFlight, Message], AheadOfTime]:
    """The clock moves on to the reply that comes in next."""
    first, *others = ahead.working
    messages = {client: message for client, message in ahead.messages.items() if client != first.client}
    later = ahead._replace(clock=first.finish, working=tuple(others), messages=messages)
    return (first, ahead.messages[first.client]), later


def _gathered(
    algorithm: Algorithm, replies: Sequence[tuple[InFlight, Message]], number: int, population: int
) -> Replies:
    """What the server steps on. Sorting by client is stable: replies of one client stay in their order."""
    replies = sorted(replies, key=lambda reply: reply[0].client)
    group = MessageBatch([work.client for work, _ in replies], tree.stack([message for _, message in replies]))
    return gather(algorithm, [group], population, staleness=[number - work.version for work, _ in replies])


# ---- stopping and going on ----------------------------------------------------------------------------------------


def _rest(ahead: AheadOfTime) -> Rest:
    who = [(work.client, work.version) for work in ahead.working]
    found = {
        "clock": torch.tensor(ahead.clock, dtype=torch.float64),
        "counts": torch.tensor([ahead.draws, ahead.asks]),
        "finish": torch.tensor([work.finish for work in ahead.working], dtype=torch.float64),
        "who": torch.tensor(who, dtype=torch.int64).reshape(-1, 2),
    }
    for version, state in sorted(ahead.states.items()):
        found |= by_client_name(f"states.{version}", state)
    for client in sorted(ahead.messages):
        found |= by_client_name(f"messages.{client}", ahead.messages[client])
    return found


def _found(rest: Rest, algorithm: Algorithm, engine: Engine, state: ServerState) -> AheadOfTime:
    """As it was when `rest` was made."""

    def numbers(kind: str) -> list[int]:
        return sorted({int(name.split(".")[1]) for name in rest if name.startswith(f"{kind}.")})

    versions, computed = numbers("states"), numbers("messages")
    like = _some_message(algorithm, engine, state) if computed else None
    draws, asks = rest["counts"].tolist()
    works = zip(rest["finish"].tolist(), rest["who"].tolist(), strict=True)
    return AheadOfTime(
        float(rest["clock"]),
        draws,
        asks,
        tuple(InFlight(finish, *who) for finish, who in works),
        {version: by_client_id(f"states.{version}", state, rest) for version in versions},
        {client: by_client_id(f"messages.{client}", like, rest) for client in computed},
    )


def _some_message(algorithm: Algorithm, engine: Engine, state: ServerState) -> Message:
    """What messages are made of is seen by asking a client; its memory is put back as it was."""
    before, client = dict(engine.memory()), engine.population[0]
    messages = one_by_one(engine.ask(algorithm, {client: algorithm.send(state, client)}, 0))
    engine.recall(before)
    return messages[client]
