"""What a run can be told: a TOML file, `--set key=value`, or Python. Everything has a default.

data = "digits"
algorithm = "fed_proto"
rounds = 300
[task]
ways = 5
[options]                # the algorithm's own, by the names in its factory
outer.lr = 0.003
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from seedbed.errors import InputError, closest_name
from seedbed.experiments.setting_names import ALIASES, RENAMED, with_new_names
from seedbed.limits import from_json, from_toml
from seedbed.models.precision import Precision
from seedbed.rounds.gossip import GossipOrder
from seedbed.rounds.mixing import Topology

Positive = Annotated[int, Field(ge=1)]
Architectures = Annotated[  # at least one; a number alone is one
    tuple[Positive, ...], Field(min_length=1), BeforeValidator(lambda k: (k,) if isinstance(k, int) else k)
]

Row = int | Literal["half"]  # a number of examples to judge with, or half of a client's own
Rows = Annotated[
    tuple[Positive | Literal["half"], ...],
    Field(min_length=1),
    BeforeValidator(lambda k: (k,) if isinstance(k, int | str) else k),
]
RateFactors = tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]


def _part(value: float) -> float:
    if not (value >= 1 if isinstance(value, int) else 0 < value < 1):
        raise ValueError("give a fraction between 0 and 1, or a whole number from 1 up")
    return value


Fraction = Annotated[int | float, AfterValidator(_part)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSettings(Section):
    """What clients work on in training."""

    ways: int = Field(default=5, ge=2, description="episodes: classes")
    shots: Annotated[tuple[Positive, Positive], BeforeValidator(lambda k: (k, k) if isinstance(k, int) else k)] = Field(
        default=(1, 5), description="episodes: support examples per class, from–to, drawn for each"
    )
    queries: int = Field(default=5, ge=1, description="episodes: query examples per class")
    episodes: int = Field(default=1, ge=1, description="episodes a client and round")
    batch_size: int | None = Field(default=10, ge=1, description="examples of a mini-batch; none: all")
    epochs: float = Field(default=1, gt=0, description="passes over a client's data a round, for mini-batches")
    steps: int | None = Field(default=None, ge=1, description="mini-batches a round exactly, instead of epochs")
    support: Fraction = Field(default=0.5, description="client as task: support part, a fraction or a count")
    distortions: int = Field(default=1, ge=1, description="images: versions of each, all but one slightly distorted")
    rotations: bool = Field(
        default=False, description="images: classes turned by 90°, 180°, 270° are new training classes"
    )


class OwnSettings(Section):
    """Settings of a client's own in training, from a table with a row a client; empty cells, and clients that are
    missing, have what all have."""

    table: str | None = Field(
        default=None, description="a CSV or Parquet file; none: the data's own, where a client's rows agree"
    )
    client: str | None = Field(
        default=None, description="the table's column of clients' names; none: reader.client, or client"
    )
    steps: str | None = Field(default=None, description="column of mini-batches a round")
    lr: str | None = Field(default=None, description="column of learning rates, instead of local.lr")
    size: str | None = Field(default=None, description="column of examples of a mini-batch")


class EvaluationSettings(Section):
    """How unseen clients are judged."""

    ways: int = Field(default=5, ge=2, description="episodes: classes")
    shots: Rows | None = Field(
        default=None,
        description="examples per class (episodes) or per client, or half, of a client's own; none: 1 and 5, or what "
        "the clients' sizes allow, or where start=exact 5, 20 and half",
    )
    queries: int = Field(default=15, ge=1, description="episodes: query examples per class")
    episodes: int = Field(default=25, ge=1, description="episodes (or draws of support) a client")
    steps: int | None = Field(default=None, ge=0, description="adaptation steps; none: the algorithm's own")
    baseline_episodes: int | None = Field(
        default=None, ge=1, description="the baselines are judged on the first so many episodes; none: on all"
    )
    baselines: bool = Field(default=True, description="also FedAvg + fine-tuning and local only")
    curve: bool = Field(default=True, description="also accuracy over adaptation steps and over shots, for the report")


class ScheduleSettings(Section):
    """When clients are asked, and with whom they exchange."""

    name: Literal["synchronous", "asynchronous", "gossip"] | None = Field(
        default=None,
        description="synchronous: a server that waits for its cohort; asynchronous: one that does not, on a simulated "
        "clock; gossip: peers without a server; none: the algorithm's own",
    )
    concurrency: int | None = Field(
        default=None, ge=1, description="asynchronous: clients at work at once; none: as many as `cohort`"
    )
    buffer: int | None = Field(
        default=None, ge=1, description="asynchronous: replies that a round waits for; none: half of the concurrency"
    )
    updates: Positive | Literal["cohort"] = Field(
        default=1,
        description="asynchronous: steps of the server a round; cohort: as many as take in a cohort's replies, which a "
        "new run has, so that its rounds are as much work as FedAvg's",
    )
    latency: Literal["lognormal", "equal"] = Field(
        default="lognormal", description="asynchronous: seconds that clients work, around a median of 1; equal: all 1"
    )
    spread: float = Field(default=0.5, ge=0, description="lognormal: how unlike devices are, a standard deviation")
    jitter: float = Field(default=0.1, ge=0, description="lognormal: how unlike one device's pieces of work are")
    topology: Topology = Field(
        default="ring",
        description="gossip: who hears whom; matching: pairs drawn anew in each round; directed_ring and exponential "
        "have links of one direction, for push_sum",
    )
    density: float = Field(default=0.5, gt=0, le=1, description="erdos_renyi: how probable a link is")
    order: GossipOrder = Field(
        default="adapt_then_combine",
        description="gossip: mix after the step; or step from the mixed point with a message of the point before it",
    )
    link_failure: float = Field(default=0, ge=0, lt=1, description="gossip: how probably a link fails in a round")
    peer_failure: float = Field(default=0, ge=0, lt=1, description="gossip: how probably a peer does")


def _word(word: str) -> str:
    ModelSettings().like(word)
    return word


Word = Annotated[str, AfterValidator(_word)]  # a model in a word: see ModelSettings.like


class ModelSettings(Section):
    """Which model; none of it is needed. Further models are said in a word each: a name, or a name and widths, as
    `conv:32` (32 channels) and `mlp:64-32` (two hidden layers)."""

    name: str = Field(
        default="auto",
        description="auto: conv for images, else mlp | mlp | linear | conv; on the command line also MODULE:FUNCTION, "
        "called with the shape of an example and the number of outputs",
    )
    hidden: Architectures = Field(default=(64,), description="mlp: width of each hidden layer")
    channels: int = Field(default=48, ge=1, description="conv: channels")
    norm: Literal["group", "batch"] = Field(
        default="group",
        description="group: group normalisation in conv, none in mlp; batch: batch normalisation (fedbn's default)",
    )
    several: tuple[Word, ...] | None = Field(
        default=None,
        min_length=1,
        description="feddf, fedmd, fd: the clients' architectures in turn, each in a word; none: three of them",
    )
    teacher: Word | None = Field(
        default=None, description="distill: the teacher, in a word; none: like the student, four times as wide"
    )
    server: Word = Field(default="mlp:128", description="fedgkt: the server's net on the clients' features, in a word")

    def like(self, word: str) -> "ModelSettings":
        """The settings of the model that a word names.

        >>> ModelSettings().like("mlp:64-32").hidden, ModelSettings().like("conv:16").channels
        ((64, 32), 16)
        """
        name, colon, widths = word.partition(":")
        sizes = [int(width) for width in widths.split("-") if width.isdigit() and int(width) > 0]
        if name not in ("auto", "mlp", "linear", "conv") or (colon and "-".join(map(str, sizes)) != widths):
            raise ValueError("give auto, mlp, linear or conv, or one with its widths: conv:32, mlp:64-32")
        if colon and (name in ("auto", "linear") or (name == "conv" and len(sizes) > 1)):
            raise ValueError(f"{word} has no place for its widths: conv takes one, mlp any, linear and auto none")
        own = {"channels": sizes[0]} if colon and name == "conv" else {"hidden": tuple(sizes)} if colon else {}
        return self.model_copy(update={"name": name, **own, "several": None, "teacher": None})


class StragglerSettings(Section):
    """Clients too slow for a round of training, drawn afresh in each."""

    fraction: float = Field(default=0.0, ge=0, lt=1, description="how probable it is that a client is slow; 0: never")
    work: Literal["partial", "dropped"] = Field(
        default="partial",
        description="partial: a slow client does a part of its work, uniform in 0…1, and that counts; dropped: it does "
        "not answer",
    )


class GateSettings(Section):
    """What a client's message must be to be counted; one that is not finite or not as agreed never is."""

    norm: float | None = Field(
        default=None, gt=0, description="its norm at most so many times the median of the round; none: any"
    )
    norm_cap: float | None = Field(default=None, gt=0, description="its norm at most this; none: any")
    weight_cap: float | None = Field(default=None, gt=0, description="its weight at most this; none: any finite one")


class AttackSettings(Section):
    """Known clients that attack the training, to measure what a defence is worth."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str | None = Field(default=None, description="which attack; none: nobody attacks")
    fraction: Fraction = Field(
        default=0.2, description="known clients that attack, a fraction or a count; drawn by the seed"
    )


class ReduceSettings(Section):
    """How the messages of a round become one."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str | None = Field(
        default=None, description="a robust rule, `nnm+` or `norm_bounding+` before it; none: the algorithm's own"
    )
    momentum: float = Field(
        default=0, ge=0, lt=1, description="β of momentum on the clients, which helps robust rules; 0: none"
    )
    root: Positive = Field(default=100, description="fltrust: examples that the server trusts, drawn from all clients'")


class PrivacySettings(Section):
    """Differential privacy of the clients that train."""

    epsilon: float | None = Field(default=None, gt=0, description="ε, the budget of the run; none: no privacy")
    delta: float | None = Field(
        default=None, gt=0, lt=1, description="δ; none: 1e-5, or 1/clients^1.1 where that is less"
    )
    mechanism: Literal["gaussian", "tree", "banded", "local", "distributed"] | None = Field(
        default=None,
        description="gaussian: fresh noise, cohorts by chance; tree, banded: noise over rounds, clients in turn; "
        "local: every client noises its own message; distributed: every client adds a share of the noise, for "
        "secure aggregation; none: gaussian, or with --secure distributed",
    )
    clip: float | None = Field(
        default=None,
        gt=0,
        description="the most that a client's message may measure; none: follows a quantile (gaussian only)",
    )
    quantile: float = Field(
        default=0.5, gt=0, lt=1, description="the share of clients that such a clip leaves as they are"
    )
    honest: Fraction = Field(
        default=2 / 3,
        description="distributed: clients of a round whose noise is counted on, a fraction or a count; if fewer are "
        "left, the round is given up",
    )
    joint_ledger: str | None = Field(
        default=None,
        description="folder of the ledgers that add up ε over all runs on the same data; none: "
        "$XDG_DATA_HOME/seedbed/ledgers, else ~/.local/share/seedbed/ledgers; off: no such ledger",
    )


class SecureSettings(Section):
    """Secure aggregation: of clients' messages the server sees sums alone."""

    form: Literal["none", "masks", "shares"] = Field(
        default="none",
        description="masks: SecAgg+, one server; shares: several servers, of which one at least does not collude",
    )
    neighbours: int | None = Field(
        default=None,
        ge=2,
        description="masks: how many others hold shares of a client's secrets; none: the fewest that hold what is "
        "assumed, all others up to 40 clients",
    )
    threshold: Fraction | None = Field(
        default=None,
        description="masks: how many of these must stay, and how many must collude to unmask it: more than this part "
        "of them, or a count; none: the largest that spares the lost",
    )
    colluding: float = Field(
        default=0.2, ge=0, lt=1, description="masks: assumed part of a round's clients that collude with the server"
    )
    lost: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="masks: part of a round's clients that may be lost; none: 0.3, or with secure.malicious 0.05 and "
        "one at least of 5 or more",
    )
    malicious: bool = Field(default=False, description="masks: protect from a server that deviates, too")
    servers: int = Field(default=2, ge=2, description="shares: how many servers")
    groups: int | None = Field(
        default=None, ge=2, description="sums of so many groups, whose means a robust rule reduces; none: one sum"
    )
    clip: float = Field(default=8, gt=0, description="the grid: numbers beyond this are cut")
    bits: int = Field(default=20, ge=8, le=48, description="the grid: bits of a number")
    cap: float | None = Field(
        default=None, gt=0, description="examples that weigh most; none: as many as the largest known client has"
    )
    dropout: float = Field(
        default=0, ge=0, lt=1, description="how probable it is that a client is lost in a round, at any of four stages"
    )


class AuditSettings(Section):
    """How `seedbed audit` attacks; a run does not look at it."""

    clients: int = Field(default=8, ge=2, description="clients whose messages are attacked")
    canaries: int = Field(default=1000, ge=50, description="made-up clients that go through the mechanism")
    shadows: int = Field(default=16, ge=4, description="trainings on random halves of the clients")
    rounds: int = Field(default=10, ge=1, description="rounds of each of those, at most those of the run")
    steps: int = Field(default=300, ge=1, description="steps of gradient matching")
    starts: int = Field(default=2, ge=1, description="noises that gradient matching starts from")
    sets: int = Field(default=60, ge=8, description="data sets with and without a property, to learn from and to judge")
    epsilon: float = Field(default=8, gt=0, description="ε of the reference defence, for a run without one")


class FederationSettings(Section):
    """How a real federation's server holds its rounds; `seedbed run` does not look at it."""

    over: float = Field(default=1, ge=1, description="so many times the cohort is asked; the first answers make it up")
    quorum: int | None = Field(
        default=None,
        ge=1,
        description="answers that are enough once the deadline is over; none: two thirds of the cohort, at least 2; "
        "an answer that is refused is not counted as missing",
    )
    cap: float = Field(
        default=1,
        gt=0,
        description="a member's weight (its examples) counts up to this, and a larger one is refused; 1: all members "
        "weigh the same",
    )
    deadline: float = Field(default=600, gt=0, description="seconds that a round waits for its cohort")
    again: float = Field(default=10, gt=0, description="seconds after which those who are silent are asked again")
    explosion: float | None = Field(
        default=100, gt=1, description="an aggregate so many times longer than usual is discarded; none: none is"
    )
    patience: int = Field(
        default=3, ge=1, description="rounds discarded or missed in a row after which the server stops"
    )


class Settings(Section):
    """A run."""

    data: str = Field(default="digits", description="a set's name (`seedbed data list`) or a path")
    data_dir: str | None = Field(
        default=None, description="folder of named sets; none: $SEEDBED_DATA, else ~/.cache/seedbed"
    )
    algorithm: str = Field(default="auto", description="see `seedbed algorithms`")
    start: Literal["rounds", "exact"] = Field(
        default="rounds",
        description="what trains the start: rounds: those of the algorithm; exact: a linear model fitted exactly, with "
        "priors of the clients' effects (algorithm=auto takes it for tables)",
    )
    loss: str = Field(
        default="auto",
        description="what clients minimise: cross_entropy for classes, squared_error for numbers; on the command line "
        "also MODULE:FUNCTION, of predictions [B, ...] and targets [B]",
    )
    metric: str = Field(
        default="auto",
        description="what models are judged by: accuracy, log_loss, squared_error; on the command line also "
        "MODULE:FUNCTION (its attribute higher_is_better, if false)",
    )
    rounds: int | None = Field(default=None, ge=1, description="rounds of training; none: a recipe's, or 200")
    cohort: int | None = Field(
        default=None, ge=1, description="clients a round; none: a recipe's, or at most 10, or with privacy at most 100"
    )
    cohort_by: Literal["uniform", "examples"] = Field(
        default="uniform",
        description="how a cohort is drawn: every client alike, or in proportion to its examples",
    )
    replacement: bool = Field(
        default=False, description="a client may be drawn several times into a cohort: its message counts as often"
    )
    weights: Literal["uniform", "examples"] | None = Field(
        default=None, description="how much a message counts: alike, or by its client's examples; none: the algorithm's"
    )
    seed: int = Field(default=0, ge=0, description="everything drawn at random follows from it")
    engine: str = Field(default="auto", description="auto | one_by_one | vectorised")
    executor: str = Field(
        default="auto",
        description="how clients train: auto measures which is fastest | loop | stacked | factored | batched | "
        "fused; all give the same up to rounding",
    )
    device: str = Field(
        default="cpu", description="where clients compute: cpu, cuda, cuda:1, mps; the data stay in the main memory"
    )
    precision: Precision = Field(
        default="float32",
        description="of products in models: float32 | tf32 (NVIDIA GPUs) | bf16; weights and sums stay in float32, and "
        "what it costs in exactness is said first",
    )
    workers: int | None = Field(
        default=None, ge=1, description="threads or processes over clients; none: one for each core"
    )
    processes: bool | None = Field(
        default=None,
        description="workers are processes (true) or threads; with executor=auto true tries both",
    )
    client_state: Literal["memory", "disk"] = Field(
        default="memory",
        description="where simulated clients keep what they keep; disk: in the run's directory, for very many",
    )
    unseen: int | float | Literal["each"] | None = Field(
        default=None,
        description="clients never trained on: count or fraction, or each in turn (as many folds as clients); none: "
        "those that the data sets apart, else 0.3",
    )
    folds: int | None = Field(
        default=None,
        ge=2,
        description="runs of the same data, each with unseen clients of its own, so that every client is judged as "
        "unseen once; none: one run",
    )
    fold: int | None = Field(default=None, ge=1, description="which of the folds this run is; set by `folds`")
    hold_out: float = Field(
        default=0.2, ge=0, lt=1, description="client as task: rows of known clients kept for testing"
    )
    public: Fraction | Literal[0] = Field(
        default=0,
        description="rows of training clients taken away from them as a public set: a fraction or a count",
    )
    budget: int | None = Field(
        default=None,
        ge=1,
        description="examples a client passes through its model a round; none: as task.* says",
    )
    tune: RateFactors = Field(
        default=(),
        description="factors on the learning rates that `seedbed algorithms NAME` names, of which validation clients "
        "choose one; empty: none",
    )
    checkpoint_seconds: float = Field(default=2, ge=0, description="least time between checkpoints; 0: every round")
    drop_short: bool = Field(
        default=False, description="leave out clients that are too small, instead of refusing them"
    )
    task: TaskSettings = TaskSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    model: ModelSettings = ModelSettings()
    own: OwnSettings = OwnSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    stragglers: StragglerSettings = StragglerSettings()
    reduce: ReduceSettings = ReduceSettings()
    gate: GateSettings = GateSettings()
    attack: AttackSettings = AttackSettings()
    privacy: PrivacySettings = PrivacySettings()
    secure: SecureSettings = SecureSettings()
    audit: AuditSettings = AuditSettings()
    federation: FederationSettings = FederationSettings()
    options: dict[str, Any] = Field(default={}, description="the algorithm's own settings")
    baseline: dict[str, Any] = Field(
        default={}, description="settings of the FedAvg that the algorithm is compared with"
    )
    reader: dict[str, Any] = Field(default={}, description="how the data is read: client, target, ...")


def table_from(*layers: Mapping[str, Any], assignments: Iterable[str] = ()) -> dict[str, Any]:
    """One table of settings: later layers over earlier, and `key=value` words over all.

    A key may be dotted; one that is no setting of the run is taken for one of the algorithm's (`mu`, `outer.lr`).

    >>> table_from({"rounds": 5}, assignments=["rounds=7", "outer.lr=0.1"])
    {'rounds': 7, 'options': {'outer': {'lr': 0.1}}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if not isinstance(layer, Mapping):
            raise InputError(f"settings are a table of keys and values, not {str(layer)[:40]}: restore the file")
        merged = _over(merged, with_new_names(layer))
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise InputError(f"--set {assignment!r} is not key=value")
        nested = _nested(_place(key.strip().split(".")), _value(value.strip()))
        merged = _over(merged, with_new_names(nested))
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
            table: dict[str, Any] = from_json(text)["settings"]
            if not isinstance(table, dict):
                raise ValueError("its settings are no table")
            return table
        return from_toml(text)
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
    """Where a key belongs: what is no setting of the run is the algorithm's, as is a bare `schedule`: a rate's.

    A rule or an attack alone is its name.
    """
    if parts in (["reduce"], ["attack"]):
        return [*parts, "name"]
    rate = parts[0] == "schedule" and not ScheduleSettings.model_fields.keys() & set(parts[1:2])
    return parts if parts[0] in {*Settings.model_fields, *RENAMED} and not rate else ["options", *parts]


def _value(text: str) -> Any:
    """A TOML value, or the bare word."""
    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    try:
        return from_toml(f"v = {text}")["v"]
    except ValueError:
        return text


def _nested(parts: list[str], value: Any) -> dict[str, Any]:
    return {parts[0]: value if len(parts) == 1 else _nested(parts[1:], value)}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}  # a word is a name: local=adam, then local.lr=0.01
        both[key] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        own = "" if "." in key else "; an algorithm's own settings go under [options]"
        return f"unknown setting {key!r}: {closest_name(key, known_keys(), ALIASES)}{own}"
    return f"setting {key}={found['input']!r} cannot be used: {found['msg'].removeprefix('Value error, ')}"
