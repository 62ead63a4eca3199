"""Every algorithm by name, from a file for each family: what the command line, settings and comparisons ask for."""

from seedbed.algorithms.catalogue import averaging, distillation, generators, heads, meta, personal, rounds
from seedbed.algorithms.catalogue.entries import Axes, CatalogueEntry, Items
from seedbed.errors import InputError, closest_name

__all__ = ["CATALOGUE", "Axes", "CatalogueEntry", "Items", "entry"]

FAMILIES = (averaging, meta, heads, personal, rounds, distillation, generators)
CATALOGUE: dict[str, CatalogueEntry] = {name: entry for family in FAMILIES for name, entry in family.ENTRIES.items()}


def entry(name: str) -> CatalogueEntry:
    """The entry of this name; an unknown one is refused with the nearest."""
    if name not in CATALOGUE:
        raise InputError(f"unknown algorithm {name!r}: {closest_name(name, CATALOGUE)}")
    return CATALOGUE[name]
