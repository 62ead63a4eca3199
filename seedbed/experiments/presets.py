"""Defaults that give good results: what a run's open settings become, by data and algorithm. All can be overridden."""

from collections.abc import Mapping
from typing import Any

from seedbed.algorithms import catalogue
from seedbed.data.population import Population
from seedbed.experiments.compatibility import Case, Facts, clashing
from seedbed.experiments.compatibility_rows import EXACT_ROWS
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
        "evaluation": {"queries": 8, "episodes": 20, "baseline_episodes": 10},
        "options": {"outer": {"lr": 3e-3}, "test_steps": 10, "test_lr": 0.03},
    },
    ("omniglot", "fed_proto"): {
        "options": {"test_steps": 0},
        "rounds": 1000,
        "cohort": 4,
        "baseline": {"local": {"lr": 0.1}},
        "task": {"ways": 20, "queries": 2, "rotations": True, "batch_size": 30},
        "evaluation": {"episodes": 20, "baseline_episodes": 3},
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
    if algorithm == "auto":
        algorithm = "fed_eb" if exact else "fed_proto" if population.episodic else "per_fedavg"
    open_ones = {
        "algorithm": algorithm,
        "rounds": 200,
        "cohort": min(10, len(population)),
        "baseline": {"local": {"lr": 0.05}},
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
    if asked.algorithm != "auto" or set_otherwise:
        return False
    exact = asked.model_copy(update={"start": "exact"})
    return not any(clashing(Case.of(exact, Facts.of(population)), EXACT_ROWS))
