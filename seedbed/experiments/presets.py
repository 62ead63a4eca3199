"""Defaults that give good results: what a run's open settings become, by data and algorithm. All can be overridden."""

from collections.abc import Mapping
from typing import Any

from seedbed.algorithms import catalogue
from seedbed.data.population import Population
from seedbed.engines import process_group
from seedbed.errors import InputError
from seedbed.experiments.config import Settings, settings_from

PROTOTYPES = {"scale": None, "outer": {"lr": 5e-3, "schedule": "cosine"}}

# By (source of the data, algorithm); None: any data. What they give: docs/results.md.
RECIPES: dict[tuple[str | None, str], dict[str, Any]] = {
    (None, "fed_proto"): {"options": PROTOTYPES, "task": {"shots": (1, 1), "queries": 3}},
    (None, "per_fedavg"): {"options": {"alpha": 0.1}},
    (None, "fedasync"): {"schedule": {"buffer": 1}},
    (None, "dpsgd"): {"schedule": {"order": "combine_then_adapt"}},  # of rates it bears a third of what FedSGD does
    (None, "dif_maml"): {"options": {"outer": {"lr": 5e-3}}},
    (None, "push_sum"): {"schedule": {"topology": "exponential"}, "options": {"outer": {"lr": 0.3}}},
    (None, "distill"): {"model": {"hidden": (16,), "channels": 12}},
    (None, "fedmd"): {"public": 0.1},
    (None, "feddf"): {"public": 0.1},
    (None, "fedgkt"): {"model": {"hidden": (32,), "channels": 16}},
    (None, "fedbn"): {"model": {"norm": "batch"}},
    (None, "autoregressive"): {"options": {"outer": {"lr": 2e-3, "schedule": "cosine"}}},
    ("digits", "autoregressive"): {"cohort": 5, "model": {"channels": 32}, "task": {"distortions": 8}},
    ("digits", "fed_proto"): {
        "rounds": 200,
        "cohort": 5,
        "model": {"channels": 32},
        "task": {"ways": 10, "distortions": 8},
        "evaluation": {"queries": 8, "episodes": 20, "rival_episodes": 10},
        "options": {"outer": {"lr": 3e-3}, "test_steps": 10, "test_lr": 0.03},
    },
    ("omniglot", "fed_proto"): {
        "options": {"test_steps": 0},
        "rounds": 1000,
        "cohort": 4,
        "rival": {"local": {"lr": 0.1}},
        "task": {"ways": 20, "queries": 2, "rotations": True, "size": 30},
        "evaluation": {"episodes": 20, "rival_episodes": 3},
    },
}


# The start of tables: all rows of known clients train it, and rows are judged by how many examples a client has.
EXACT = {"start": "exact", "hold_out": 0, "evaluation": {"shots": (5, 20, "half"), "episodes": 10}}
# Settings that ask for training by rounds.
OF_ROUNDS = ("start", "options", "model", "task", "tune", "budget", "hold_out")


def complete_settings(given: Mapping[str, Any], population: Population, *, specific: bool = True) -> Settings:
    """Settings with nothing left open, for this data.

    Args:
        given: what the user set; it wins over every recipe.
        specific: use what is known to be good on this very set, too; a comparison must not.
    """
    asked = settings_from(given)
    algorithm, exact = asked.algorithm, asked.start == "exact" or (specific and _takes_exact(asked, given, population))
    if exact:
        _refuse_exact(asked, population, specific)
        algorithm = "fed_eb"
    elif algorithm == "auto":
        algorithm = "fed_proto" if population.episodic else "per_fedavg"
    open_ones = {
        "algorithm": algorithm,
        "rounds": 200,
        "cohort": min(10, len(population)),
        "rival": {"local": {"lr": 0.05}},
    }
    sources = (None, population.source) if specific else (None,)
    recipes = [EXACT] if exact else [RECIPES.get((source, algorithm), {}) for source in sources]
    if catalogue.entry(algorithm).everyone and not exact:
        recipes.append({"cohort": len(population)})
    if asked.privacy.epsilon is not None:  # noise is shared among the cohort: a recipe's small one would drown in it
        recipes.append({"cohort": min(100, len(population))})
    chosen = {k: v for k, v in given.items() if v is not None and not (k == "algorithm" and v == "auto")}
    own = {"name": asked.schedule.name or catalogue.entry(algorithm).rounds[0]}
    if own["name"] == "asynchronous":
        recipes.append({"schedule": {"updates": "cohort"}})
    decided: dict[str, Any] = {"schedule": own}
    if asked.privacy.epsilon is not None and asked.privacy.mechanism is None:
        decided["privacy"] = {"mechanism": "gaussian" if asked.secure.form == "none" else "distributed"}
    if asked.unseen == "each":
        decided |= {"unseen": None, "folds": len(population)}
    return settings_from(open_ones, *recipes, chosen, decided)


def _takes_exact(asked: Settings, given: Mapping[str, Any], population: Population) -> bool:
    """Whether `algorithm=auto` takes the exact start: on a table, where nothing is set that only rounds have."""
    set_otherwise = any(given.get(key) for key in OF_ROUNDS)  # start=rounds is one
    return asked.algorithm == "auto" and not set_otherwise and _without_exact(asked, population) is None


def _without_exact(asked: Settings, population: Population) -> str | None:
    """Why the start cannot be exact; None: it can."""
    if population.encoding.get("format") != "table":
        return "it needs a table"
    if population.episodic:
        return "it needs classes that mean the same for all clients (reader.episodic=false)"
    if population.y.ndim > 1:
        return "it needs one number, or classes, as the target"
    if asked.privacy.epsilon is not None:
        return "its steps are no lines of the ledger that --epsilon keeps"
    if asked.secure.form != "none":
        return "its clients do not mask their sums, as --secure asks"
    if asked.attack.name or asked.reduce.name or asked.stragglers.part or asked.public:
        return "attacks, robust rules, stragglers and public sets are for rounds"
    if asked.schedule.name not in (None, "synchronous"):
        return f"it has no rounds on the schedule {asked.schedule.name}"
    return "it runs in one process, without torchrun" if process_group.is_torchrun() else None


def _refuse_exact(asked: Settings, population: Population, specific: bool) -> None:
    if asked.algorithm not in ("auto", "fed_eb"):
        raise InputError(f"start=exact is the start of fed_eb, not of {asked.algorithm}: leave one of them out")
    reason = _without_exact(asked, population) if specific else "it is for `seedbed run`"
    if reason is not None:
        raise InputError(f"start=exact cannot be had here: {reason}; leave it out to train by rounds")
