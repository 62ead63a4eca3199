"""What a run can be told: a TOML file, `--set key=value`, or Python. Everything has a default.

data = "digits"
algorithm = "fed_proto"
rounds = 300
[task]
ways = 5
[options]                # the algorithm's own, by the names in its factory
outer.lr = 0.003
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from seedbed.errors import InputError, nearest

Positive = Annotated[int, Field(ge=1)]
Several = Annotated[  # at least one; a number alone is one
    tuple[Positive, ...], Field(min_length=1), BeforeValidator(lambda k: (k,) if isinstance(k, int) else k)
]


def _part(value: float) -> float:
    if not (value >= 1 if isinstance(value, int) else 0 < value < 1):
        raise ValueError("give a fraction between 0 and 1, or a whole number from 1 up")
    return value


Part = Annotated[int | float, AfterValidator(_part)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSettings(Section):
    """What clients work on in training."""

    ways: int = Field(default=5, ge=2, description="episodes: classes")
    shots: Annotated[tuple[Positive, Positive], BeforeValidator(lambda k: (k, k) if isinstance(k, int) else k)] = Field(
        default=(1, 5), description="episodes: support examples per class, from–to, drawn for each"
    )
    queries: int = Field(default=5, ge=1, description="episodes: query examples per class")
    count: int = Field(default=1, ge=1, description="episodes a client and round")
    size: int | None = Field(default=10, ge=1, description="examples of a mini-batch; none: all")
    epochs: float = Field(default=1, gt=0, description="passes over a client's data a round, for mini-batches")
    steps: int | None = Field(default=None, ge=1, description="mini-batches a round exactly, instead of epochs")
    support: Part = Field(default=0.5, description="client as task: support part, a fraction or a count")
    distortions: int = Field(default=1, ge=1, description="images: versions of each, all but one slightly distorted")
    rotations: bool = Field(
        default=False, description="images: classes turned by 90°, 180°, 270° are new training classes"
    )


class EvaluationSettings(Section):
    """How unseen clients are judged."""

    ways: int = Field(default=5, ge=2, description="episodes: classes")
    shots: Several | None = Field(
        default=None,
        description="examples per class (episodes) or per client; none: 1 and 5, or what the clients' sizes allow",
    )
    queries: int = Field(default=15, ge=1, description="episodes: query examples per class")
    episodes: int = Field(default=25, ge=1, description="episodes (or draws of support) a client")
    steps: int | None = Field(default=None, ge=0, description="adaptation steps; none: the algorithm's own")
    rival_episodes: int | None = Field(
        default=None, ge=1, description="the rivals are judged on the first so many episodes; none: on all"
    )
    baselines: bool = Field(default=True, description="also FedAvg + fine-tuning and local only")
    curve: bool = Field(default=True, description="also accuracy over adaptation steps and over shots, for the report")


class ModelSettings(Section):
    """Which model; none of it is needed."""

    name: Literal["auto", "mlp", "linear", "conv"] = Field(
        default="auto", description="auto: conv for images, else mlp"
    )
    hidden: Several = Field(default=(64,), description="mlp: width of each hidden layer")
    channels: int = Field(default=48, ge=1, description="conv: channels")
    norm: Literal["group", "batch"] = Field(
        default="group",
        description="group: group normalisation in conv, none in mlp; batch: batch normalisation (fedbn's default)",
    )


class Settings(Section):
    """A run."""

    data: str = Field(default="digits", description="a set's name (`seedbed data list`) or a path")
    root: str | None = Field(
        default=None, description="folder of named sets; none: $SEEDBED_DATA, else ~/.cache/seedbed"
    )
    algorithm: str = Field(default="auto", description="see `seedbed algorithms`")
    rounds: int | None = Field(default=None, ge=1, description="rounds of training; none: a recipe's, or 200")
    cohort: int | None = Field(default=None, ge=1, description="clients a round; none: a recipe's, or at most 10")
    seed: int = Field(default=0, ge=0, description="everything drawn at random follows from it")
    engine: str = Field(default="auto", description="auto | one_by_one | vectorised")
    workers: int | None = Field(default=None, ge=1, description="threads of one_by_one; none: one for each core")
    unseen: int | float | None = Field(
        default=None,
        description="clients never trained on: count or fraction; none: those that the data sets apart, else 0.3",
    )
    hold_out: float = Field(
        default=0.2, ge=0, lt=1, description="client as task: rows of known clients kept for testing"
    )
    budget: int | None = Field(
        default=None,
        ge=1,
        description="examples a client passes through its model a round; none: as task.* says",
    )
    checkpoint_seconds: float = Field(default=2, ge=0, description="least time between checkpoints; 0: every round")
    drop_short: bool = Field(
        default=False, description="leave out clients that are too small, instead of refusing them"
    )
    task: TaskSettings = TaskSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    model: ModelSettings = ModelSettings()
    options: dict[str, Any] = Field(default={}, description="the algorithm's own settings")
    rival: dict[str, Any] = Field(default={}, description="settings of the FedAvg that the algorithm is compared with")
    reader: dict[str, Any] = Field(default={}, description="how the data is read: client, target, ...")


def table_from(*layers: Mapping[str, Any], assignments: Iterable[str] = ()) -> dict[str, Any]:
    """One table of settings: later layers over earlier, and `key=value` words over all.

    A key may be dotted; one that is no setting of the run is taken for one of the algorithm's (`mu`, `outer.lr`).

    >>> table_from({"rounds": 5}, assignments=["rounds=7", "outer.lr=0.1"])
    {'rounds': 7, 'options': {'outer': {'lr': 0.1}}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _over(merged, layer)
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise InputError(f"--set {assignment!r} is not key=value")
        merged = _over(merged, _nested(_place(key.strip().split(".")), _value(value.strip())))
    return merged


def settings_from(*layers: Mapping[str, Any]) -> Settings:
    """Settings from tables, later ones over earlier; an unknown key or a wrong value is refused."""
    try:
        return Settings.model_validate(table_from(*layers))
    except ValidationError as error:
        raise InputError(_first(error)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Settings from a TOML file, or those of a run from its manifest.json."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            table: dict[str, Any] = json.loads(text)["settings"]
            return table
        return tomllib.loads(text)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:  # no text at all is a ValueError too
        raise InputError(f"{path} is neither TOML nor a run's manifest.json: {error}") from error


def known_keys() -> list[str]:
    """Every key of Settings, sections dotted."""
    keys = []
    for name, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        keys += [f"{name}.{key}" for key in inner] if inner else [name]
    return keys


def _place(parts: list[str]) -> list[str]:
    """Where a key belongs: what is no setting of the run is the algorithm's."""
    return parts if parts[0] in Settings.model_fields else ["options", *parts]


def _value(text: str) -> Any:
    """A TOML value, or the bare word."""
    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(parts: list[str], value: Any) -> dict[str, Any]:
    return {parts[0]: value if len(parts) == 1 else _nested(parts[1:], value)}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        own = "" if "." in key else "; an algorithm's own settings go under [options]"
        return f"unknown setting {key!r}: {nearest(key, known_keys())}{own}"
    return f"setting {key}={found['input']!r} cannot be used: {found['msg'].removeprefix('Value error, ')}"
