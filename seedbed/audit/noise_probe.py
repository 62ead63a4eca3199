"""Noise probe: the releases for clients that send zero, compared with the noise that ε was accounted for.

Every mechanism's releases are converted to numbers that are independent with deviation 1 if the claim is true: noise
that is correlated between rounds is decomposed into each round's share. Too small a deviation then reveals constant,
weak or missing noise, and a correlation reveals noise that two rounds, clients or keys share.

Shapes: R rounds, n numbers of a release.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from seedbed.audit.findings import AttackRow, Claim, Figure, Finding
from seedbed.audit.views import every_release
from seedbed.errors import Diverged
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.experiments.stages import Show
from seedbed.privacy.differential import (
    Adaptive,
    Banded,
    DistributedNoise,
    LocalPrivacy,
    Noise,
    TreeAggregation,
    new_key,
)
from seedbed.privacy.differential.central import split_multiplier
from seedbed.privacy.differential.mechanisms import Mechanism

QUIET_NUMBERS = 100_000
DRAWN = 2_000_000  # numbers of all clients in a round: each client gets fewer if many add noise
PROBED_ROUNDS = 4
SURE = 0.999  # confidence of the noise's interval: wrong once in a thousand audits
Floats = NDArray[np.float64]


def noise(promise: PrivacyPromise, *, claimed: bool, show: Show) -> Finding:
    """Measure the deviation of releases for zero messages, and whether rounds, keys or clients share noise."""
    mechanism, other = (promise.mechanism(Noise(new_key())) for _ in range(2))
    count = max(1000, min(QUIET_NUMBERS, DRAWN // answering(mechanism)))
    named: dict[str, Any] = {
        "name": "noise",
        "title": "Noise probe",
        "sees": "released sums over clients that all send zero, divided by the clip; single clients' messages, where "
        "they add the noise",
        "obtains": f"the noise's deviation, relative to the one that ε was accounted for, from {count:,} numbers a "
        "round; and whether two rounds, keys or clients share noise",
        "unit": "× claimed",
    }
    tick = show.stage("noise", 1)
    try:
        rounds = whiten(promise, mechanism, count, min(PROBED_ROUNDS, promise.rounds))
        [foreign] = whiten(promise, other, count, 1)
    except Diverged:
        return Finding(**named, claim=Claim("noise that is not finite", refuted=True) if claimed else None)
    pairs = {"rounds": list(pairwise(rounds)), "keys": [(rounds[0], foreign)]}
    if own := of_clients(promise, count):
        first, another, later = own
        pairs |= {"rounds": [*pairs["rounds"], (first, later)], "clients": [(first, another)]}
    ratio = float(np.std(np.concatenate([x - x.mean() for x in rounds])))
    n = count * len(rounds) - len(rounds)
    low, high = (ratio * (n / float(stats.chi2.ppf(p, n))) ** 0.5 for p in ((1 + SURE) / 2, (1 - SURE) / 2))
    shared = [name for name, arrays in pairs.items() if any(correlated(a, b) for a, b in arrays)]
    tick(f"{ratio:.3f}")
    text = f"noise of {ratio:.4g} times the accounted one ({low:.4g} to {high:.4g})"
    text += f"; two {' and two '.join(shared)} share noise" if shared else ""
    row = AttackRow(
        f"{len(rounds)} rounds", {"plain": Figure(0.0), "private": Figure(ratio, low, high), "ceiling": Figure(1.0)}
    )
    refuted = not high >= 1 or bool(shared)  # also true for NaN
    return Finding(**named, rows=[row], claim=Claim(text, refuted) if claimed else None)


def answering(mechanism: Mechanism) -> int:
    """The number of answering clients for which the noise is claimed."""
    if isinstance(mechanism, DistributedNoise):
        return mechanism.honest
    return 1 if isinstance(mechanism, LocalPrivacy) else 2


def whiten(promise: PrivacyPromise, mechanism: Mechanism, count: int, rounds: int) -> list[Floats]:
    """R arrays [n] of numbers with deviation 1, independent between rounds, if the claim is true."""
    quiet = {"zero": torch.zeros(mechanism.population, 1, dtype=torch.float64).expand(-1, count)}
    first = answering(mechanism)
    releases = every_release(mechanism, promise.clip, quiet, rounds, answering=lambda cohort: cohort[:first])
    seen = [release["zero"].double().numpy() / bound for release, bound in releases]
    if isinstance(mechanism, TreeAggregation):
        return nodes(mechanism, seen)
    if isinstance(mechanism, Banded):
        return fresh_rows(mechanism, seen)
    multiplier = 2 * mechanism.noise_multiplier if isinstance(mechanism, LocalPrivacy) else sums_multiplier(promise)
    return [x / multiplier for x in seen]


def nodes(mechanism: TreeAggregation, seen: Sequence[Floats]) -> list[Floats]:
    """The tree node that each round adds: the sum up to it, minus that of the rounds before the node."""
    added, scale = [], mechanism.noise_multiplier * math.sqrt(mechanism.levels)
    for t in range(len(seen)):
        place = t % mechanism.rounds_of_a_pass
        spans = (place + 1) & -(place + 1)  # rounds
        added.append(np.sum(seen[t + 1 - spans : t + 1], axis=0) / scale)
    return added


def fresh_rows(mechanism: Banded, seen: Sequence[Floats]) -> list[Floats]:
    """Z_t = Σ_j c_j·noise_{t−j}, divided by its deviation."""
    c = mechanism.column
    scale = mechanism.noise_multiplier * math.sqrt(math.fsum(x * x for x in c))
    return [np.sum([c[j] * seen[t - j] for j in range(min(t + 1, len(c)))], axis=0) / scale for t in range(len(seen))]


def of_clients(promise: PrivacyPromise, count: int) -> list[Floats]:
    """Messages of zeros where clients add the noise: one client's, another's, and the first's in another round."""
    mechanism, draws = promise.mechanism(Noise(new_key())), ((0, 0), (1, 0), (0, 1))
    if isinstance(mechanism, LocalPrivacy):
        return [mechanism.own_noise(torch.zeros(count), client, round).numpy() for client, round in draws]
    if isinstance(mechanism, DistributedNoise):
        return [mechanism.whole(np.zeros(count), client, round).astype(np.float64) for client, round in draws]
    return []


def correlated(a: Floats, b: Floats) -> bool:
    """Whether the correlation of two arrays exceeds what chance gives once in a thousand audits."""
    if not (a.std() > 0 and b.std() > 0):
        return False  # such a deviation is refuted already
    limit = float(stats.norm.isf((1 - SURE) / 20)) / math.sqrt(len(a))
    return abs(float(np.corrcoef(a, b)[0, 1])) > limit


def sums_multiplier(promise: PrivacyPromise) -> float:
    """The noise on sums, in clips: slightly more than z if the clip adapts."""
    if isinstance(promise.clip, Adaptive):
        return split_multiplier(
            promise.noise_multiplier, promise.clip.deviation(promise.expected, promise.noise_multiplier)
        )
    return promise.noise_multiplier
