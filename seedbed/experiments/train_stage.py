"""Training that survives: rounds with a journal and checkpoints, resumed bit for bit."""

import time
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from seedbed.engines.client_state_store import ClientStateStore
from seedbed.engines.process_group import broadcast_flag
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.scheduling import ScheduleRunner
from seedbed.federated import Algorithm, Engine, Params, ServerState
from seedbed.privacy.differential.ledger import NOT_NAMED
from seedbed.rounds import Round
from seedbed.serialization import fill_template

Watch = Callable[[Round], None]  # shown every round, in order
Guard = Callable[[Iterator[Round], int], Iterator[Round]]  # (rounds, how many lie behind) -> the same rounds


def without_guard(rounds: Iterator[Round], done: int) -> Iterator[Round]:
    """The rounds as they are."""
    return rounds


def run_train_stage(
    run: RunDirectory,
    stage: str,
    algorithm: Algorithm,
    engine: Engine,
    params: Params,
    *,
    schedule: ScheduleRunner,
    rounds: int,
    checkpoint_seconds: float,
    watch: Watch,
    guard: Guard = without_guard,
    store: ClientStateStore | None = None,
) -> ServerState:
    """Train for so many rounds, or for those that are left after the stage's last checkpoint.

    When checkpoints are written depends on the clock; what they and the metrics hold does not. Metrics tell how many
    clients took part only where rounds name them.

    Args:
        guard: stands between the schedule and what is released of it.
        store: where the engine's clients keep what they keep, so that checkpoints hold its index; None: in memory, and
            checkpoints hold all of it.
    """
    state, done, rest = algorithm.init(params), 0, None
    found = run.latest(stage)
    if found is not None:
        done, tensors = found
        state = fill_template(state, tensors, "state")
        rest = {name.removeprefix("rest."): t for name, t in tensors.items() if name.startswith("rest.")}
        if store is None:
            _recall(algorithm, engine, state, tensors)
        else:
            store.restore({name: tensors[f"index.{name}"] for name in ("clients", "entries")})
    saved = time.monotonic()
    if done >= rounds:
        return state
    for round in guard(schedule(algorithm, engine, state, done, rest), done):
        took_part = {} if round.clients is NOT_NAMED else {"clients": len(round.clients)}
        reasons = {str(c): why for c, why in {**round.refused, **round.lost}.items()}
        refused = {"reasons": reasons} if reasons else {}
        run.log({"stage": stage, "round": round.number, **took_part, **round.info, **refused})
        watch(round)
        last = round.number == rounds
        if last or broadcast_flag(time.monotonic() - saved >= checkpoint_seconds):
            memory = {"kept": {str(c): kept for c, kept in engine.memory().items()}} if store is None else {}
            index = {} if store is None else {"index": store.checkpoint()}
            run.save(stage, round.number, {"state": round.state, **memory, **index, "rest": round.rest()})
            saved = time.monotonic()
        if last:
            return round.state
    raise AssertionError("schedules do not end by themselves")


def _recall(algorithm: Algorithm, engine: Engine, state: ServerState, tensors: Mapping[str, Tensor]) -> None:
    """Give clients back what they kept."""
    clients = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("kept.")})
    engine.recall(
        {c: fill_template(algorithm.remember(algorithm.send(state, c)), tensors, f"kept.{c}") for c in clients}
    )
