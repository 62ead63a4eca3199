"""Sums that clients are lost from at any stage, for the tests of secure aggregation and its proof."""

import hashlib
from collections.abc import Collection, Sequence
from unittest import mock

import numpy as np

from seedbed.privacy.secure import RoundAborted, SecAggPlan, secure_sum
from seedbed.privacy.secure.in_process import plain_sum

CLIENTS, NUMBERS = 20, 30


def plan(**given: object) -> SecAggPlan:
    """For 20 clients; a client is hidden from fewer than 4 of its neighbours."""
    settings = {"run": "test", "round": 0, "attempt": 0, "length": NUMBERS, "neighbours": 19, "threshold": 4}
    return SecAggPlan(**settings | given)  # type: ignore[arg-type]


def losses(rng: np.random.Generator, kind: str) -> list[list[int]]:
    """30 % of those still there are lost at one stage, or at every stage."""
    there, lost = list(range(CLIENTS)), []
    for stage in range(4):
        count = round(0.3 * len(there)) if kind in (str(stage), "mixed") else 0
        gone = [int(c) for c in rng.choice(there, count, replace=False)]
        there = [c for c in there if c not in gone]
        lost.append(gone)
    return lost


def is_exact(agreed: SecAggPlan, lost: Sequence[Collection[int]], rng: np.random.Generator) -> bool:
    """Whether the sum is the plain one of those left, bit for bit, or where too few are left, a named abort."""
    updates = {c: rng.normal(size=agreed.length) for c in range(CLIENTS)}
    weights = {c: float(rng.uniform(0.1, 1)) for c in updates}
    left = survivors(agreed, lost)
    try:
        with mock.patch("seedbed.privacy.secure.secagg_client.draw_neighbours", foreseen):
            found = secure_sum(agreed, updates, weights, lost=lost)
    except RoundAborted:
        return left is None
    plain = plain_sum(agreed.grid, {c: updates[c] for c in found.clients}, weights)
    return found.clients == left and bool((found.words == plain).all())


def foreseen(agreed: SecAggPlan, roster: Collection[int], client: int) -> frozenset[int]:
    """The neighbours that a client draws, as a function of plan and client, so that a test can foretell them."""
    about = agreed.digest + bytes([client])
    others = sorted(set(roster) - {client}, key=lambda c: hashlib.sha256(about + bytes([c])).digest())
    return frozenset(others[: agreed.neighbours])


def survivors(agreed: SecAggPlan, lost: Sequence[Collection[int]]) -> set[int] | None:
    """Whose updates count, from the graph alone, by the protocol's rules; None where it cannot end.

    Whoever sees fewer than t of its holders goes no further; and every secret that is needed (of each survivor, and of
    each lost one that survivors have masked with) must be held by t neighbours that answer at the end.
    """
    t, least = agreed.threshold, max(agreed.min_cohort, agreed.threshold + 1)
    gone = [{c for some in lost[: stage + 1] for c in some} for stage in range(4)]
    keyed = set(range(CLIENTS)) - gone[0]
    holders = {c: foreseen(agreed, keyed, c) for c in keyed}
    shared = keyed - gone[1]
    masked = {c for c in shared - gone[2] if len(holders[c] & shared) >= t}
    answering = {c for c in masked - gone[3] if len(holders[c] & masked) >= t}
    if agreed.malicious_server:
        answering = {c for c in answering if len(holders[c] & answering) >= t}
    met = {c for c in shared if holders[c] & masked or any(c in holders[other] for other in masked)}
    enough = min(len(keyed), len(shared), len(masked)) >= least
    return masked if enough and all(len(holders[c] & answering) >= t for c in masked | met) else None
