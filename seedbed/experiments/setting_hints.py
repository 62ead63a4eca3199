"""Hints for settings of an algorithm that it does not have."""

from collections.abc import Iterable

from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.errors import LONGEST_HINT, closest_name
from seedbed.experiments.factories import GIVEN, settable_parameters
from seedbed.experiments.setting_names import ALIASES

MOST_OWNERS = 5


def setting_hint(value: str, known: Iterable[str], algorithm: str) -> str:
    """The near names; before them the algorithms that have a setting of this name, where this one has not.

    >>> setting_hint("mu", ["local.lr", "rounds"], "fedavg")
    'fednova, fedprox have it, fedavg has not; choose from local.lr, rounds'
    """
    near, owners = closest_name(value, known, ALIASES), [name for name in owners_of(value) if name != algorithm]
    if not owners:
        return near
    more = f" and {len(owners) - MOST_OWNERS} more" if len(owners) > MOST_OWNERS else ""
    have = f"{', '.join(owners[:MOST_OWNERS])}{more} {'has' if len(owners) == 1 else 'have'} it, {algorithm} has not"
    both = f"{have}; {near}"
    return both if len(both) <= LONGEST_HINT else have


def owners_of(setting: str) -> list[str]:
    """The algorithms that have a setting of this dotted name."""
    has = {name: settable_parameters(entry.factory) for name, entry in CATALOGUE.items()}
    return sorted(name for name, settings in has.items() if setting in settings and setting not in GIVEN)
