"""The run's mechanism on canary clients, and its ledger: whether ε is what it is said to be.

For canaries nothing is retrained: m clients go through the same `private()`, cohorts, clipping and noise, for as many
rounds. Each lies along a coordinate of its own, so that none hides another (Dirac canaries: Nasr et al., USENIX
Security 2023, arXiv 2302.07956). Shapes: m canaries, in two leaves of m/2 numbers.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seedbed import randomness
from seedbed.audit.attacks.canary_bound import CanaryGuesses, guess_canaries, lower_bound
from seedbed.audit.findings import AttackRow, Claim, Figure, Finding
from seedbed.audit.views import every_release
from seedbed.experiments.privacy_plan import LEDGER, PrivacyPromise
from seedbed.experiments.stages import Show
from seedbed.privacy.differential import Adaptive, DistributedNoise, Independent, Ledger, Noise, epsilon, new_key
from seedbed.privacy.differential.mechanisms import Mechanism

GUESSED = 0.5  # of the canaries, those of the highest and the lowest scores
BOLD = 2.0  # canaries are so many clips long: what is beyond the clip must not matter
FEW, FEW_ROUNDS = 100, 10  # canaries and rounds of a mechanism whose clients noise


def with_canaries(promise: PrivacyPromise, canaries: int) -> PrivacyPromise:
    """The same rates and rounds over so many clients, none of which is a real one."""
    expected = max(1, round(promise.expected / promise.population * canaries))
    honest = max(1, round(promise.honest / promise.expected * expected))
    return replace(promise, population=canaries, expected=expected, size=canaries, honest=honest)


def guess_participation(mechanism: Mechanism, clip: float | Adaptive, rounds: int, *, seed: int = 0) -> CanaryGuesses:
    """One training run in which each canary takes part or not by a fair coin, and the attacker's guesses at the coins.

    The attacker sees every round's release, adds them up, and takes those canaries for present whose coordinates are
    high and for absent whose are low, and says nothing of the half between: Steinke, Nasr and Jagielski, NeurIPS 2023,
    Algorithm 1. Where chance or turns leave some out of every round, it guesses at high ones alone.
    """
    m, seen = mechanism.population, share_of_rounds(mechanism, rounds)
    present = randomness.generator(seed, "canaries").random(m) < 0.5
    length = 1.0 if isinstance(clip, Adaptive) else BOLD * clip
    silent = isinstance(mechanism, DistributedNoise)  # absent clients send zero, with their noise
    sent = torch.diag(torch.as_tensor(present).float()) if silent else torch.eye(m)
    first, second = torch.split(length * sent, [m // 2, m - m // 2], 1)
    scores = torch.zeros(m, dtype=torch.float64)
    for release, bound in every_release(
        mechanism, clip, {"a": first, "b": second}, rounds, answering=lambda c: [i for i in c if silent or present[i]]
    ):
        scores += torch.cat([release["a"], release["b"]]).double() / bound
    return guess_canaries(scores.numpy(), present, part=min(GUESSED, seen * 0.8), absent=seen > 0.99)


def share_of_rounds(mechanism: Mechanism, rounds: int) -> float:
    """How many of those who take part are in some round's cohort."""
    rate = mechanism.expected / mechanism.population
    return 1 - (1 - rate) ** rounds if isinstance(mechanism, Independent) else min(1.0, rounds * rate)


def probe_canaries(promise: PrivacyPromise, *, claimed: bool, count: int, seed: int, show: Show) -> Finding:
    """The canaries of a promise, beside those of the same rounds without noise.

    Args:
        claimed: the run makes this promise; else it is a reference.
    """
    named: dict[str, Any] = {
        "name": "canaries",
        "title": "Canary clients: is ε what it is said to be?",
        "sees": "the model after every round, and so every noised sum; not who took part",
        "obtains": (
            f"guesses which of {count} made-up clients took part, each a fair coin; so many right guesses are not "
            "possible below the ε that is shown (95 % confidence)"
        ),
        "unit": "ε ≥",
    }
    if promise.settings.mechanism == "local":
        return Finding(**named, missing=LOCAL_NOISE_REASON)
    tick = show.stage("canaries", 2)
    plan, most = with_canaries(promise, count), promise.epsilon
    if promise.settings.mechanism == "distributed":  # each canary noises numbers of its own: fewer, in fewer rounds
        plan = replace(with_canaries(promise, min(count, FEW)), rounds=min(promise.rounds, FEW_ROUNDS))
        most = epsilon(promise.mechanism(Noise(bytes(32))).spent(plan.rounds), promise.delta)
    mechanism = plan.mechanism(Noise(new_key()))
    found = guess_participation(mechanism, plan.clip, plan.rounds, seed=seed)
    bound = lower_bound(found, promise.delta)
    tick(f"ε ≥ {bound:.2f}")
    bare = Independent(Noise(new_key()), 0.0, plan.population, plan.population)
    open_ = guess_participation(bare, 1.0, 1, seed=seed)
    tick(f"without noise ε ≥ {lower_bound(open_, promise.delta):.2f}")
    said = f"ε ≥ {bound:.2f} by canaries, claimed ε = {most:.4g} at δ = {promise.delta:.2g} for {plan.rounds} rounds"
    row = AttackRow(
        f"{found.right} of {found.guessed}",
        {
            "plain": Figure(lower_bound(open_, promise.delta)),
            "private": Figure(bound),
            "guess": Figure(0.0),
            "ceiling": Figure(most),
        },
    )
    return Finding(
        **named,
        rows=[row],
        claim=Claim(said, bound > most) if claimed else None,
        notes=[
            "It finds noise that is missing or ten times too small, not noise at half its size: see the noise itself.",
            "It runs the mechanism with the run's noise, clip, rates and rounds on made-up clients, under a key of its "
            "own: the run's own releases hold no canaries.",
        ],
    )


LOCAL_NOISE_REASON = (
    "privacy.mechanism=local: every client noises its own message, so that there is no sum to find a canary in"
)


def check_ledger(promise: PrivacyPromise, folder: Path) -> Finding:
    """What the run's ledger counts, against what was claimed."""
    named: dict[str, Any] = {
        "name": "ledger",
        "title": "The ledger of the run",
        "sees": "ledger.jsonl, whose lines hold each other's hashes",
        "obtains": "ε of all releases that it counts",
        "unit": "ε",
    }
    path = folder / LEDGER
    if not path.exists():
        return Finding(**named, claim=Claim(f"{path} is gone, so that nothing shows what was spent", refuted=True))
    spent = Ledger(path, epsilon=promise.epsilon, delta=promise.delta)
    row = AttackRow(
        f"{spent.charged_rounds} rounds", {"private": Figure(spent.epsilon), "ceiling": Figure(promise.epsilon)}
    )
    said = f"the ledger counts ε = {spent.epsilon:.4g} for {spent.charged_rounds} of {promise.rounds} rounds"
    too_few = spent.charged_rounds < promise.rounds
    return Finding(**named, rows=[row], claim=Claim(said, too_few or spent.epsilon > promise.epsilon))
