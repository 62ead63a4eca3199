"""The subject of an audit: a run's trained model or a settings' initial model, with its algorithm, data and promise.

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
    """The subject of an audit.

    Attributes:
        algorithm: the plain algorithm, without the run's privacy and robust rule.
        state: of the plain algorithm: trained or initial.
        own: the run's privacy promise; None: it makes none.
        reference: the run's promise, else one with ε = audit.epsilon; None: not possible.
    """

    experiment: RunPlan
    model: AnyModel
    algorithm: Algorithm
    state: ServerState
    own: PrivacyPromise | None
    reference: PrivacyPromise | None
    what: str
    options: Mapping[str, Any]
    folder: Path | None = None  # the run's directory, if it is a run

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
        """Clients per round."""
        known = len(self.experiment.train)
        return min(self.settings.cohort or known, known)

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """(low, span) with which (x − low) / span lies in 0…1: common to all pixels of images, per column of a
        table."""
        x = self.experiment.population.inputs(slice(None)).double()
        flat = x if len(self.experiment.shape.inputs) < 2 else x.flatten()
        low, high = flat.amin(0), flat.amax(0)
        return low, torch.where(high > low, high - low, 1.0)

    def scaled(self, x: Tensor) -> Tensor:
        """Inputs scaled to 0…1 and flattened: [B, ...] → [B, F]."""
        low, span = self.scale
        raw = x.double().reshape(len(x), *self.experiment.shape.inputs)
        return torch.flatten((raw - low) / span, 1)

    def sampled(self, population: Population, purpose: str = "audit") -> Sampled:
        """The run's tasks for these clients."""
        items = self.entry.items_for(self.options)
        return Sampled(population, self.experiment.sampler(items), seed=self.settings.seed, purpose=purpose)

    def messages(self, source: Sampled, round: int = 0) -> Tree:
        """Each client's message, computed by the run's engine: leaves [C, ...]."""
        engine = self.experiment.engine(source, self.model)
        known = len(self.experiment.train)
        sent = {c: self.algorithm.send(self.state, c % known) for c in source.clients}
        groups = sorted(engine.ask(self.algorithm, sent, round), key=lambda g: g.clients[0])
        order = np.argsort([c for g in groups for c in g.clients])
        value: Tree = tree.index(tree.concatenate([g.messages.value for g in groups]), torch.as_tensor(order))
        return value

    def someone(self, count: int, purpose: str) -> list[int]:
        """Random known clients, drawn by the seed."""
        known = len(self.experiment.train)
        drawn = randomness.generator(self.settings.seed, purpose).permutation(known)[: min(count, known)]
        return sorted(int(c) for c in drawn)


def with_rows(population: Population, rows: Sequence[RowIndices]) -> Population:
    """Artificial clients with these rows."""
    sizes = np.array([len(r) for r in rows], np.int64)
    return replace(
        population,
        rows=np.concatenate(rows),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        names=tuple(f"made-up {i}" for i in range(len(rows))),
        unseen=(),
    )


def inputs_of(task: Task) -> Tensor:
    """The distinct inputs of one client's task: [B, ...]."""
    inputs = [part.x[(part.mask * task.real[:, None]) > 0] for part in tree.subtrees(task.items, Batch)]
    distinct: Tensor = torch.unique(torch.cat(inputs), dim=0)
    return distinct


# ---- loading ---------------------------------------------------------------------------------------------------------


def subject_of(place: Path | None, asked: Mapping[str, Any], assignments: Iterable[str]) -> Subject:
    """Load the subject of an audit.

    Args:
        place: a run's directory, a settings file, or None for settings only.
        asked, assignments: as for `plan_run`; for a run's directory only audit.* may be set.
    Raises:
        InputError: there is nothing to audit.
    """
    assignments = list(assignments)
    if place is not None and place.is_dir():
        return _of_run(place, asked, assignments)
    if place is not None and not place.exists():
        raise InputError(f"{place} does not exist: name a run's directory or a settings file, or leave it out")
    experiment = _with_teacher(plan_run(asked, assignments, place, command="audit"))
    model, algorithm = _build(experiment, experiment.settings.options)
    what = f"{_words(experiment)}: the initial model"
    state = algorithm.init(model.params)
    return _subject(experiment, model, algorithm, state, what, experiment.settings.options)


def _of_run(path: Path, asked: Mapping[str, Any], assignments: Sequence[str]) -> Subject:
    run = RunDirectory.open(path)
    changes = table_from(assignments=assignments)
    settled = sorted((changes.keys() - {"audit"}) | {k for k, v in asked.items() if v is not None})
    if settled:
        raise InputError(f"{settled[0]} was fixed when {path} was trained: only audit.* can be set")
    settings = settings_from(run.manifest["settings"], changes)
    population = population_for(settings)
    split = divide(settings, population, Case.of(settings, Facts.of(population, "audit")))
    refuse_changed_data(split, run)
    experiment = _with_teacher(plan(split))
    trained = trained_start(run, experiment.learner)
    _, algorithm = _build(experiment, trained.options)
    what = f"{_words(experiment)}: the trained model of {path}"
    subject = _subject(experiment, trained.model, algorithm, trained.state, what, trained.options)
    return replace(subject, folder=path)


def with_algorithm(subject: Subject, name: str) -> Subject:
    """The same data and model with another algorithm in its initial state: default settings, no privacy.

    Raises:
        InputError: the algorithm does not run on these data.
    """
    changes = {"algorithm": name, "options": {}, "privacy": PrivacySettings(), "secure": SecureSettings(), "tune": ()}
    experiment = _with_teacher(plan(divide(subject.settings.model_copy(update=changes), subject.experiment.population)))
    model, algorithm = _build(experiment, {})
    state = algorithm.init(model.params)
    return Subject(experiment, model, algorithm, state, None, None, f"{name} for comparison", {})


def _with_teacher(experiment: RunPlan) -> RunPlan:
    """The plan with an untrained teacher, if the algorithm learns from one."""
    entry, learner = catalogue.entry(experiment.settings.algorithm), experiment.learner
    if not entry.takes("teacher"):
        return experiment
    return replace(experiment, learner=learner.with_teacher(learner.initial_teacher(entry)))


def _build(experiment: RunPlan, options: Mapping[str, Any]) -> tuple[AnyModel, Algorithm]:
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
    """The promise of ε = audit.epsilon with the run's rounds and cohort."""
    wished = settings.model_copy(update={"privacy": PrivacySettings(epsilon=settings.audit.epsilon)})
    try:
        return PrivacyPromise.of(wished, len(experiment.train))
    except InputError:
        return None


def _words(experiment: RunPlan) -> str:
    settings = experiment.settings
    return f"{settings.algorithm} on {experiment.population.source}, {len(experiment.train)} known clients"
