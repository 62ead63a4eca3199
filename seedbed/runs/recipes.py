"""Defaults that give good results: what a run's open settings become, by data and algorithm. All can be overridden."""

from collections.abc import Mapping
from typing import Any

from seedbed.runs.settings import Settings, settings_from
from seedbed.tasks.population import Population

FEW_SHOT = {"outer": {"lr": 5e-3, "schedule": "cosine"}}

# By (source of the data, algorithm). How they were found, and what they give: docs/results.md.
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("digits", "fed_proto"): {
        "rounds": 300,
        "cohort": 5,
        "task": {"ways": 10, "shots": (1, 1), "queries": 5},
        "options": FEW_SHOT,
    },
    ("omniglot", "fed_proto"): {
        "rounds": 900,
        "cohort": 4,
        "task": {"ways": 60, "shots": (1, 1), "queries": 2, "rotations": True},
        "options": FEW_SHOT,
        "evaluation": {"episodes": 10},
    },
}


def complete(given: Mapping[str, Any], population: Population) -> Settings:
    """Settings with nothing left open, for this data.

    Args:
        given: what the user set; it wins over every recipe.
    """
    asked = settings_from(given)
    algorithm = asked.algorithm
    if algorithm == "auto":
        algorithm = "fed_proto" if population.episodic else "per_fedavg"
    open_ones = {
        "algorithm": algorithm,
        "rounds": 200,
        "cohort": min(10, len(population)),
        "rival": {"local": {"lr": 0.05}},
    }
    recipe = RECIPES.get((population.source, algorithm), {})
    chosen = {k: v for k, v in given.items() if v is not None and not (k == "algorithm" and v == "auto")}
    return settings_from(open_ones, recipe, chosen)
