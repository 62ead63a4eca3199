"""Options that several commands have."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from seedbed.experiments.setting_names import renamed_keys

Data = Annotated[
    str | None,
    typer.Option(
        help="A set's name (see `seedbed data list`) or a path: CSV, Parquet, .npz, client/class/*.png, LEAF JSON."
    ),
]
Client = Annotated[
    str | None, typer.Option("--client", help="A table's column that says whose row it is (reader.client).")
]
Target = Annotated[str | None, typer.Option("--target", help="A table's column to predict (reader.target).")]
Root = Annotated[
    str | None, typer.Option("--data-dir", "--root", help="Folder that holds named sets; default: $SEEDBED_DATA.")
]


def _note_old_names(words: list[str] | None) -> list[str] | None:
    """Say which names of settings have changed."""
    for line in renamed_keys(words or []):
        print(f"seedbed: {line}", file=sys.stderr)
    return words


Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        callback=_note_old_names,
        help="A setting, as key=value: rounds=100, task.ways=10, outer.lr=0.01. May be repeated.",
    ),
]
Config = Annotated[
    Path | None, typer.Option(help="Settings from a TOML file or a run's manifest.json; the other options go over it.")
]
AlgorithmOption = Annotated[str | None, typer.Option(help="See `seedbed algorithms`. Default: by the data.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds of training.")]
CohortOption = Annotated[int | None, typer.Option(min=1, help="Clients per round.")]
Rate = Annotated[
    float | None,
    typer.Option("--lr", min=0, help="The algorithm's learning rate: local.lr, or what `seedbed algorithms` names."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Everything drawn at random follows from it.")]
EngineOption = Annotated[str | None, typer.Option(help="auto, one_by_one or vectorised.")]
ExecutorOption = Annotated[
    str | None, typer.Option(help="How clients train: auto (measured), loop, stacked, factored, batched or fused.")
]
ProcessesOption = Annotated[
    bool | None,
    typer.Option("--processes/--threads", help="What works on clients side by side; default: threads."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say which executor is chosen, and why.")]
Reduce = Annotated[
    str | None,
    typer.Option(
        help="How messages become one: norm_bounding+nnm+trimmed_mean, trimmed_mean, krum, ...; default: the mean."
    ),
]
AttackOption = Annotated[
    str | None,
    typer.Option(
        help="How some clients attack the training. tailored: each round the lie that harms the rule of --reduce the "
        "most, by trial; min_max, min_sum: as far from the honest mean as honest clients are from each other; "
        "after_adaptation: harms only once a client adapts the model; also ipm, alie, mimic, label_flip, backdoor, ..."
    ),
]
Attackers = Annotated[str | None, typer.Option(help="Known clients that attack: a fraction or a count; default: 0.2.")]
Delta = Annotated[float | None, typer.Option(help="Its δ; default: 1e-5, or less for many clients.")]
Run = Annotated[Path, typer.Argument(help="The directory of a run.")]


def reader_of(client: str | None, target: str | None) -> dict[str, str] | None:
    """The settings `reader`, as far as they are given."""
    return {key: value for key, value in (("client", client), ("target", target)) if value is not None} or None


def listed(first: Iterable[str], more: Iterable[str] | None) -> list[str]:
    """Names as people write them: after one option several, or with commas, or the option again for each.

    >>> listed(["a", "b,c"], ["d"])
    ['a', 'b', 'c', 'd']
    """
    return [name for word in (*first, *(more or ())) for name in word.split(",") if name]


def _load(kind: Literal["loss", "metric", "model"], name: str | None) -> str | None:
    """Import what the command line names: only here does a name become code."""
    if name is not None and ":" in name:
        from seedbed.experiments.named_code import load

        load(kind, name)
    return name


def _load_loss(name: str | None) -> str | None:
    return _load("loss", name)


def _load_metric(name: str | None) -> str | None:
    return _load("metric", name)


def _load_model(name: str | None) -> str | None:
    return _load("model", name)


LossOption = Annotated[
    str | None,
    typer.Option("--loss", callback=_load_loss, help="What clients minimise: cross_entropy, ... or MODULE:FUNCTION."),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric", callback=_load_metric, help="What models are judged by: accuracy, ... or MODULE:FUNCTION."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", callback=_load_model, help="The model: mlp, linear, conv, or MODULE:FUNCTION."),
]
