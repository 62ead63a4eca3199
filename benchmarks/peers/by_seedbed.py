"""Seedbed. `by_seedbed.py WORK EXECUTOR [bare]`.

What is timed is what `seedbed run` does in a round: cohort, clients, gate, weighted mean, server step, a line of
metrics, and checkpoints by the clock as is its default. `bare` is only what must be: clients, weighted mean, server
step. Batches are drawn anew in every round, from the same examples.
"""

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from turns import Turns


def main() -> None:
    turns = Turns()
    from seedbed.bench.workloads import WORKLOADS
    from seedbed.engines import TuningCache, make, one_thread
    from seedbed.engines.memory_info import keep_freed_memory
    from seedbed.experiments.config import Settings
    from seedbed.experiments.run_directory import RunDirectory
    from seedbed.experiments.train_stage import run_train_stage
    from seedbed.federated import Algorithm, Engine, Params, ServerState
    from seedbed.rounds import Round, synchronous
    from seedbed.rounds.round import gather

    def bare(algorithm: Algorithm, engine: Engine, params: Params) -> None:
        state, number = algorithm.init(params), 0
        while turns.wait(partial(dict, state.params)):
            sent = {c: algorithm.send(state, c) for c in engine.population}
            state = algorithm.server(
                state, gather(algorithm, list(engine.ask(algorithm, sent, number)), len(engine.population))
            )
            number += 1

    def whole(algorithm: Algorithm, engine: Engine, params: Params, folder: Path) -> None:
        def in_turn(rounds: Iterator[Round], done: int) -> Iterator[Round]:
            state: ServerState = algorithm.init(params)
            while turns.wait(partial(dict, state.params)):
                round = next(rounds)
                state = round.state
                yield round
            raise SystemExit

        run_train_stage(
            RunDirectory.create(folder / "run", {}),
            "fedavg",
            algorithm,
            engine,
            params,
            schedule=lambda algorithm, engine, state, done, rest: synchronous(algorithm, engine, state, done=done),
            rounds=sys.maxsize,
            checkpoint_seconds=Settings.model_fields["checkpoint_seconds"].default,
            watch=lambda round: None,
            guard=in_turn,
        )

    keep_freed_memory()  # as the command line does
    workload, executor = WORKLOADS[turns.work.name], sys.argv[2]
    model, source = workload.model(), workload.source()
    algorithm = workload.algorithm(model)
    engine = make("auto", source, model.module, executor=executor, plans=TuningCache(say=lambda line: print(line)))
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        if sys.argv[3:] == ["bare"]:
            bare(algorithm, engine, model.params)
        else:
            whole(algorithm, engine, model.params, Path(folder))


if __name__ == "__main__":
    main()
