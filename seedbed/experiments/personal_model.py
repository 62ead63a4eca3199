"""A client's own model as a file: its params, and all that is needed to read new rows and to predict in their units.

Shapes: B examples, N outputs.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from seedbed.data.encoding.places import width_of
from seedbed.errors import InputError
from seedbed.experiments.builder import build_model
from seedbed.experiments.config import ModelSettings
from seedbed.federated import Params
from seedbed.learning.effects import COVARIANCE, NOISE, Effects, input_effects, predictive_variance, with_effects
from seedbed.limits import first_line_of, from_json
from seedbed.models import Model
from seedbed.serialization import tensors_from_bytes, trees_to_bytes

BESIDE = (COVARIANCE, NOISE)  # what a posterior has beside the model
KIND = "seedbed personal model"
AGAIN = "make it again by `seedbed adapt`"
Floats = npt.NDArray[np.float64]
Spread = Callable[[Params, Tensor], Tensor]  # inputs -> standard deviations of their predictions [B]


class Interval(NamedTuple):
    """How wide prediction intervals are: learned on known clients.

    Attributes:
        level: the share of rows that they cover.
        quantile: half the width; in standard deviations of the predictive distribution, where there is one.
        clients: how many it was learned on.
    """

    level: float
    quantile: float
    clients: int


@dataclass(frozen=True)
class PersonalModel:
    """A client's own model.

    Attributes:
        params: by the module's names.
        classes: what the outputs stand for; empty for a regression.
        effects: which effects a client with a posterior has; None: it has none.
        encoding: how rows become inputs and targets numbers, as `Population.encoding`.
        client: whose it is; "" for the start, or where the examples had no client column.
        interval: of predicted numbers; None: none was learned.
        metadata: what its file says.
    """

    model: Model
    params: Mapping[str, Tensor]
    classes: tuple[str, ...]
    effects: Effects | None = None
    encoding: Mapping[str, Any] = field(default_factory=dict)
    client: str = ""
    interval: Interval | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def predict(self, x: Tensor) -> Tensor:
        """[B, ...] inputs -> [B, N] logits, or [B, targets] numbers, calibrated where the client has a posterior."""
        predict = self.model.predict if self.effects is None else with_effects(self.model.predict, self.effects)
        return predict(dict(self.params), x)

    def probabilities(self, x: Tensor) -> Floats:
        """[B, N] of the classes."""
        shares: Floats = self.predict(x).double().softmax(1).detach().numpy()
        return shares

    def numbers(self, x: Tensor) -> Floats:
        """[B, targets] in the target's own units."""
        scale = self.encoding.get("target", {})
        outputs: Floats = self.predict(x).double().detach().numpy()
        return outputs * float(scale.get("std", 1.0)) + float(scale.get("mean", 0.0))

    def half_widths(self, x: Tensor) -> Floats | None:
        """[B] half of each prediction interval, in the target's own units; None: no interval was learned."""
        if self.interval is None:
            return None
        std = float(self.encoding.get("target", {}).get("std", 1.0))
        found: Floats = self.deviations(x).detach().numpy() * self.interval.quantile * std
        return found

    def deviations(self, x: Tensor) -> Tensor:
        """[B] standard deviations of the predictive distribution; 1 where there is none."""
        return spread_of(self.effects)(dict(self.params), x)


def spread_of(effects: Effects | None) -> Spread:
    """Standard deviations of the predictive distribution of clients with effects; 1 for others."""

    def spread(params: Params, x: Tensor) -> Tensor:
        if effects is None or COVARIANCE not in params:
            return x.new_ones(len(x), dtype=torch.float64)
        return predictive_variance(params, effects, x).sqrt()

    return spread


def personal_bytes(params: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A personal model as the bytes of its file."""
    return trees_to_bytes(dict(params), {"kind": KIND, **metadata})


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
    if metadata.get("kind") != KIND:
        raise InputError(f"{path} was not written by `seedbed adapt`")
    params = tensors_from_bytes(path.read_bytes(), str(path))
    try:
        return build_personal(params, metadata)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError, OverflowError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({first_line_of(error)}): {AGAIN}") from error


def build_personal(params: Mapping[str, Tensor], metadata: Mapping[str, str]) -> PersonalModel:
    """The model that metadata names, once it fits the params.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: it does not.
    """
    asked = ModelSettings.model_validate_json(metadata["model"])
    classes, inputs = from_json(metadata["classes"]), from_json(metadata["inputs"])
    outputs, split = len(classes) or int(metadata["targets"]), bool(from_json(metadata["split"]))
    with torch.device("meta"):  # what it says must fit what it holds, before memory is taken
        named = build_model(asked, inputs, outputs, split=split).params
    held = {name: x for name, x in params.items() if name not in BESIDE}
    room = 2 * sum(x.numel() for x in held.values())  # a head of one part may have more outputs than classes
    if named.keys() != held.keys() or sum(x.numel() for x in named.values()) > room:
        raise ValueError("its tensors are not those of the model that it names")
    model = build_model(asked, inputs, outputs, split=split)
    effects = None
    if "effects" in metadata:
        effects = input_effects(places_from(metadata["effects"], inputs), head=model.head)
    encoding = from_json(metadata.get("encoding", "{}"))
    refuse_misfit(encoding, inputs)
    interval = interval_from(from_json(metadata["interval"])) if "interval" in metadata else None
    client = metadata.get("client", "")
    return PersonalModel(model, params, tuple(map(str, classes)), effects, encoding, client, interval, metadata)


def refuse_misfit(encoding: Any, inputs: Any) -> None:
    """
    Raises:
        ValueError: the encoding is no table, or gives other inputs than the model takes.
    """
    if not isinstance(encoding, dict):
        raise ValueError("its encoding is no table of keys and values")
    if encoding.get("format") == "table" and [sum(map(width_of, encoding["columns"]))] != list(inputs):
        raise ValueError("its columns are not those of the model that it names")


def places_from(text: str, inputs: list[int]) -> list[int]:
    """The inputs with slopes.

    Raises:
        ValueError: the model has no such inputs.
    """
    places = from_json(text)
    if not isinstance(places, list) or not all(type(place) is int and 0 <= place < inputs[0] for place in places):
        raise ValueError("its effects are on inputs that the model does not have")
    return places


def interval_from(values: Any) -> Interval:
    """From a file's list.

    Raises:
        ValueError, TypeError: it is none.
    """
    level, quantile, clients = values
    if not (0 < float(level) < 1 and 0 <= float(quantile) < math.inf):
        raise ValueError("its interval is none")
    return Interval(float(level), float(quantile), int(clients))


def describe_encoding(encoding: Mapping[str, Any], client: str, interval: Interval | None) -> dict[str, str]:
    """The part of a file's metadata that says how to read new rows."""
    told = {"encoding": json.dumps(encoding), "client": client}
    return told if interval is None else {**told, "interval": json.dumps(list(interval))}
