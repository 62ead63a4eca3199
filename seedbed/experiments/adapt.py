"""A client's own model: grown from a trained start and a few examples, saved so that anybody can load it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from seedbed import tree
from seedbed.algorithms import catalogue
from seedbed.data import readers
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.evaluation import per_example
from seedbed.experiments.builder import OF_NET, AnyModel, Learner, Shape, build_model
from seedbed.experiments.config import ModelSettings, settings_from
from seedbed.experiments.launch import trained_start
from seedbed.experiments.run_directory import RunDirectory
from seedbed.federated import NEWCOMER, Algorithm
from seedbed.learning.effects import COVARIANCE, NOISE, input_effects, with_effects
from seedbed.learning.finetuning import FineTuning
from seedbed.learning.objectives import Predict
from seedbed.limits import first_line_of, from_json
from seedbed.models import Model, ModelZoo
from seedbed.models.split import SplitNet
from seedbed.serialization import tensors_from_bytes, trees_to_bytes, write_atomically
from seedbed.tree import Tree

BESIDE = (COVARIANCE, NOISE)  # what a posterior has beside the model


@dataclass(frozen=True)
class PersonalModel:
    """A client's own model.

    Attributes:
        params: by the module's names.  classes: what the outputs stand for; empty for a regression.
        calibrated: how a client with a posterior predicts; None: as the model does.
    """

    model: Model
    params: Mapping[str, Tensor]
    classes: tuple[str, ...]
    calibrated: Predict | None = None

    def predict(self, x: Tensor) -> Tensor:
        """[B, ...] inputs -> [B, N] logits, or [B, targets] numbers."""
        predict = self.model.predict if self.calibrated is None else self.calibrated
        return predict(dict(self.params), x)


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
    if out.exists():
        raise InputError(f"{out} exists: choose another --out")
    start = start if isinstance(start, AdaptationStart) else start_of_run(start)
    learner, shape, encoding = start.learner, start.learner.shape, start.encoding
    examples = readers.read_like(support, encoding, client=client)
    asked = None if query is None else readers.read_like(query, encoding, client=client)
    if asked is not None and asked.classes != examples.classes:
        raise InputError(
            f"{query} has the classes {asked.classes}, the support set {examples.classes}: they must agree"
        )
    ways = len(examples.classes)
    shots = max(1, len(examples.rows) // ways) if shape.episodic else len(examples.rows)
    algorithm = learner.algorithm(
        start.name,
        start.model,
        options=start.options,
        finetuning=start.finetuning(shots),
        ways=ways or None,
        test_steps=steps,
    )
    sent = start.sent(algorithm)
    kept = algorithm.remember(sent) if start.kept is None else start.kept
    params = algorithm.personalise(sent, kept, tree.to_device_of(_batch(examples), sent))
    model, asked_model = start.model, learner.asked_model(catalogue.entry(start.name))
    how = start.finetuning(shots)
    if learner.is_exact(start.name) and how is not None and how.layers in OF_NET:
        model, asked_model = learner.net(), learner.settings.model
    if isinstance(model, ModelZoo):
        word = model.meant(params)
        model, asked_model, params = model.models[word], asked_model.like(word), params[word]
    whole = {n: p for n, p in params.items() if n in model.params or n in BESIDE}
    metadata = {
        "kind": "seedbed personal model",
        "model": asked_model.model_dump_json(),
        "split": json.dumps(isinstance(model.module, SplitNet)),
        "inputs": json.dumps(shape.inputs),
        "classes": json.dumps(examples.classes),
        "algorithm": start.name,
        "targets": str(shape.targets),
        **_uncertain(whole, start, len(examples.rows)),
    }
    write_atomically(out, trees_to_bytes(whole, metadata))
    scores: dict[str, float] = {}
    if asked is not None:
        predict = _predict(model, metadata)
        score = learner.metric(model) if predict is None else per_example(predict, learner.loss)
        scores["the query set"] = float(score(whole, tree.to_device_of(_batch(asked), whole)))
    return AdaptResult(out, len(examples.rows), examples.classes, scores, learner.metric_name)


def _uncertain(params: Mapping[str, Tensor], start: "AdaptationStart", examples: int) -> dict[str, str]:
    """Which inputs the effects of a client with a posterior are on; nothing for other models."""
    if COVARIANCE not in params:
        return {}
    how = start.finetuning(examples)
    places = start.options.get("slopes", ()) if how is not None and how.layers == "slopes" else ()
    return {"effects": json.dumps(list(places))}


def _predict(model: AnyModel, metadata: Mapping[str, str]) -> Predict | None:
    """The predictive distribution of a client with effects; None: it has none."""
    if "effects" not in metadata:
        return None
    assert isinstance(model, Model)
    return with_effects(model.predict, input_effects(json.loads(metadata["effects"]), head=model.head))


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


def start_of_run(directory: Path) -> AdaptationStart:
    """What a client that was never seen in training adapts from."""
    run = RunDirectory.open(directory)
    manifest = run.manifest
    learner = Learner(settings_from(manifest["settings"]), Shape.of(manifest["shape"]))
    trained = trained_start(run, learner)

    def sent(algorithm: Algorithm) -> Tree:
        return algorithm.send(trained.state, NEWCOMER)

    encoding = manifest["data"]["encoding"]
    return AdaptationStart(
        learner, encoding, trained.name, trained.model, trained.options, trained.finetuning_for, sent
    )


def _batch(population: Population) -> Batch:
    """All examples of a population of one client: [B, ...]."""
    task = Sampled(population, batches(None)).tasks([0], 0)
    batch: Batch = tree.index(tree.index(task.items, 0), 0)
    return batch


def load_personal(path: str | Path) -> PersonalModel:
    """A model that `seedbed adapt` has written.

    Raises:
        InputError: it is no such file, or damaged.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
    except Exception as error:  # safetensors raises its own and the file system's
        raise InputError(f"{path} cannot be read as safetensors ({error})") from error
    if metadata.get("kind") != "seedbed personal model":
        raise InputError(f"{path} was not written by `seedbed adapt`")
    params = tensors_from_bytes(path.read_bytes(), str(path))
    try:
        asked = ModelSettings.model_validate_json(metadata["model"])
        classes, inputs = from_json(metadata["classes"]), from_json(metadata["inputs"])
        outputs, split = len(classes) or int(metadata["targets"]), bool(from_json(metadata["split"]))
        with torch.device("meta"):  # what it says must fit what it holds, before memory is taken
            named = build_model(asked, inputs, outputs, split=split).params
        held = {name: x for name, x in params.items() if name not in BESIDE}
        room = 2 * sum(
            x.numel() for x in held.values()
        )  # a head of one part may have more outputs than there are classes
        if named.keys() != held.keys() or sum(x.numel() for x in named.values()) > room:
            raise ValueError("its tensors are not those of the model that it names")
        model = build_model(asked, inputs, outputs, split=split)
        return PersonalModel(model, params, tuple(map(str, classes)), _predict(model, metadata))
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({first_line_of(error)}): make it again by `seedbed adapt`") from error
