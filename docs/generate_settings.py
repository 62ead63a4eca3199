"""Writes docs/settings.md from the code: run it after changing a setting; a test holds the page to the code.

.venv/bin/python docs/generate_settings.py
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from seedbed.aggregation import PRE_AGGREGATIONS, RULES
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.attacks import ATTACKS
from seedbed.cli.commands import app
from seedbed.data.partition import How, repartition
from seedbed.data.readers import READERS
from seedbed.experiments.config import Settings
from seedbed.experiments.factories import GIVEN, OPTIMIZERS, SCHEDULES
from seedbed.experiments.signatures import arguments, first_line_of_doc, plainly, value
from seedbed.learning.optimizers import Optimizer

PAGE = Path(__file__).with_name("settings.md")
TITLES = ("key", "type", "default", "meaning")
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

INTRO = """# Settings

Made from the code by `docs/generate_settings.py`; do not edit this page.

A setting is said in one of three ways, each over the one before: a file (`--config`: TOML, or the `manifest.json` of a
run, to run it again), the options of the command, and `--set key=value`. Keys are dotted, values are written as in TOML
(or as a bare word); `none` leaves a setting open. Every run writes its complete settings to `manifest.json` in its
directory. An unknown key is refused with the nearest known one.

```bash
seedbed run --config run.toml --rounds 100 --set evaluation.episodes=50 --set outer.lr=0.01
```

```toml
data = "digits"
algorithm = "fed_proto"
rounds = 300
[task]
ways = 10
[options]          # the algorithm's own
outer.lr = 0.003
```

A key that is none of the run's is taken for one of the algorithm's: `outer.lr` is `options.outer.lr`.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRO, "## The run\n", *settings_tables(), "## The algorithm's own: `options`\n", *algorithm_tables()]
    parts += ["## Optimisers and schedules\n", *optimizer_tables()]
    parts += ["## Rules: `reduce`\n", *rule_tables(), "## Attacks: `attack`\n", *attack_tables()]
    parts += ["## Reading data: `reader`\n", *reader_tables()]
    return "\n".join(parts)


# ---- the run --------------------------------------------------------------------------------------------------------


def settings_tables() -> Iterator[str]:
    sections = {name: f.annotation for name, f in Settings.model_fields.items() if is_section(f.annotation)}
    yield setting_table({n: f for n, f in Settings.model_fields.items() if n not in sections})
    for name, section in sections.items():
        yield f"### `{name}`\n\n{inspect.getdoc(section)}\n"
        yield setting_table({f"{name}.{key}": field for key, field in section.model_fields.items()})


def setting_table(fields: Mapping[str, FieldInfo]) -> str:
    rows = [
        (f"`{n}`", kind(f.annotation, f.metadata), value(f.get_default(call_default_factory=True)), meaning(n, f))
        for n, f in fields.items()
    ]
    return table(TITLES, rows)


def meaning(name: str, field: FieldInfo) -> str:
    """The field's description, or else what the command line says of the option of this name."""
    run: Any = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    said = {p.name: getattr(p, "help", "") for p in run.params}
    return escaped(field.description or plainly(said.get(name) or ""))


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


# ---- factories ------------------------------------------------------------------------------------------------------


def algorithm_tables() -> Iterator[str]:
    yield "An optimiser (`local`, `outer`) is a table of its own: see below.\n"
    for name, entry in CATALOGUE.items():
        yield f"### `{name}`\n\n{entry.paper[:1].upper()}{entry.paper[1:]}.\n"
        yield table(TITLES, factory_rows(entry.factory, arguments(entry.factory)))


def optimizer_tables() -> Iterator[str]:
    yield (
        "`outer.name=adam` chooses one and `outer.lr=0.01` sets it; `outer.schedule=cosine` lets the learning rate\n"
        "change over updates (`updates`: the run's rounds, unless said).\n"
    )
    for name, factory in {**OPTIMIZERS, **SCHEDULES}.items():
        word = "optimiser" if name in OPTIMIZERS else "schedule"
        yield f"### {word} `{name}`\n\n{escaped(first_line_of_doc(factory))}\n"
        yield table(TITLES, factory_rows(factory, arguments(factory)))


def rule_tables() -> Iterator[str]:
    yield "`--reduce norm_bounding+nnm+trimmed_mean --set reduce.f=0.3`. What they are: [robustness](robustness.md).\n"
    for name, factory in {**RULES, **PRE_AGGREGATIONS}.items():
        yield f"### rule `{name}`\n\n{escaped(first_line_of_doc(factory))}\n"
        yield table(TITLES, factory_rows(factory, arguments(factory)))


def attack_tables() -> Iterator[str]:
    yield "`--attack alie --attackers 0.2 --set attack.scale=1`. What they are: [robustness](robustness.md).\n"
    for name, factory in ATTACKS.items():
        yield f"### attack `{name}`\n\n{escaped(first_line_of_doc(factory))}\n"
        yield table(TITLES, factory_rows(factory, arguments(factory), ("classes", "shape", "episodic", "loss")))


def reader_tables() -> Iterator[str]:
    yield "As in `--set reader.client=hospital`. Which reader a path is for: [your own data](your_own_data.md).\n"
    for name, factory in READERS.items():
        yield f"### {name}\n\n{escaped(first_line_of_doc(factory))}\n"
        yield table(TITLES, factory_rows(factory, arguments(factory), ("path", "pooled")))
    yield "### made-up clients, for any reader\n"
    made = factory_rows(repartition, PARTITION, ("population", "how"))
    yield table(TITLES, [("`partition`", kind(How), "none", "deal the rows to made-up clients"), *made])


PARTITION = {
    "clients": "how many",
    "alpha": "dirichlet, extended_dirichlet, quantity: the smaller, the more skewed",
    "per_client": "shards, or classes (classes, extended_dirichlet) of each client",
    "minimum": "dirichlet, extended_dirichlet, quantity: examples that every client gets at least",
    "sizes": "sizes: how many examples each client has",
    "partition_file": "file: one by `seedbed data partition`",
    "seed": "of the partition, not of the run",
}


def factory_rows(
    factory: Callable[..., Any], said: Mapping[str, str], without: Iterable[str] = GIVEN
) -> Iterator[tuple[str, ...]]:
    """(key, type, default, meaning) of what there is to set."""
    hints = get_type_hints(factory)
    for name, parameter in inspect.signature(factory).parameters.items():
        if name not in without:
            default = "" if parameter.default is inspect.Parameter.empty else value(parameter.default)
            yield f"`{name}`", kind(hints[name]), default, escaped(said.get(name, ""))


# ---- words ----------------------------------------------------------------------------------------------------------


def kind(hint: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words, with its bounds."""
    bounds = " ".join(
        f"{sign} {getattr(m, key):g}" for m in metadata for key, sign in BOUNDS.items() if hasattr(m, key)
    )
    found = words(hint)
    last = found.pop() if found[-1] == "none" and len(found) > 1 else ""
    return f"{' or '.join(found)} {bounds}".strip() + (f" or {last}" if last else "")


def words(hint: Any) -> list[str]:
    plain = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "none"}
    if hint in plain:
        return [plain[hint]]
    if hint is Optimizer:
        return ["optimiser"]
    if hasattr(hint, "__metadata__"):
        return words(get_args(hint)[0])
    text = str(hint)
    if text.startswith("typing.Literal"):
        return [f"`{choice}`" for choice in get_args(hint)]
    if "Schedule" in text or "Tensor" in text:
        return ["schedule"]
    origin, inner = get_origin(hint), [a for a in get_args(hint) if a is not Ellipsis]
    if origin is tuple:
        return [f"{len(inner) if Ellipsis not in get_args(hint) else 'several'} × {words(inner[0])[0]}"]
    if origin is dict:
        return ["table"]
    if origin is not None and "Sequence" in str(origin):
        return [f"several × {words(inner[0])[0]}"]
    if origin is not None and "Iterable" in str(origin):
        return ["several × text"]
    found = [word for option in inner for word in words(option)]
    return list(dict.fromkeys(found)) or [text]


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


def table(titles: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    titles, rows = list(titles), list(rows)
    if not rows:
        return "Nothing to set.\n"
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
