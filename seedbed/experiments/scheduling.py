"""From settings to a schedule: when clients are asked, and with whom they exchange."""

from collections.abc import Callable, Iterator, Mapping

from seedbed.algorithms.catalogue import CatalogueEntry
from seedbed.errors import InputError
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
from seedbed.rounds.mixing import DIRECTED, TOPOLOGIES
from seedbed.rounds.round import Rest, refuse_other_than

# (algorithm, engine, start, rounds done, what the last of them left to go on from)
ScheduleRunner = Callable[[Algorithm, Engine, ServerState, int, Rest | None], Iterator[Round]]

SCHEDULE_SETTINGS = {  # which settings are whose
    "synchronous": (),
    "asynchronous": ("concurrency", "buffer", "updates", "latency", "spread", "jitter"),
    "gossip": ("topology", "density", "order", "link_failure", "peer_failure"),
}
SERVERLESS = "it is for peers without a server"
SCHEDULE_REASONS = {  # an algorithm's own schedule, or any (None); the one asked for
    (None, "gossip"): "there each peer steps on its own message alone",
    (None, "asynchronous"): "its server steps on the whole cohort at once",
    ("asynchronous", "synchronous"): "it weighs late replies, and there nobody is late",
    ("gossip", "synchronous"): SERVERLESS,
    ("gossip", "asynchronous"): SERVERLESS,
}


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


def refuse_schedule(settings: Settings, entry: CatalogueEntry, clients: int) -> None:
    """A schedule that the algorithm makes no sense on, or settings that nothing would come of."""
    asked, algorithm = settings.schedule, settings.algorithm
    if asked.name not in entry.rounds:
        why = "a baseline exchanges nothing" if entry.paper.startswith("baseline") else None
        why = why or SCHEDULE_REASONS.get((entry.rounds[0], str(asked.name))) or SCHEDULE_REASONS[None, str(asked.name)]
        raise InputError(
            f"{algorithm} does not run on schedule.name={asked.name}: {why}; leave schedule.name out "
            f"({algorithm} runs on {' or '.join(entry.rounds)})"
        )
    for owner, names in SCHEDULE_SETTINGS.items():
        for name in names:
            value = getattr(asked, name)
            if owner != asked.name and value != ScheduleSettings.model_fields[name].default:
                raise InputError(
                    f"schedule.{name}={value!r} is a setting of {owner} rounds, but this run's are {asked.name}: "
                    f"leave it out, or set schedule.name={owner}"
                )
    if asked.name == "gossip" and asked.topology in DIRECTED and not entry.pushes:
        raise InputError(
            f"schedule.topology={asked.topology} has links of one direction, along which {algorithm} would lose the "
            f"mean: use push_sum, or one of {', '.join(t for t in TOPOLOGIES if t not in DIRECTED)}"
        )
    if asked.name != "synchronous" and settings.stragglers.part and settings.stragglers.work == "dropped":
        instead = "schedule.latency" if asked.name == "asynchronous" else "schedule.peer_failure"
        raise InputError(
            f"stragglers.work=dropped is for rounds that wait for a cohort, but this run's are {asked.name}: use "
            f"stragglers.work=partial, or {instead}"
        )
    _refuse_cohorts(settings, entry)
    refuse_other_than(1, asked.concurrency, clients, "schedule.concurrency")
    schedule_for(settings, asked, clients)


def _refuse_cohorts(settings: Settings, entry: CatalogueEntry) -> None:
    """Ways to draw a cohort, and weights, that this run cannot have."""
    asked = {
        f"cohort_by={settings.cohort_by}": settings.cohort_by != "uniform",
        "replacement=true": settings.replacement,
    }
    reasons = {
        f"schedule.name={settings.schedule.name} draws no cohorts": settings.schedule.name != "synchronous",
        f"{settings.algorithm} trains on pooled data": entry.pooled,
        "privacy accounts for cohorts that it draws itself": settings.privacy.epsilon is not None,
    }
    alone = {
        "secure aggregation sums each message once": settings.secure.form != "none",
        f"reduce={settings.reduce.name} counts each message once": settings.reduce.name not in (None, "mean"),
        f"{settings.algorithm} counts each message once": bool(entry.needs_mean),
    }
    for what, wanted in asked.items():
        why = {**reasons, **(alone if what.startswith("replacement") else {})}
        found = next((reason for reason, true in why.items() if true), None)
        if wanted and found:
            raise InputError(f"{what} cannot be used: {found}; leave it out")
    if settings.weights and (entry.needs_mean or entry.pooled):
        reason = entry.needs_mean or "one client has all data"
        raise InputError(f"weights={settings.weights} cannot be used with {settings.algorithm}: {reason}; leave it out")
