"""Sums that clients are lost from at any stage, for the tests of secure aggregation and its proof."""

from collections.abc import Collection, Sequence

import numpy as np

from seedbed.privacy.secure import Aborted, Plan, secure_sum
from seedbed.privacy.secure.protocol import neighbourhoods
from seedbed.privacy.secure.together import plain_sum

CLIENTS, NUMBERS = 20, 30


def plan(**given: object) -> Plan:
    """For 20 clients; a client is hidden from fewer than 4 of its neighbours."""
    settings = {"run": "test", "round": 0, "attempt": 0, "length": NUMBERS, "neighbours": 19, "threshold": 4}
    return Plan(**settings | given)  # type: ignore[arg-type]


def losses(rng: np.random.Generator, kind: str) -> list[list[int]]:
    """30 % of those still there are lost at one stage, or at every stage."""
    there, lost = list(range(CLIENTS)), []
    for stage in range(4):
        count = round(0.3 * len(there)) if kind in (str(stage), "mixed") else 0
        gone = [int(c) for c in rng.choice(there, count, replace=False)]
        there = [c for c in there if c not in gone]
        lost.append(gone)
    return lost


def is_exact(agreed: Plan, lost: Sequence[Collection[int]], rng: np.random.Generator) -> bool:
    """Whether the sum is the plain one of those left, bit for bit, or where too few are left, a named abort."""
    updates = {c: rng.normal(size=agreed.length) for c in range(CLIENTS)}
    weights = {c: float(rng.uniform(0.1, 1)) for c in updates}
    left = survivors(agreed, lost)
    try:
        found = secure_sum(agreed, updates, weights, lost=lost)
    except Aborted:
        return left is None
    plain = plain_sum(agreed.grid, {c: updates[c] for c in found.clients}, weights)
    return found.clients == left and bool((found.words == plain).all())


def survivors(agreed: Plan, lost: Sequence[Collection[int]]) -> set[int] | None:
    """Whose updates count, from the graph alone, by the protocol's rules; None where it cannot end.

    Whoever sees fewer than t of its neighbours goes no further; and every secret that is needed (of each survivor, and
    of each lost one that survivors have masked with) must be held by t neighbours that answer at the end.
    """
    t, least = agreed.threshold, max(agreed.min_cohort, agreed.threshold + 1)
    gone = [{c for some in lost[: stage + 1] for c in some} for stage in range(4)]
    keyed = set(range(CLIENTS)) - gone[0]
    around = neighbourhoods(agreed, keyed)
    shared = keyed - gone[1]
    masked = {c for c in shared - gone[2] if len(around[c] & shared) >= t}
    answering = {c for c in masked - gone[3] if len(around[c] & masked) >= t}
    if agreed.malicious_server:
        answering = {c for c in answering if len(around[c] & answering) >= t}
    needed = [c for c in shared if c in masked or around[c] & masked]
    enough = min(len(keyed), len(shared), len(masked)) >= least
    return masked if enough and all(len(around[c] & answering) >= t for c in needed) else None
