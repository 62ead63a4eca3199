"""What made a run's checkpoints: its settings, clients, data and versions; their digest; and what a resume may change.

An identity is flat: {"settings.seed": 0, "versions.torch": "2.9.0", "clients.train": "7, sha256 …", ...}.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from seedbed.errors import InputError
from seedbed.experiments.config import Settings
from seedbed.experiments.setting_names import with_new_names

Identity = Mapping[str, Any]
Difference = tuple[str, Any, Any]  # key, value when the run began, value now

# What alters no bit of the result is no part of it: where the data lie (their fingerprint is), threads, the clock, the
# system's version, and what `seedbed run` does not read.
LEFT_OUT = (
    "settings.data",
    "settings.data_dir",
    "settings.workers",
    "settings.checkpoint_seconds",
    "versions.platform",
)
LEFT_OUT_SECTIONS = ("settings.audit.", "settings.federation.")
NOTED = ("settings.device", "versions.")  # changes after which the last bits may differ
COMPUTES = ("versions.seedbed", "versions.torch", "versions.numpy")  # a private run keeps them to the patch
ROUNDS_KEY = "settings.rounds"


def identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run's checkpoints, from what its manifest holds: a pure function, so that anyone can compute it."""
    data = manifest.get("data", {})
    found = dict(_flat("settings", with_new_names(manifest.get("settings", {}))))
    found |= _flat("versions", manifest.get("versions", {}))
    found |= {f"clients.{part}": _list_digest(names) for part, names in manifest.get("clients", {}).items()}
    found |= {f"data.{part}": data[part] for part in ("fingerprint", "clients", "examples") if part in data}
    found |= {f"data.{part}": _short_digest(data[part]) for part in ("classes", "encoding") if part in data}
    found |= {f"code.{name}": digest for name, digest in manifest.get("code", {}).items()}
    found |= {"shape": _short_digest(manifest["shape"])} if "shape" in manifest else {}
    return {key: found[key] for key in found if key not in LEFT_OUT and not key.startswith(LEFT_OUT_SECTIONS)}


def identity_digest(of: Identity) -> str:
    """
    >>> identity_digest({"seed": 0, "examples": 3}) == identity_digest({"examples": 3, "seed": 0})
    True
    """
    return hashlib.sha256(json.dumps(dict(of), sort_keys=True).encode()).hexdigest()


def as_far_as(known: Identity, of: Identity) -> dict[str, Any]:
    """An identity without what another does not tell; settings that it does not tell have their defaults."""
    return {key: value for key, value in of.items() if key in known or key.startswith("settings.")}


def is_private(of: Identity) -> bool:
    return of.get("settings.privacy.epsilon") is not None


def differences(began: Identity, now: Identity) -> list[Difference]:
    """What differs and counts. A setting that an older version did not have counts as its default."""
    changed = []
    for key in sorted({**began, **now}):
        old, new = (side.get(key, _defaults().get(key)) for side in (began, now))
        if old != new and not _is_patch(key, old, new, private=is_private(began)):
            changed.append((key, old, new))
    return changed


def refuse_changed(run: str, began: Identity, now: Identity) -> list[str]:
    """What is worth a line among the changes that a resume may bring.

    Args:
        run: its directory, for people.
    Raises:
        InputError: the first change that it may not bring.
    """
    changed = differences(began, now)
    for key, old, new in changed:
        if key == ROUNDS_KEY and old is not None and new is not None:
            _refuse_rounds(run, began, old, new)
        elif not key.startswith(NOTED) or is_private(began):
            raise InputError(_refusal(run, key, old, new, private=is_private(began) and key.startswith(NOTED)))
    noted = [f"{key.partition('.')[2]} {old} → {new}" for key, old, new in changed if key.startswith(NOTED)]
    lines = [f"{', '.join(noted)} since the run began: the last bits of what follows may differ"] if noted else []
    return lines + [f"rounds {old} → {new}: {new - old} more" for key, old, new in changed if key == ROUNDS_KEY]


def has_rounds_to_add(began: Identity, now: Identity) -> bool:
    return bool((now.get(ROUNDS_KEY) or 0) > (began.get(ROUNDS_KEY) or 0))


def _is_patch(key: str, old: Any, new: Any, *, private: bool) -> bool:
    """Whether two versions differ in their third number only; a private run keeps to what it computes with."""
    if not key.startswith("versions.") or (private and key in COMPUTES):
        return False
    return str(old).split(".")[:2] == str(new).split(".")[:2]


def _refuse_rounds(run: str, began: Identity, old: int, new: int) -> None:
    """Rounds can be added where that gives the run that would have had them from the start."""
    reasons = {
        f"{old} are planned already": new < old,
        "its noise and its budget are planned for them (--epsilon)": is_private(began),
        "learning rates were chosen by probes of a part of them (tune)": bool(began.get("settings.tune")),
        "a learning rate follows a schedule over them": _follows_rounds(began),
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        raise InputError(
            f"{run} began with rounds={old}, and going on cannot give rounds={new}: {reason}; put rounds={old} back "
            "into its manifest.json, or start another run"
        )


def _follows_rounds(of: Identity) -> bool:
    """Whether a learning rate follows a schedule over all rounds. No algorithm has one that is not asked for."""
    return any("schedule" in key.split(".") for key in of if key.startswith("settings.options."))


def _refusal(run: str, key: str, old: Any, new: Any, *, private: bool) -> str:
    kind, _, name = key.partition(".")
    ways = {
        "settings": f"put {name}={json.dumps(old)} back into its manifest.json",
        "versions": f"go on with {name} {old}",
        "clients": "restore its manifest.json, its data and its settings",
        "data": "restore its manifest.json and its data",
        "code": "restore its source",
        "shape": "restore its manifest.json and its data",
    }
    what = {
        "clients": f"the list of its clients ({name})",
        "data": f"its data ({name})",
        "shape": "the shape of its data",
    }.get(kind, name)
    why = " and the same noise must not be added to two results" if private else ""
    return (
        f"{run}: {what} was {_said(old)} when the run began and is {_said(new)} now{why}: "
        f"{ways.get(kind, 'restore it')}, or start another run (`seedbed run --config {run}/manifest.json --out ...`)"
    )


def _said(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"


@cache
def _defaults() -> Mapping[str, Any]:
    return identity({"settings": Settings().model_dump(mode="json")})


def _flat(name: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """
    >>> dict(_flat("s", {"a": 1, "b": {"c": [2]}}))
    {'s.a': 1, 's.b.c': [2]}
    """
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{name}.{key}", value)
        else:
            yield f"{name}.{key}", value


def _list_digest(names: Sequence[str]) -> str:
    return f"{len(names)}, sha256 {_short_digest(list(names))}"


def _short_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
