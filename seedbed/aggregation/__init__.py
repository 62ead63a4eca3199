"""How messages become one: the mean, which may be added up in parts; each as it is; and robust rules, by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from seedbed.aggregation.coordinatewise import median, trimmed_mean
from seedbed.aggregation.geometric_median import geometric_median
from seedbed.aggregation.krum import bulyan, krum, multi_krum
from seedbed.aggregation.mean import mean
from seedbed.aggregation.nnm import nnm
from seedbed.aggregation.no_reduce import no_reduce
from seedbed.aggregation.norm_bounding import centered_clipping, norm_bounding
from seedbed.aggregation.robust import Robust, TooFewMessages, chain_rules
from seedbed.errors import InputError, closest_name

RULES: Mapping[str, Callable[..., Robust]] = {
    "median": median,
    "trimmed_mean": trimmed_mean,
    "geometric_median": geometric_median,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "centered_clipping": centered_clipping,
    "norm_bounding": norm_bounding,
}
PRE_AGGREGATIONS: Mapping[str, Callable[..., Robust]] = {
    "norm_bounding": norm_bounding,
    "nnm": nnm,
}  # may stand before a rule


def rule_factories(name: str) -> list[Callable[..., Robust]]:
    """The factories of a rule's name: steps, with a plus after each, and the rule.

    Raises:
        InputError: there is none of a part's name; the nearest.
    """
    *before, last = name.split("+")
    for part, known, where in (*((p, PRE_AGGREGATIONS, "before a rule") for p in before), (last, RULES, "as the rule")):
        if part not in known:
            raise InputError(f"reduce={name!r} has {part!r} {where}: {closest_name(part, known)}")
    return [*(PRE_AGGREGATIONS[part] for part in before), RULES[last]]


def make_rule(name: str, **settings: Any) -> Robust:
    """The robust rule of this name, `nnm+trimmed_mean`; a setting goes to all parts that have it.

    >>> make_rule("nnm+trimmed_mean", f=2)
    nnm+trimmed_mean
    """
    takes = {part: inspect.signature(part).parameters for part in rule_factories(name)}
    for key in settings:
        if not any(key in own for own in takes.values()):
            known = {k for own in takes.values() for k in own}
            raise InputError(f"unknown setting {key!r} of the rule {name}: {closest_name(key, known)}")
    return chain_rules(*(part(**{k: v for k, v in settings.items() if k in own}) for part, own in takes.items()))


__all__ = [
    "PRE_AGGREGATIONS",
    "RULES",
    "Robust",
    "TooFewMessages",
    "bulyan",
    "centered_clipping",
    "chain_rules",
    "geometric_median",
    "krum",
    "make_rule",
    "mean",
    "median",
    "multi_krum",
    "nnm",
    "no_reduce",
    "norm_bounding",
    "rule_factories",
    "trimmed_mean",
]
