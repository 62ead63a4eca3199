"""Rounds with a server: send to a cohort, wait for all of it, judge, reduce, step. FedAvg's schedule."""

from collections.abc import Callable, Iterator, Sequence

import torch

from seedbed import tree
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Engine, Replies, ServerState
from seedbed.gate import Admitted, Gate
from seedbed.reducers.robust import TooFew
from seedbed.rounds.round import Round, choose_cohort, gather, refuse_hopeless, refuse_infinite, refuse_other_than

Answering = Callable[[Sequence[ClientId], int], Sequence[ClientId]]  # (a cohort, round) -> those who answer


def synchronous(
    algorithm: Algorithm,
    engine: Engine,
    start: ServerState,
    *,
    cohort: int | None = None,
    seed: int = 0,
    done: int = 0,
    gate: Gate | None = Gate(),
    answering: Answering | None = None,
) -> Iterator[Round]:
    """Endless rounds; stop by leaving the loop.

    Args:
        start: `algorithm.init(params)`, or the state of an earlier round to go on from.
        cohort: clients a round, drawn without replacement by (seed, round); None: all, or whom the algorithm's own
            `cohort` chooses. Its cohort may be empty: then the server steps on a sum that is zero.
        done: rounds that `start` has behind it.
        gate: what messages must be to be counted; None: anything.
        answering: who of a round's cohort answers in time; the others are as if not asked, and a round that nobody
            answers changes nothing. None: all do.
    Raises:
        InputError: the cohort is larger than the population, too small for the algorithm's reduce, or asked for of an
            algorithm that chooses its own; or every message of a round was refused.
        Diverged: the model, or every message, became NaN or infinite; the last good round has been yielded before.
    """
    population = engine.population
    refuse_other_than(1, cohort, len(population), "cohort")
    if cohort is not None and algorithm.cohort is not None:
        raise InputError(
            f"cohort={cohort} draws a fixed number of clients, but this algorithm chooses its cohorts itself, as "
            "what it promises of privacy is accounted for: leave cohort out; the mechanism has the expected number"
        )
    state, number = start, done
    while True:
        own = algorithm.cohort
        chosen = choose_cohort(population, cohort, seed, number) if own is None else own(population, number)
        if answering is not None:
            chosen = list(answering(chosen, number))
        if not chosen and own is not None:
            state, number = algorithm.server(state, from_nobody(algorithm, engine, state, number)), number + 1
            yield Round(number, state, [], {})
            continue
        if not chosen:
            number += 1
            yield Round(number, state, [], {})
            continue
        sent = {c: algorithm.send(state, c) for c in chosen}
        arrived = list(engine.ask(algorithm, sent, number))
        groups, refused = (
            Admitted(arrived, {}) if gate is None else gate.admit(arrived, chosen, alike=not algorithm.unlike)
        )
        number += 1
        refuse_hopeless(number, groups, refused)
        info = {"refused": torch.tensor(float(len(refused)))} if refused else {}
        try:
            replies = gather(algorithm, groups, len(population))
            state, info = algorithm.server(state, replies), {**info, **replies.info}
        except TooFew:
            if not refused:
                raise
            info |= {"abandoned": torch.tensor(1.0)}
        refuse_infinite(state, number, info)
        yield Round(number, state, chosen, {name: float(value) for name, value in info.items()}, refused=refused)


def from_nobody(algorithm: Algorithm, engine: Engine, state: ServerState, number: int) -> Replies:
    """What a round without clients gives: a zero of the shape that messages have.

    That shape is learned by asking one client, of whose message nothing else is used and whose memory is put back.
    """
    population, memory = engine.population, dict(engine.memory())
    one = population[0]
    replies = gather(algorithm, list(engine.ask(algorithm, {one: algorithm.send(state, one)}, number)), len(population))
    engine.recall(memory)
    nobody = replies.weights[:0]
    return Replies(tree.zeros_like(replies.value), [], len(population), nobody, nobody, {})
