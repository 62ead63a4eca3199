"""Rounds with a server: send to a cohort, wait for all of it, judge, reduce, step. FedAvg's schedule."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from seedbed.aggregation.robust import TooFewMessages
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Engine, ServerState
from seedbed.rounds.cohorts import Draw, repeated
from seedbed.rounds.message_validation import MessageValidator, Validated
from seedbed.rounds.round import (
    Round,
    choose_cohort,
    empty_cohort_replies,
    gather,
    refuse_hopeless,
    refuse_infinite,
    refuse_other_than,
)

Answering = Callable[[Sequence[ClientId], int], Sequence[ClientId]]  # (a cohort, round) -> those who answer


def synchronous(
    algorithm: Algorithm,
    engine: Engine,
    start: ServerState,
    *,
    cohort: int | None = None,
    seed: int = 0,
    done: int = 0,
    gate: MessageValidator | None = MessageValidator(),
    answering: Answering | None = None,
    draw: Draw | None = None,
) -> Iterator[Round]:
    """Endless rounds; stop by leaving the loop.

    Args:
        start: `algorithm.init(params)`, or the state of an earlier round to go on from.
        cohort: clients a round, drawn without replacement by (seed, round); None: all, or whom the algorithm's own
            `cohort` chooses. That may be nobody: then the server steps on a sum that is zero, and the shape of it is
            learned from one client, of whose message nothing else is used and whose memory is put back.
        done: rounds that `start` has behind it.
        gate: what messages must be to be counted; None: anything.
        answering: who of a round's cohort answers in time; the others are as if not asked, and a round that nobody
            answers changes nothing. None: all do.
        draw: how a round's cohort is drawn, instead of `cohort` clients alike (`draw_cohorts`); a client that is drawn
            several times works once, and its message counts as often.
    Raises:
        InputError: the cohort is larger than the population, too small for the algorithm's reduce, or asked for of an
            algorithm that chooses its own; in such a one the gate would let one client decide on another's message; or
            every message of a round was refused.
        Diverged: the model, or every message, became NaN or infinite; the last good round has been yielded before.
    """
    population = engine.population
    refuse_other_than(1, cohort, len(population), "cohort")
    _refuse_beside_own(algorithm, cohort, gate, draw)
    state, number = start, done
    while True:
        own = algorithm.cohort
        chosen = choose_cohort(population, cohort, seed, number) if own is None else own(population, number)
        counts: Counter[ClientId] = Counter()
        if draw is not None:
            counts.update(draw(population, number))
            chosen = sorted(counts)
        if answering is not None:
            chosen = list(answering(chosen, number))
        if not chosen and own is None:
            number += 1
            yield Round(number, state, [], {})
            continue
        number += 1
        round = _played(algorithm, engine, state, chosen, number, gate, counts)
        state = round.state
        yield round


def _played(
    algorithm: Algorithm,
    engine: Engine,
    state: ServerState,
    chosen: list[ClientId],
    number: int,
    gate: MessageValidator | None,
    counts: Mapping[ClientId, int],
) -> Round:
    """A round. When it is over nothing is left of what clients sent: that is as large as several models."""
    memory = {} if chosen else dict(engine.memory())
    sent = {c: algorithm.send(state, c) for c in chosen or engine.population[:1]}
    asked = list(engine.ask(algorithm, sent, number - 1))
    lost = {c: why for group in asked for c, why in group.lost.items()}
    arrived = [group for group in asked if group.clients]
    if not chosen:
        engine.recall(memory)
    groups, refused = (
        gate.admit(arrived, chosen, alike=not algorithm.unlike) if gate and chosen else Validated(arrived, {})
    )
    refuse_hopeless(number, groups, refused, lost)
    missing = {"refused": len(refused), "lost": len(lost)}
    info = {name: torch.tensor(float(count)) for name, count in missing.items() if count}
    groups = [repeated(group, counts) for group in groups]
    try:
        if not groups:
            raise TooFewMessages("nobody's message arrived")
        replies = gather(algorithm, groups, len(engine.population))
        del asked, arrived, groups
        replies = replies if chosen else empty_cohort_replies(replies)
        state, info = algorithm.server(state, replies), {**info, **replies.info}
    except TooFewMessages:
        if not refused and not lost:
            raise
        info |= {"abandoned": torch.tensor(1.0)}
    refuse_infinite(state, number, info)
    numbers = {name: float(value) for name, value in info.items()}
    return Round(number, state, chosen, numbers, refused=refused, lost=lost)


def _refuse_beside_own(
    algorithm: Algorithm, cohort: int | None, gate: MessageValidator | None, draw: Draw | None
) -> None:
    """What would void the promise of an algorithm that chooses its own cohorts."""
    if algorithm.cohort is None:
        return
    if draw is not None:
        raise InputError("this algorithm chooses its cohorts itself, for what it promises of privacy: leave draw out")
    if cohort is not None:
        raise InputError(
            f"cohort={cohort} draws a fixed number of clients, but this algorithm chooses its cohorts itself, as what "
            "it promises of privacy is accounted for: leave cohort out; the mechanism has the expected number"
        )
    if gate is not None and gate.norm is not None:
        raise InputError(
            f"a gate of norm={gate.norm} times the median lets one client decide on another's message, so that more "
            "than the clip hangs on it: use norm_cap, or none, for the clip bounds messages already"
        )
