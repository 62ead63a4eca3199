"""What is audited: a run's trained model, or the initial model that settings would start from; its algorithm, its data,
and what it promises.

Shapes: C clients.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed import randomness, tree
from seedbed.algorithms import catalogue
from seedbed.data.population import Population, RowIndices
from seedbed.data.sampling import Sampled
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.experiments.builder import AnyModel
from seedbed.experiments.compatibility import Case, Facts
from seedbed.experiments.config import (
    AuditSettings,
    PrivacySettings,
    SecureSettings,
    Settings,
    settings_from,
    table_from,
)
from seedbed.experiments.launch import plan_run, population_for, refuse_changed_data, trained_start
from seedbed.experiments.planning import divide, plan
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.run_plan import RunPlan
from seedbed.federated import Algorithm, ServerState
from seedbed.tree import Tree


@dataclass(frozen=True)
class Subject:
    """What an audit works on.

    Attributes:
        algorithm: the plain one, without the run's privacy and robust rule.
        state: of the plain algorithm: trained, or initial.
        own: what the run promises; None: nothing.
        reference: what it could promise: its own, or that of ε = audit.epsilon; None: it cannot be had.
    """

    experiment: RunPlan
    model: AnyModel
    algorithm: Algorithm
    state: ServerState
    own: PrivacyPromise | None
    reference: PrivacyPromise | None
    what: str
    options: Mapping[str, Any]
    folder: Path | None = None  # of the run, if it is one

    @property
    def settings(self) -> Settings:
        return self.experiment.settings

    @property
    def asked(self) -> AuditSettings:
        return self.experiment.settings.audit

    @property
    def entry(self) -> catalogue.CatalogueEntry:
        return catalogue.entry(self.settings.algorithm)

    @property
    def cohort(self) -> int:
        """Clients of a round."""
        known = len(self.experiment.train)
        return min(self.settings.cohort or known, known)

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """What to take off inputs and to divide them by, so that they lie in 0…1: of all images together, of a table
        column by column."""
        x = self.experiment.population.inputs(slice(None)).double()
        flat = x if len(self.experiment.shape.inputs) < 2 else x.flatten()
        low, high = flat.amin(0), flat.amax(0)
        return low, torch.where(high > low, high - low, 1.0)

    def scaled(self, x: Tensor) -> Tensor:
        """Inputs in 0…1, flat: [B, ...] -> [B, F]."""
        low, span = self.scale
        raw = x.double().reshape(len(x), *self.experiment.shape.inputs)
        return torch.flatten((raw - low) / span, 1)

    def sampled(self, population: Population, purpose: str = "audit") -> Sampled:
        """What clients work on in the run."""
        items = self.entry.items_for(self.options)
        return Sampled(population, self.experiment.sampler(items), seed=self.settings.seed, purpose=purpose)

    def messages(self, source: Sampled, round: int = 0) -> Tree:
        """What each client of the source sends, made by the run's own engine: leaves [C, ...]."""
        engine = self.experiment.engine(source, self.model)
        known = len(self.experiment.train)
        sent = {c: self.algorithm.send(self.state, c % known) for c in source.clients}
        groups = sorted(engine.ask(self.algorithm, sent, round), key=lambda g: g.clients[0])
        order = np.argsort([c for g in groups for c in g.clients])
        value: Tree = tree.index(tree.concatenate([g.messages.value for g in groups]), torch.as_tensor(order))
        return value

    def someone(self, count: int, purpose: str) -> list[int]:
        """Some known clients, drawn by the seed."""
        known = len(self.experiment.train)
        drawn = randomness.generator(self.settings.seed, purpose).permutation(known)[: min(count, known)]
        return sorted(int(c) for c in drawn)


def with_rows(population: Population, rows: Sequence[RowIndices]) -> Population:
    """Made-up clients that hold these rows."""
    sizes = np.array([len(r) for r in rows], np.int64)
    return replace(
        population,
        rows=np.concatenate(rows),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        names=tuple(f"made-up {i}" for i in range(len(rows))),
        unseen=(),
    )


def inputs_of(task: Task) -> Tensor:
    """The different inputs of one client's task: [B, ...]."""
    found = [part.x[(part.mask * task.real[:, None]) > 0] for part in tree.subtrees(task.items, Batch)]
    different: Tensor = torch.unique(torch.cat(found), dim=0)
    return different


# ---- where it comes from --------------------------------------------------------------------------------------------


def subject_of(place: Path | None, asked: Mapping[str, Any], assignments: Iterable[str]) -> Subject:
    """What is to be audited.

    Args:
        place: a run's directory, a settings file, or None: settings alone.
        asked, assignments: as of `plan`; for a run's directory only audit.* may be set.
    Raises:
        InputError: there is nothing to audit.
    """
    assignments = list(assignments)
    if place is not None and place.is_dir():
        return _of_run(place, asked, assignments)
    if place is not None and not place.exists():
        raise InputError(f"{place} is not there: name a run's directory or a settings file, or leave it out")
    experiment = _with_teacher(plan_run(asked, assignments, place, command="audit"))
    model, algorithm = _built(experiment, experiment.settings.options)
    what = f"{_words(experiment)}: the initial model"
    state = algorithm.init(model.params)
    return _subject(experiment, model, algorithm, state, what, experiment.settings.options)


def _of_run(path: Path, asked: Mapping[str, Any], assignments: Sequence[str]) -> Subject:
    run = RunDirectory.open(path)
    changes = table_from(assignments=assignments)
    settled = sorted((changes.keys() - {"audit"}) | {k for k, v in asked.items() if v is not None})
    if settled:
        raise InputError(f"{settled[0]} was settled when {path} was trained: only audit.* can be set")
    settings = settings_from(run.manifest["settings"], changes)
    population = population_for(settings)
    split = divide(settings, population, Case.of(settings, Facts.of(population, "audit")))
    refuse_changed_data(split, run)
    experiment = _with_teacher(plan(split))
    trained = trained_start(run, experiment.learner)
    _, algorithm = _built(experiment, trained.options)
    what = f"{_words(experiment)}: the trained model of {path}"
    found = _subject(experiment, trained.model, algorithm, trained.state, what, trained.options)
    return replace(found, folder=path)


def with_algorithm(subject: Subject, name: str) -> Subject:
    """The same data and model under another algorithm with its default settings, from its initial state, unprotected.

    Raises:
        InputError: it does not run on these data.
    """
    changes = {"algorithm": name, "options": {}, "privacy": PrivacySettings(), "secure": SecureSettings(), "tune": ()}
    experiment = _with_teacher(plan(divide(subject.settings.model_copy(update=changes), subject.experiment.population)))
    model, algorithm = _built(experiment, {})
    state = algorithm.init(model.params)
    return Subject(experiment, model, algorithm, state, None, None, f"{name} beside it", {})


def _with_teacher(experiment: RunPlan) -> RunPlan:
    """With an untrained teacher, where the algorithm learns from one."""
    entry, learner = catalogue.entry(experiment.settings.algorithm), experiment.learner
    if not entry.takes("teacher"):
        return experiment
    return replace(experiment, learner=learner.with_teacher(learner.initial_teacher(entry)))


def _built(experiment: RunPlan, options: Mapping[str, Any]) -> tuple[AnyModel, Algorithm]:
    entry, learner = catalogue.entry(experiment.settings.algorithm), experiment.learner
    model = learner.model(entry)
    return model, learner.algorithm(experiment.settings.algorithm, model, options=options)


def _subject(
    experiment: RunPlan,
    model: AnyModel,
    algorithm: Algorithm,
    state: ServerState,
    what: str,
    options: Mapping[str, Any],
) -> Subject:
    own = experiment.privacy
    return Subject(
        experiment, model, algorithm, state, own, own or _reference(experiment.settings, experiment), what, options
    )


def _reference(settings: Settings, experiment: RunPlan) -> PrivacyPromise | None:
    """The noise that ε = audit.epsilon would take with the run's rounds and cohort."""
    wished = settings.model_copy(update={"privacy": PrivacySettings(epsilon=settings.audit.epsilon)})
    try:
        return PrivacyPromise.of(wished, len(experiment.train))
    except InputError:
        return None


def _words(experiment: RunPlan) -> str:
    settings = experiment.settings
    return f"{settings.algorithm} on {experiment.population.source}, {len(experiment.train)} known clients"
