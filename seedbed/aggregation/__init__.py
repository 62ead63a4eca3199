"""How messages become one: the mean, which may be added up in parts; each as it is; and robust rules, by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from seedbed.aggregation.coordinatewise import median, trimmed_mean
from seedbed.aggregation.geometric_median import geometric_median
from seedbed.aggregation.krum import bulyan, krum, multi_krum
from seedbed.aggregation.mean import mean
from seedbed.aggregation.nnm import nnm
from seedbed.aggregation.no_reduce import each
from seedbed.aggregation.norm_bounding import centered_clipping, norm_bounding
from seedbed.aggregation.robust import Robust, TooFew, chain
from seedbed.errors import InputError, nearest

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
STEPS: Mapping[str, Callable[..., Robust]] = {"norm_bounding": norm_bounding, "nnm": nnm}  # may stand before a rule


def parts(name: str) -> list[Callable[..., Robust]]:
    """The factories of a rule's name: steps, with a plus after each, and the rule.

    Raises:
        InputError: there is none of a part's name; the nearest.
    """
    *before, last = name.split("+")
    for part, known, where in (*((p, STEPS, "before a rule") for p in before), (last, RULES, "as the rule")):
        if part not in known:
            raise InputError(f"reduce={name!r} has {part!r} {where}: {nearest(part, known)}")
    return [*(STEPS[part] for part in before), RULES[last]]


def make(name: str, **settings: Any) -> Robust:
    """The robust rule of this name, `nnm+trimmed_mean`; a setting goes to all parts that have it.

    >>> make("nnm+trimmed_mean", f=2)
    nnm+trimmed_mean
    """
    takes = {part: inspect.signature(part).parameters for part in parts(name)}
    for key in settings:
        if not any(key in own for own in takes.values()):
            known = {k for own in takes.values() for k in own}
            raise InputError(f"unknown setting {key!r} of the rule {name}: {nearest(key, known)}")
    return chain(*(part(**{k: v for k, v in settings.items() if k in own}) for part, own in takes.items()))


__all__ = [
    "RULES",
    "STEPS",
    "Robust",
    "TooFew",
    "bulyan",
    "centered_clipping",
    "chain",
    "each",
    "geometric_median",
    "krum",
    "make",
    "mean",
    "median",
    "multi_krum",
    "nnm",
    "norm_bounding",
    "parts",
    "trimmed_mean",
]
