"""Names of settings: those that changed, with their old names for one version, and words that people use for them."""

from collections.abc import Iterator, Mapping
from typing import Any

RENAMED = {  # old -> new; read for one version in files, --set and Python
    "kept": "client_state",
    "rival": "baseline",
    "root": "data_dir",
    "task.size": "task.batch_size",
    "task.count": "task.episodes",
    "evaluation.rival_episodes": "evaluation.baseline_episodes",
    "attack.part": "attack.fraction",
    "stragglers.part": "stragglers.fraction",
}
ALIASES = {  # words that are no settings here -> what they may mean
    "learning_rate": ("local.lr", "outer.lr", "alpha"),
    "lr": ("local.lr", "outer.lr", "alpha"),
    "client_lr": ("local.lr",),
    "local_lr": ("local.lr",),
    "server_lr": ("outer.lr",),
    "global_lr": ("outer.lr",),
    "inner_lr": ("alpha",),
    "batch_size": ("task.batch_size",),
    "batchsize": ("task.batch_size",),
    "clients_per_round": ("cohort",),
    "sample_size": ("cohort",),
    "num_rounds": ("rounds",),
    "communication_rounds": ("rounds",),
    "local_epochs": ("task.epochs",),
    "local_steps": ("task.steps",),
    "inner_steps": ("steps",),
    "dataset": ("data",),
    "optimizer": ("local.name", "outer.name"),
    "aggregator": ("reduce.name",),
    "clip_norm": ("privacy.clip",),
    "max_grad_norm": ("privacy.clip",),
    "noise_multiplier": ("privacy.epsilon",),
    "dirichlet_alpha": ("reader.alpha",),
}


def with_new_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with today's names; a setting under both names keeps today's.

    >>> with_new_names({"kept": "disk", "task": {"size": 5}})
    {'task': {'batch_size': 5}, 'client_state': 'disk'}
    """
    return _renamed(table, RENAMED)


def with_old_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with the names that older versions wrote: what noise and digests were derived from."""
    return _renamed(table, {new: old for old, new in RENAMED.items()})


def flat_with_new_names(table: Mapping[str, Any], prefix: str = "settings.") -> dict[str, Any]:
    """A flat table whose keys are dotted names of settings after a prefix, with today's names.

    >>> flat_with_new_names({"settings.kept": "disk", "shape": 1})
    {'settings.client_state': 'disk', 'shape': 1}
    """
    sections = {**RENAMED, **{f"{old}.": f"{new}." for old, new in RENAMED.items()}}
    found = {}
    for key, value in table.items():
        name = key.removeprefix(prefix)
        old = next((old for old in sections if name == old or (old.endswith(".") and name.startswith(old))), None)
        is_setting = key.startswith(prefix) and old is not None
        found[prefix + sections[old or ""] + name[len(old or "") :] if is_setting else key] = value
    return found


def _renamed(table: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    for old, new in names.items():
        holder = _section(found, old)
        name, now = old.rpartition(".")[2], new.rpartition(".")[2]
        if holder is not None and name in holder:
            value = holder.pop(name)
            holder.setdefault(now, value)
    return found


def _section(table: dict[str, Any], key: str) -> dict[str, Any] | None:
    section, dot, _ = key.rpartition(".")
    inner = table.get(section) if dot else table
    return inner if isinstance(inner, dict) else None


def renamed_keys(words: list[str]) -> Iterator[str]:
    """A line for each assignment by an old name."""
    for word in words:
        key = word.partition("=")[0].strip()
        for old, new in RENAMED.items():
            if key == old or key.startswith(f"{old}."):
                yield f"{old} is now {new}: the old name is read for one version"
