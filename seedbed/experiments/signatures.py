"""What factories say of their settings, for pages and the command line: from signatures and docstrings."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from seedbed.experiments.factories import GIVEN
from seedbed.learning.optimizers import Optimizer

COMMON = {  # names that mean the same everywhere, where a docstring does not say more
    "local": "the clients' optimiser",
    "outer": "the server's optimiser",
    "lr": "the learning rate",
    "steps": "inner steps in training",
    "test_steps": "gradient steps when a client adapts; none: as in training",
    "test_lr": "the learning rate of those steps",
    "schedule": "factor on the learning rate over updates",
    "updates": "how many updates it takes",
    "end": "the factor at the end",
    "momentum": "ρ; 0: none",
    "clip": "the longest gradient that a step is given; 0: any",
    "warmup": "updates over which the factor first grows in equal steps",
    "factor": "that an update multiplies the rate by",
    "nesterov": "Nesterov's form of momentum",
    "weight_decay": "λ",
    "beta1": "β1",
    "beta2": "β2",
    "epsilon": "ε",
    "f": "how many messages may be hostile: a count, or a fraction, rounded up",
    "weighted": "clients count by their weights",
    "scale": "the factor above",
    "weight": "what they claim",
    "names": "as how many clients each speaks",
    "bias_correction": "divide by 1 − β^t; false: Reddi et al. 2021",
}


def describe_settings(factory: Callable[..., Any]) -> Iterator[tuple[str, str, str]]:
    """(key, default, meaning) of what there is to set.

    >>> from seedbed.algorithms.fedprox import fedprox
    >>> next(describe_settings(fedprox))
    ('mu', '0.1', "μ ≥ 0; 0 is FedAvg. Clients may do unequal work: a task's items are its steps")
    """
    said = arguments(factory)
    for name, parameter in inspect.signature(factory).parameters.items():
        if name not in GIVEN:
            default = "" if parameter.default is inspect.Parameter.empty else value(parameter.default)
            yield name, default.replace("`", ""), said.get(name, "")


def arguments(factory: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says under Args, by name."""
    text = inspect.getdoc(factory) or ""
    block = re.search(r"^Args:\n((?:    .*\n?|\n)*)", text, re.M)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (block[1] if block else "").splitlines():
        start = re.match(r"    (\w+(?:, \w+)*): *(.*)", line)
        if start and not line.startswith("     "):
            names = start[1].split(", ")
            found |= dict.fromkeys(names, start[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return COMMON | {name: plainly(text) for name, text in found.items()}


def value(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, Optimizer):
        return f"`{default.name}`, lr `{default.settings['lr']:g}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    if default == {}:
        return ""
    return f"`{default}`"


def first_line_of_doc(factory: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(factory) or "").split("\n\n")[0].split())


def lower(text: str) -> str:
    """Without its capital, unless the first word is a name."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def plainly(text: str) -> str:
    """As in a table's cell: no full stop at the end, none for None."""
    text = text if text.endswith("...") else text.rstrip(".")
    return lower(re.sub(r"\bNone\b", "none", text))
