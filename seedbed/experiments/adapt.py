"""A client's own model: grown from a trained start and a few examples, saved so that anybody can load it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from seedbed import tree
from seedbed.algorithms import catalogue
from seedbed.data import readers
from seedbed.data.population import Population
from seedbed.data.readers.new_rows import OwnScales, read_clients_like
from seedbed.data.sampling import Sampled, batches
from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.evaluation import without_adaptation
from seedbed.experiments.builder import OF_NET, AnyModel, Learner, Shape
from seedbed.experiments.config import settings_from
from seedbed.experiments.conformal import interval_for
from seedbed.experiments.launch import trained_start
from seedbed.experiments.personal_model import (
    BESIDE,
    Interval,
    PersonalModel,
    build_personal,
    describe_encoding,
    load_personal,
    personal_bytes,
)
from seedbed.experiments.run_directory import RunDirectory
from seedbed.federated import NEWCOMER, Algorithm, Params
from seedbed.learning.adaptations import unadapted
from seedbed.learning.effects import COVARIANCE
from seedbed.learning.finetuning import FineTuning
from seedbed.learning.objectives import masked_mean
from seedbed.models import ModelZoo
from seedbed.models.split import SplitNet
from seedbed.serialization import explain_write_errors, write_atomically
from seedbed.temporary import fresh_name
from seedbed.tree import Tree

__all__ = [
    "AdaptAllResult",
    "AdaptResult",
    "AdaptationStart",
    "PersonalModel",
    "adapt_all",
    "adapt_client",
    "load_personal",
    "start_model",
    "start_of_run",
]
SUFFIX, START_FILE = ".safetensors", "start.safetensors"


@dataclass(frozen=True)
class AdaptResult:
    """What `seedbed adapt` did."""

    out: Path
    examples: int
    classes: tuple[str, ...]
    scores: Mapping[str, float]
    metric: str

    def lines(self) -> list[str]:
        what = f" of {len(self.classes)} classes ({', '.join(self.classes[:10])})" if self.classes else ""
        lines = [f"{self.out}: grown from {self.examples} examples{what}"]
        return lines + [f"{self.metric} on {name}: {score:.4g}" for name, score in self.scores.items()]


@dataclass(frozen=True)
class AdaptAllResult:
    """What `seedbed adapt --all` did."""

    out: Path
    clients: int
    examples: int
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        made = f"{self.out}: models of {self.clients} clients, grown from {self.examples} examples, and the start"
        return [made, *self.notes]


def adapt_client(
    start: "AdaptationStart | Path",
    support: Path,
    out: Path,
    *,
    steps: int | None = None,
    query: Path | None = None,
    client: str | None = None,
) -> AdaptResult:
    """Adapt a run's start to a support set and write the model.

    Args:
        start: a run's directory, whose start a newcomer adapts; or what `seedbed.deployment.adapt` reads of a member.
        steps: adaptation steps; None: the algorithm's own, or those that validation clients liked best.
        query: labelled examples to score the model on.
        client: whose examples, where the files hold several clients'.
    Raises:
        InputError: the support set cannot be read as the run's data was, or `out` exists.
    """
    _refuse_existing(out)
    start = start if isinstance(start, AdaptationStart) else start_of_run(start)
    encoding = start.encoding
    examples = readers.read_like(support, encoding, client=client)
    asked = None if query is None else readers.read_like(query, encoding, client=client)
    if asked is not None and asked.classes != examples.classes:
        raise InputError(
            f"{query} has the classes {asked.classes}, the support set {examples.classes}: they must agree"
        )
    own = OwnScales(support, encoding).of(client)
    params, metadata = Grower(start, steps).grow(examples, client or "", own)
    write_atomically(out, personal_bytes(params, metadata))
    scores: dict[str, float] = {}
    if asked is not None:
        model = build_personal(params, metadata)
        batch = tree.to_device_of(_batch(asked), params)
        scores["the query set"] = float(masked_mean(start.learner.score(model.predict(batch.x), batch.y), batch.mask))
    return AdaptResult(out, len(examples.rows), examples.classes, scores, start.learner.metric_name)


def adapt_all(start: "AdaptationStart | Path", support: Path, out: Path, *, steps: int | None = None) -> AdaptAllResult:
    """Adapt a run's start to every client of a file; write each one's model, and the start, into a new folder.

    Raises:
        InputError: the file cannot be read as the run's data was, or `out` exists.
    """
    _refuse_existing(out)
    start = start if isinstance(start, AdaptationStart) else start_of_run(start)
    people = read_clients_like(support, start.encoding)
    own, grower = OwnScales(support, start.encoding), Grower(start, steps)
    digits = len(str(len(people)))
    with explain_write_errors(out, go_on="choose another --out"), fresh_name(out, is_folder=True) as folder:
        (folder / START_FILE).write_bytes(personal_bytes(*grower.unadapted()))
        for place, (name, examples) in enumerate(_each(people), start=1):
            grown = grower.grow(examples, name, own.of(name))
            (folder / f"client-{place:0{digits}d}{SUFFIX}").write_bytes(personal_bytes(*grown))
        os.replace(folder, out)
    return AdaptAllResult(out, len(people), len(people.rows), people.notes)


def start_model(start: "AdaptationStart | Path") -> PersonalModel:
    """The start as it is, as a model that predicts."""
    start = start if isinstance(start, AdaptationStart) else start_of_run(start)
    return build_personal(*Grower(start, None).unadapted())


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise InputError(f"{out} exists: choose another --out")


def _each(people: Population) -> Iterator[tuple[str, Population]]:
    for place, name in enumerate(people.names):
        yield name, people.only([place])


class Grower:
    """Grows clients' models from a start.

    Args:
        steps: adaptation steps; None: as chosen.
    """

    def __init__(self, start: "AdaptationStart", steps: int | None):
        self.start, self.steps = start, steps
        self._algorithms: dict[tuple[FineTuning | None, int | None], Algorithm] = {}

    def grow(
        self, examples: Population, client: str, own: list[Mapping[str, Any]] | None = None
    ) -> tuple[Params, dict[str, str]]:
        """A client's params, and what its file says beside them.

        Args:
            examples: of this client only.
            own: its columns, where numbers are standardised by each client's own.
        """
        start, shape = self.start, self.start.learner.shape
        ways = len(examples.classes)
        shots = max(1, len(examples.rows) // ways) if shape.episodic else len(examples.rows)
        how = start.finetuning(shots)
        algorithm = self._algorithm(how, ways or None)
        sent = start.sent(algorithm)
        kept = algorithm.remember(sent) if start.kept is None else start.kept
        params = algorithm.personalise(sent, kept, tree.to_device_of(_batch(examples), sent))
        layers = "none" if how is None else how.layers
        encoding = start.encoding if own is None else {**start.encoding, "columns": own}
        about = describe_encoding(encoding, client, start.interval(shots))
        return self._described(params, examples.classes, layers, about)

    def unadapted(self) -> tuple[Params, dict[str, str]]:
        """The start's params, and what its file says beside them."""
        start = self.start
        if start.learner.shape.episodic:
            raise InputError("the classes of an episode are new to the start: it predicts nothing before it is adapted")
        algorithm = without_adaptation(self._algorithm(FineTuning("none") if self._is_exact else None, None), unadapted)
        sent = start.sent(algorithm)
        classes = tuple(start.encoding["target"].get("classes", ()))
        params = algorithm.personalise(sent, algorithm.remember(sent), None)  # type: ignore[arg-type]
        return self._described(params, classes, "none", describe_encoding(start.encoding, "", start.interval(0)))

    @property
    def _is_exact(self) -> bool:
        return self.start.learner.is_exact(self.start.name)

    def _algorithm(self, how: FineTuning | None, ways: int | None) -> Algorithm:
        if (how, ways) not in self._algorithms:
            start = self.start
            self._algorithms[how, ways] = start.learner.algorithm(
                start.name, start.model, options=start.options, finetuning=how, ways=ways, test_steps=self.steps
            )
        return self._algorithms[how, ways]

    def _described(
        self, params: Params, classes: tuple[str, ...], layers: str, about: Mapping[str, str]
    ) -> tuple[Params, dict[str, str]]:
        start, learner = self.start, self.start.learner
        model, asked = start.model, learner.asked_model(catalogue.entry(start.name))
        if self._is_exact and layers in OF_NET:
            model, asked = learner.net(), learner.settings.model
        if isinstance(model, ModelZoo):
            word = model.meant(params)
            model, asked, params = model.models[word], asked.like(word), params[word]
        whole = {n: p for n, p in params.items() if n in model.params or n in BESIDE}
        metadata = {
            "model": asked.model_dump_json(),
            "split": json.dumps(isinstance(model.module, SplitNet)),
            "inputs": json.dumps(learner.shape.inputs),
            "classes": json.dumps(classes),
            "algorithm": start.name,
            "targets": str(learner.shape.targets),
            **_uncertain(whole, start, layers),
            **about,
        }
        return whole, metadata


def _uncertain(params: Mapping[str, Tensor], start: "AdaptationStart", layers: str) -> dict[str, str]:
    """Which inputs the effects of a client with a posterior are on; nothing for other models."""
    if COVARIANCE not in params:
        return {}
    return {"effects": json.dumps(list(start.options.get("slopes", ()) if layers == "slopes" else ()))}


class AdaptationStart(NamedTuple):
    """What a client adapts from."""

    learner: Learner
    encoding: dict[str, Any]
    name: str
    model: AnyModel
    options: Mapping[str, Any]
    finetuning: Callable[[int], FineTuning | None]  # by the number of shots
    sent: Callable[[Algorithm], Tree]
    kept: Tree | None = None  # what the client has kept; None: nothing, as a newcomer
    intervals: Mapping[str, Any] = {}  # of predicted numbers, by row of the table and before adaptation

    def interval(self, examples: int) -> Interval | None:
        """Of a client with so many examples, 0: before it adapts; None: none was learned."""
        return interval_for(self.intervals, examples)


def start_of_run(directory: Path) -> AdaptationStart:
    """What a client that was never seen in training adapts from."""
    run = RunDirectory.open(directory)
    manifest = run.manifest
    learner = Learner(settings_from(manifest["settings"]), Shape.of(manifest["shape"]))
    trained = trained_start(run, learner)

    def sent(algorithm: Algorithm) -> Tree:
        return algorithm.send(trained.state, NEWCOMER)

    encoding = manifest["data"]["encoding"]
    intervals = ((run.result or {}).get("choice") or {}).get("intervals") or {}
    return AdaptationStart(
        learner, encoding, trained.name, trained.model, trained.options, trained.finetuning_for, sent,
        intervals=intervals,
    )  # fmt: skip


def _batch(population: Population) -> Batch:
    """All examples of a population of one client: [B, ...]."""
    task = Sampled(population, batches(None)).tasks([0], 0)
    batch: Batch = tree.index(tree.index(task.items, 0), 0)
    return batch
