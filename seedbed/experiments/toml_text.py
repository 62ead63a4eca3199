"""Settings as people can paste them back: a TOML text, and what TOML cannot say."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from seedbed.experiments.config import Settings


def to_toml(table: Mapping[str, Any], section: str = "") -> str:
    """Settings as a TOML text that can be pasted into a file; what is None is left out.

    >>> print(to_toml({"rounds": 5, "task": {"shots": [1, 5]}, "cohort": None}))
    rounds = 5
    <BLANKLINE>
    [task]
    shots = [1, 5]
    """
    plain = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if v is not None and not isinstance(v, Mapping)]
    inner = [to_toml(v, f"{section}{_key(k)}.") for k, v in table.items() if isinstance(v, Mapping) and v]
    head = [f"[{section[:-1]}]"] if section and plain else []
    return "\n\n".join(part for part in ["\n".join(head + plain), *inner] if part)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def null_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    """Settings that are None where the default is not: TOML cannot say so, the command line can."""
    default = Settings().model_dump()
    for name, value in settings.items():
        inner = value if isinstance(value, Mapping) else {}
        yield from (
            f"{name}.{k}" for k, v in inner.items() if v is None and default.get(name, {}).get(k, ...) is not None
        )
