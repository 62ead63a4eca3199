"""Factories from plain settings: the factory's own signature says what there is to set, of what type, and by default.

A value is a number, a word, or for an optimiser or a schedule a table of its own settings: `outer.lr=0.01`,
`outer.name=adam`, `outer.schedule=cosine`.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from seedbed.errors import InputError, closest_name
from seedbed.learning import optimizers
from seedbed.learning.optimizers import Optimizer, Schedule

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": optimizers.sgd,
    "adam": optimizers.adam,
    "yogi": optimizers.yogi,
    "adagrad": optimizers.adagrad,
}
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": optimizers.constant,
    "linear": optimizers.linear,
    "cosine": optimizers.cosine,
    "exponential": optimizers.exponential,
}
CLIENTS = ("local", "personal")  # optimisers of clients, made anew in every round
SERVERS = ("distil.", "digest.")  # optimisers that the server makes anew in every round

# What a run makes itself and hands to a factory.
GIVEN = (
    "loss", "task_loss", "model", "predict", "features", "head", "ways", "adapt", "extract", "exit", "tail", "public",
    "labels", "teacher", "assign", "layers", "clients", "seed",
)  # fmt: skip


Hint = Callable[[str, Iterable[str]], str]  # (an unknown name, known names) -> what may have been meant


def build_from_settings(
    factory: Callable[..., Any],
    given: Mapping[str, Any],
    context: Mapping[str, Any],
    *,
    where: str = "",
    also: Iterable[str] = (),
) -> Any:
    """Call a factory with the given settings, and with whatever of the context it asks for by name.

    Args:
        given: settings by parameter name; optimisers and schedules as tables, or a word for their name alone.
        context: built objects (loss, features, ...) and numbers that the run knows (updates); settings go first.
        where: the dotted name of what is being built, for errors.
        also: other names that may have been meant by an unknown one.
    Raises:
        InputError: no such setting (with the nearest), or a value of the wrong type.
    """
    return factory(**arguments_from_settings(factory, given, context, where=where, also=also))


def arguments_from_settings(
    factory: Callable[..., Any],
    given: Mapping[str, Any],
    context: Mapping[str, Any],
    *,
    where: str = "",
    also: Iterable[str] = (),
    hint: Hint = closest_name,
) -> dict[str, Any]:
    """What `build_from_settings` calls the factory with; `hint` says what an unknown name may have meant."""
    known, hints = inspect.signature(factory).parameters, get_type_hints(factory)
    arguments = {name: value for name, value in context.items() if name in known}
    for name, value in given.items():
        if name not in known or (name in context and not _is_plain(context[name])):
            whole = where + ".".join([name, *value] if isinstance(value, Mapping) and len(value) == 1 else [name])
            names = [*(where + known for known in settable_parameters(factory, context)), *also]
            raise InputError(f"unknown setting {whole!r}: {hint(whole, names)}")
        arguments[name] = _parse(hints[name], value, known[name].default, context, f"{where}{name}")
    return arguments


def split_round_schedules(
    given: Mapping[str, Any], context: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Schedule]]:
    """Settings without the schedules of optimisers that are made afresh in each round, and these, by optimiser: they
    count rounds (`local_rates`), where that of an optimiser counts its own updates.

    >>> split_round_schedules({"mu": 1, "local": {"lr": 0.1, "schedule": "constant"}}, {})[0]
    {'mu': 1, 'local': {'lr': 0.1}}
    """
    rest, schedules = dict(given), {}
    for name in CLIENTS:
        table = given.get(name)
        if isinstance(table, Mapping) and table.get("schedule") is not None:
            rest[name] = {key: value for key, value in table.items() if key != "schedule"}
            schedules[name] = _schedule(table["schedule"], context, f"{name}.schedule")
    return rest, schedules


def settable_parameters(factory: Callable[..., Any], context: Mapping[str, Any] = {}) -> list[str]:
    """The names that `build` takes for a factory, nested ones with a dot.

    >>> settable_parameters(optimizers.sgd)
    ['lr', 'momentum', 'nesterov', 'weight_decay', 'clip', 'schedule']
    """
    names = []
    for name, parameter in inspect.signature(factory).parameters.items():
        if isinstance(parameter.default, Optimizer):
            names += [f"{name}.{inner}" for inner in ["name", *settable_parameters(OPTIMIZERS[parameter.default.name])]]
        elif name not in context or _is_plain(context[name]):
            names.append(name)
    return names


def setting(factory: Callable[..., Any], given: Mapping[str, Any], key: str) -> Any:
    """What a setting is: as given, or else its default.

    >>> from seedbed.algorithms.fedavg import fedavg
    >>> setting(fedavg, {}, "local.lr"), setting(fedavg, {"local": "adam"}, "local.lr")
    (0.1, 0.001)
    """
    name, _, inner = key.partition(".")
    default = inspect.signature(factory).parameters[name].default
    if not inner:
        return given.get(name, default)
    table = _table(given.get(name, {}), name, OPTIMIZERS)
    chosen = table.get("name", default.name)
    usual = {n: p.default for n, p in inspect.signature(OPTIMIZERS[chosen]).parameters.items()}
    return (usual | (dict(default.settings) if chosen == default.name else {}) | table)[inner]


def with_setting(given: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The settings with one of them changed.

    >>> with_setting({"local": "adam"}, "local.lr", 0.1)
    {'local': {'name': 'adam', 'lr': 0.1}}
    """
    name, _, inner = key.partition(".")
    return {**given, name: {**_table(given.get(name, {}), name, OPTIMIZERS), inner: value} if inner else value}


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _parse(hint: Any, value: Any, default: Any, context: Mapping[str, Any], where: str) -> Any:
    if hint is Optimizer:
        table = _table(value, where, OPTIMIZERS)
        name = str(table.pop("name", default.name))
        if name not in OPTIMIZERS:
            raise InputError(f"unknown optimiser {where}={name!r}: {closest_name(name, OPTIMIZERS)}")
        same = dict(default.settings) if name == default.name else {}
        return build_from_settings(OPTIMIZERS[name], same | table, context, where=f"{where}.")
    if hint == Schedule | None:
        if where.startswith(SERVERS):
            raise InputError(
                f"setting {where}={value!r} cannot be used: this optimiser starts afresh each round, and the server's "
                "own does not follow rounds; set local.schedule or outer.schedule"
            )
        return _schedule(value, context, where)
    try:
        parsed = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"setting {where}={value!r} cannot be used: {reason}") from error
    if isinstance(parsed, int | float) and not 0 <= parsed < math.inf:
        raise InputError(f"setting {where}={value!r} cannot be used: it must be a number from 0 up")
    return parsed


def _schedule(value: Any, context: Mapping[str, Any], where: str) -> Any:
    if callable(value):
        return value
    table = _table(value, where, SCHEDULES)
    name = str(table.pop("name", "constant"))
    if name not in SCHEDULES:
        raise InputError(f"unknown schedule {where}={name!r}: {closest_name(name, SCHEDULES)}")
    return build_from_settings(SCHEDULES[name], table, context, where=f"{where}.")


def _table(value: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    """Settings of an optimiser or a schedule; a word is its name."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise InputError(f"setting {where}={value!r} cannot be used: give a name ({', '.join(known)}) or {where}.KEY")
    return dict(value)
