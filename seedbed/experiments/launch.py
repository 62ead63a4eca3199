"""Starting a run from what was asked, going on with one, judging one again."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from seedbed.algorithms import catalogue
from seedbed.data import readers
from seedbed.data.population import Population
from seedbed.errors import InputError, Stopped
from seedbed.experiments import multi_rank
from seedbed.experiments.builder import Learner, Shape
from seedbed.experiments.compatibility import Command, Facts, case_of
from seedbed.experiments.config import Settings, read_toml, settings_from, table_from
from seedbed.experiments.folds import FOLDS, refuse_folds, run_folds, suggestion
from seedbed.experiments.named_code import load_assigned, require_same_code, sources
from seedbed.experiments.planning import divide, judging_all, plan
from seedbed.experiments.presets import complete_settings
from seedbed.experiments.run_directory import RunDirectory, versions
from seedbed.experiments.run_plan import ClientSplit, RunPlan
from seedbed.experiments.stages import Show, TrainedStart
from seedbed.experiments.table_run import pipeline_for
from seedbed.serialization import fill_template, tensors_from_bytes

JUDGING = {"evaluation", "options", "engine", "executor", "workers", "drop_short"}  # what may be other than in training


MEMORY = "memory:"  # begins the name of data that lies in no file


def population_for(settings: Settings, like: dict[str, Any] | None = None) -> Population:
    """Read the data that the settings name.

    Args:
        like: the encoding of the data that a model was trained on, to read other data for it.
    """
    if settings.data.startswith(MEMORY):
        raise InputError(
            f"the run's data was a {settings.data.removeprefix(MEMORY)} in Python's memory: go on in Python with "
            "seedbed.resume(directory, data, client=..., target=...)"
        )
    root, drop = settings.data_dir, settings.drop_short
    return readers.read(settings.data, root=root, drop_short=drop, like=like, **settings.reader)


def start_run(
    asked: Mapping[str, Any], assignments: Iterable[str], config: Path | None, out: Path | None, show: Show
) -> tuple[Path, dict[str, Any]]:
    """A new run; returns its directory and its result. Arguments and errors: see `plan`.

    Under torchrun every rank calls it; a run that the directory holds already, by the same command, is gone on with.
    """
    return begin_run(multi_rank.agree_over_ranks(lambda: plan_run(asked, assignments, config)), out, show)


def begin_run(experiment: RunPlan, out: Path | None, show: Show) -> tuple[Path, dict[str, Any]]:
    """A new run as planned; returns its directory and its result."""
    for note in experiment.notes:
        show.note(note)
    settings = experiment.settings
    name = Path(settings.data.removeprefix(MEMORY)).stem
    path = out or Path("runs") / f"{name}-{settings.algorithm}-{settings.seed}"
    manifest = _manifest(experiment)
    multi_rank.require_same_manifest(manifest)
    with multi_rank.open_on_ranks(path, manifest) as run:
        return path, _finish(run, experiment, show)


def plan_run(
    asked: Mapping[str, Any],
    assignments: Iterable[str],
    config: Path | None,
    *,
    specific: bool = True,
    command: Command = "run",
    population: Population | None = None,
) -> RunPlan:
    """What a run would be, checked.

    Args:
        asked: settings that are not None go over the TOML file's; `assignments` (key=value) over both. `lr` is the
            algorithm's own learning rate, by whatever name.
        specific: with the recipe for this very set, if there is one.
        command: what the plan is for.
        population: the data, where it lies in memory; None: read what the settings name.
    Raises:
        InputError: before anything is written or computed, whatever can be known to fail.
    """
    assignments = list(assignments)
    load_assigned(assignments)
    given = table_from(
        read_toml(config) if config else {},
        {key: value for key, value in asked.items() if value is not None and key != "lr"},
        assignments=assignments,
    )
    if population is None:
        given |= _absolute(settings_from(given))
        population = population_for(settings_from(given))
    if asked.get("lr") is not None:
        given = _with_rate(given, asked["lr"], population)
    complete = partial(complete_settings, population=population, specific=specific)
    case = case_of(given, Facts.of(population, command), complete)
    refuse_folds(case.settings, population)
    made = plan(divide(case.settings, population, case))
    few = suggestion(made.population) if made.settings.folds is None and made.by_row else None
    return made if few is None else replace(made, notes=(*made.notes, few))


def _with_rate(given: Mapping[str, Any], rate: float, population: Population) -> dict[str, Any]:
    """Given settings with the algorithm's learning rate: its clients', or the first that `tune` would choose."""
    name = complete_settings({**given, "start": "rounds"}, population).algorithm
    rates = catalogue.entry(name).rates
    if not rates:
        raise InputError(f"--lr {rate:g}: {name} has no learning rate: leave it out")
    key = "local.lr" if "local.lr" in rates else rates[0]
    return table_from(given, assignments=[f"{key}={rate}"])


def _absolute(settings: Settings) -> dict[str, Any]:
    """Where the data lie, so that a run can be gone on with from any directory."""
    places: dict[str, Any] = {}
    if settings.data and settings.data not in readers.KNOWN and Path(settings.data).expanduser().exists():
        places["data"] = str(Path(settings.data).expanduser().resolve())
    if settings.data_dir:
        places["data_dir"] = str(Path(settings.data_dir).expanduser().resolve())
    if settings.own.table:
        places["own"] = {**settings.own.model_dump(), "table": str(Path(settings.own.table).expanduser().resolve())}
    return places


def resume_run(path: Path, show: Show, population: Population | None = None) -> dict[str, Any]:
    """Resume the run in this directory; a finished one just gives its result. Under torchrun every rank calls it.

    Args:
        population: its data, where that lies in memory.

    Raises:
        InputError: settings, data, clients or versions are no longer those that the run was started with; a
            checkpoint is damaged; another process works in the directory.
    """
    with multi_rank.open_on_ranks(path) as run:
        return _finish(run, multi_rank.agree_over_ranks(lambda: _experiment(run, population)), show)


def evaluate_run(
    path: Path, data: str | None, root: str | None, assignments: Iterable[str], show: Show
) -> dict[str, Any]:
    """The table of a finished run's algorithm, made afresh: on its own unseen clients, or on all clients of `data`."""
    run = RunDirectory.open(path)
    if run.result is None:
        raise InputError(f"the run in {path} is not finished: `seedbed resume {path}` first")
    assignments = list(assignments)
    load_assigned(assignments)
    changes = table_from(assignments=assignments)
    fixed = sorted(changes.keys() - JUDGING - ({"reader"} if data is not None else set()))
    if fixed:
        raise InputError(f"{fixed[0]} was settled when {path} was trained: only evaluation.* and the like can be set")
    if data is not None:
        changes |= {"data": data, "data_dir": root}
    elif root is not None:
        changes |= {"data_dir": root}
    settings = settings_from(run.manifest["settings"], changes)
    like = None if data is None else run.manifest["data"]["encoding"]
    split = divide(settings, population_for(settings, like))
    if data is None:
        refuse_changed_data(split, run)
    expected, population = Shape.of(run.manifest["shape"]), split.population
    inputs = tuple(population.x.shape[1:])
    if inputs != expected.inputs:
        raise InputError(f"{settings.data} has inputs of shape {inputs}, the run's {expected.inputs}")
    classes = tuple(run.manifest["data"]["classes"])
    if not expected.episodic and population.classes != classes:
        raise InputError(f"{settings.data} has the classes {population.classes}, the run's data {classes}")
    experiment = plan(split) if data is None else judging_all(plan(split))
    trained = trained_start(run, Learner(settings, expected))
    table = pipeline_for(run, experiment, show).table(trained, {}, experiment.unseen)
    return {**run.result, "unseen": table}


def trained_start(run: RunDirectory, learner: Learner) -> TrainedStart:
    """The start that a finished run has trained, read from its files."""
    settings = learner.settings
    require_same_code(run.manifest.get("code", {}), run.path)
    model = learner.model(catalogue.entry(settings.algorithm))
    algorithm = learner.algorithm(settings.algorithm, model, options=run.options())
    state = algorithm.init(model.params)
    path = run.path / "model.safetensors"
    if run.result is None or not path.exists():
        raise InputError(f"the run in {run.path} is not finished: `seedbed resume {run.path}` first")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != run.result["model_sha256"]:
        raise InputError(
            f"{path} holds {len(data)} bytes that are not those written: put it back, or remove result.json beside it "
            f"and `seedbed resume {run.path}` makes both again"
        )
    params = fill_template(state.params, tensors_from_bytes(data, str(path)), "params")
    return TrainedStart(settings.algorithm, model, state._replace(params=params), run.finetuning(), run.options())


def refuse_changed_data(split: ClientSplit, run: RunDirectory) -> None:
    """Data that is no longer what the run was started on."""
    if split.fingerprint != run.manifest["data"]["fingerprint"]:
        raise InputError(f"{split.settings.data} is no longer the data that {run.path} was started on: put it back")


def _experiment(run: RunDirectory, population: Population | None = None) -> RunPlan | None:
    """What the run in this directory is to compute, checked; None: it is done."""
    if run.result is not None and not run.has_rounds_to_add():
        return None
    settings = settings_from(run.manifest["settings"])
    split = divide(settings, population_for(settings) if population is None else population)
    refuse_changed_data(split, run)
    return plan(split)


def _finish(run: RunDirectory, experiment: RunPlan | None, show: Show) -> dict[str, Any]:
    """Whatever the run has not done yet."""
    if experiment is None:
        return _finished(run, run.result or {}, show)
    run.recover()
    for note in run.bind(_manifest(experiment)):
        show.note(note)
    try:
        if experiment.settings.folds is not None and experiment.settings.fold is None:
            return _finished(run, run_folds(run, experiment, partial(_run_fold, show=show), show), show)
        return _finished(run, pipeline_for(run, experiment, show).execute(), show)
    except KeyboardInterrupt as stop:
        raise Stopped(f"stopped; `seedbed resume {run.path}` goes on from the last checkpoint") from stop


def _run_fold(experiment: RunPlan, run: RunDirectory, fold: int, show: Show) -> dict[str, Any]:
    """The result of a fold's run: a new one, or one that is gone on with."""
    path = run.path / FOLDS / str(fold)
    manifest = None if (path / "manifest.json").exists() else _manifest(experiment)
    with multi_rank.open_on_ranks(path, manifest) as part:
        return _finish(part, None if part.result is not None else experiment, show)


def _finished(run: RunDirectory, result: dict[str, Any], show: Show) -> dict[str, Any]:
    show.finished(run)
    return result


def _manifest(experiment: RunPlan) -> dict[str, Any]:
    population, settings = experiment.population, experiment.settings
    code = sources([settings.loss, settings.metric, settings.model.name])
    return {
        "versions": versions(),
        **({"code": code} if code else {}),
        "settings": experiment.settings.model_dump(mode="json"),
        "shape": asdict(experiment.shape),
        "data": {
            "source": population.source,
            "clients": len(population),
            "examples": len(population.rows),
            "classes": list(population.classes),
            "notes": [*population.notes, *experiment.notes],
            "encoding": population.encoding,
            "fingerprint": experiment.fingerprint,
        },
        "clients": {
            "train": list(experiment.train.names),
            "validation": list(experiment.validation()[1].names),
            "unseen": list(experiment.unseen.names),
        },
    }
