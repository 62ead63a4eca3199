"""Losses, metrics and models by name: this package's, those that a program registers, and `module:function`.

A `module:function` is imported only where it stands on this process's command line, or by `load` in Python: never
because a manifest, an agreement, a settings file or a model's file names it. These keep the name, and the sha256 of its
source for the record; what reads them says which option to repeat.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import nn

from seedbed.errors import InputError, closest_name
from seedbed.learning import objectives
from seedbed.learning.objectives import Loss
from seedbed.models import Model

Kind = Literal["loss", "metric", "model"]
KEYS: Mapping[str, Kind] = {"loss": "loss", "metric": "metric", "model.name": "model"}  # settings, by dotted name
AUTO = "auto"  # chosen by the data
ModelFactory = Callable[[tuple[int, ...], int], nn.Module | Model]  # (inputs, outputs) -> a module


@dataclass(frozen=True)
class MetricEntry:
    """A score of each example: (predictions [B, ...], y [B]) -> [B].

    Attributes:
        target: what it is for: classes, numbers, or any.
    """

    score: Loss
    higher_is_better: bool
    target: str = "any"


@dataclass(frozen=True)
class LossEntry:
    """What clients minimise, for each example: (predictions [B, ...], y [B]) -> [B]."""

    loss: Loss
    target: str = "any"


LOSSES: dict[str, LossEntry] = {
    "cross_entropy": LossEntry(objectives.cross_entropy, "classes"),
    "squared_error": LossEntry(objectives.squared_error, "numbers"),
}
METRICS: dict[str, MetricEntry] = {
    "accuracy": MetricEntry(objectives.correct, True, "classes"),
    "log_loss": MetricEntry(objectives.cross_entropy, False, "classes"),
    "squared_error": MetricEntry(objectives.squared_error, False, "numbers"),
}
MODELS: dict[str, ModelFactory] = {}  # beside mlp, linear and conv
BUILT_IN_MODELS = ("mlp", "linear", "conv")
SOURCES: dict[str, str] = {}  # the sha256 of the source of what was loaded, by module:function


def register_loss(name: str, loss: Loss) -> None:
    LOSSES[name] = LossEntry(loss)


def register_metric(name: str, score: Loss, *, higher_is_better: bool = True) -> None:
    METRICS[name] = MetricEntry(score, higher_is_better)


def register_model(name: str, factory: ModelFactory) -> None:
    MODELS[name] = factory


def is_code(name: str) -> bool:
    """Whether a name is `module:function`."""
    return ":" in name


def load(kind: Kind, name: str) -> None:
    """Import a `module:function` and register it under that name; a name without a colon is left to the registry.

    Raises:
        InputError: it cannot be imported, or is no function.
    """
    if not is_code(name):
        return
    module, _, function = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: a file beside the command
    try:
        found: Any = getattr(import_module(module), function)
    except Exception as error:  # whatever the module raises
        raise InputError(f"{kind}={name} cannot be imported ({type(error).__name__}: {error}): correct it") from error
    if not callable(found):
        raise InputError(f"{kind}={name} is not a function: name one")
    SOURCES[name] = _digest(found)
    if kind == "loss":
        register_loss(name, found)
    elif kind == "metric":
        register_metric(name, found, higher_is_better=bool(getattr(found, "higher_is_better", True)))
    else:
        register_model(name, found)


def load_assigned(assignments: Iterable[str]) -> None:
    """Import what `--set` words of the command line name."""
    for word in assignments:
        key, _, value = word.partition("=")
        if key.strip() in KEYS:
            load(KEYS[key.strip()], value.strip().strip("'\""))


def find(kind: Kind, name: str) -> Any:
    """What a name is registered for.

    Raises:
        InputError: nothing; where it is code that a file names, which option to repeat.
    """
    registries: dict[str, Mapping[str, Any]] = {"loss": LOSSES, "metric": METRICS, "model": MODELS}
    known = registries[kind]
    if name in known:
        return known[name]
    if is_code(name):
        raise InputError(
            f"{kind}={name} names code, which is imported from the command line only: repeat --{kind} {name}"
        )
    names = [AUTO, *known, *(BUILT_IN_MODELS if kind == "model" else ())]
    raise InputError(f"unknown {kind} {name!r}: {closest_name(name, names)}; or --{kind} MODULE:FUNCTION")


def sources(names: Iterable[str]) -> dict[str, str]:
    """The sha256 of the source of each of these names that is code, for the record."""
    return {name: SOURCES[name] for name in names if name in SOURCES}


def require_same_code(recorded: Mapping[str, str], where: object) -> None:
    """
    Raises:
        InputError: what was loaded in this process is not what a file has recorded.
    """
    for name, digest in recorded.items():
        if name in SOURCES and SOURCES[name] != digest:
            raise InputError(f"{name} has changed since {where} was made by it: restore its source")


def _digest(found: Any) -> str:
    """Of the file that holds it; of what has none, of its name."""
    try:
        source = Path(inspect.getsourcefile(found) or "").read_bytes()
    except (TypeError, OSError):
        source = repr(getattr(found, "__qualname__", type(found).__qualname__)).encode()
    return hashlib.sha256(source).hexdigest()
