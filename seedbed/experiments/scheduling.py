"""From settings to a schedule: when clients are asked, and with whom they exchange."""

from collections.abc import Callable, Iterator, Mapping

from seedbed.experiments.config import ScheduleSettings, Settings
from seedbed.federated import Algorithm, ClientId, Engine, ServerState
from seedbed.rounds import (
    Answering,
    Round,
    asynchronous,
    draw_cohorts,
    equal_latency,
    gossip,
    in_rounds,
    lognormal_latency,
    mixing,
    synchronous,
    topology_links,
)
from seedbed.rounds.message_validation import MessageValidator
from seedbed.rounds.mixing import DIRECTED
from seedbed.rounds.round import Rest, refuse_other_than

# (algorithm, engine, start, rounds done, what the last of them left to go on from)
ScheduleRunner = Callable[[Algorithm, Engine, ServerState, int, Rest | None], Iterator[Round]]


def schedule_for(
    settings: Settings,
    asked: ScheduleSettings,
    clients: int,
    *,
    answering: Answering | None = None,
    own_cohorts: bool = False,
    sizes: Mapping[ClientId, int] | None = None,
) -> ScheduleRunner:
    """The schedule that is asked for, of so many clients.

    Args:
        answering: who of a cohort answers in synchronous rounds; None: all.
        own_cohorts: the algorithm chooses them.
        sizes: examples of each client, where cohorts are drawn in proportion to them.
    Raises:
        InputError: it cannot be made.
    """
    seed, cohort = settings.seed, min(settings.cohort or clients, clients)
    if asked.name == "asynchronous":
        at_once, buffer = _at_once(settings, asked, clients), _buffer(settings, asked, clients)
        updates = server_updates(settings, asked, clients)
        seconds = (
            equal_latency()
            if asked.latency == "equal"
            else lognormal_latency(seed, spread=asked.spread, jitter=asked.jitter)
        )
        return lambda algorithm, engine, start, done, rest: in_rounds(
            asynchronous(
                algorithm,
                engine,
                start,
                latency=seconds,
                concurrency=at_once,
                buffer=buffer,
                seed=seed,
                done=done * updates,
                rest=rest,
            ),
            updates,
        )
    if asked.name == "gossip":
        exchange = mixing(
            topology_links(asked.topology, clients, density=asked.density, seed=seed),
            directed=asked.topology in DIRECTED,
            link_failure=asked.link_failure,
            peer_failure=asked.peer_failure,
            seed=seed,
        )
        return lambda algorithm, engine, start, done, rest: gossip(
            algorithm, engine, start, mixing=exchange, order=asked.order, done=done, rest=rest
        )
    draw = None
    if settings.cohort_by == "examples" or settings.replacement:
        by = sizes if settings.cohort_by == "examples" else None
        draw = draw_cohorts(cohort, seed=seed, sizes=by, replacement=settings.replacement)
    return lambda algorithm, engine, start, done, rest: synchronous(
        algorithm,
        engine,
        start,
        cohort=None if own_cohorts or draw else cohort,
        draw=draw,
        seed=seed,
        done=done,
        gate=MessageValidator(**settings.gate.model_dump()),
        answering=answering,
    )


def replies(settings: Settings, asked: ScheduleSettings, clients: int) -> int:
    """How many pieces of clients' work a round takes in: what rivals must be given as much of."""
    if asked.name == "gossip":
        return clients
    if asked.name == "asynchronous":
        return _buffer(settings, asked, clients) * server_updates(settings, asked, clients)
    return min(settings.cohort or clients, clients)


def _buffer(settings: Settings, asked: ScheduleSettings, clients: int) -> int:
    return asked.buffer or max(1, _at_once(settings, asked, clients) // 2)


def server_updates(settings: Settings, asked: ScheduleSettings, clients: int) -> int:
    """The server's steps in a round."""
    if asked.name != "asynchronous":
        return 1
    if asked.updates != "cohort":
        return asked.updates
    return max(1, round(min(settings.cohort or clients, clients) / _buffer(settings, asked, clients)))


def _at_once(settings: Settings, asked: ScheduleSettings, clients: int) -> int:
    return min(asked.concurrency or settings.cohort or clients, clients)


def check_concurrency(settings: Settings, clients: int) -> None:
    """
    Raises:
        InputError: more clients are to be at work at once than there are, or the schedule cannot be made.
    """
    refuse_other_than(1, settings.schedule.concurrency, clients, "schedule.concurrency")
    schedule_for(settings, settings.schedule, clients)
