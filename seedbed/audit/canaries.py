"""Canary clients in the run's privacy mechanism, and a check of its ledger: is ε as claimed?

The canaries need no retraining: m clients go through the same `with_privacy`, cohorts, clipping and noise, for as many
rounds. Each uses its own coordinate, so that none hides another (Dirac canaries: Nasr et al., USENIX Security 2023,
arXiv 2302.07956). Shapes: m canaries, in two leaves of m/2 numbers.
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

GUESSED = 0.5  # fraction of the canaries to guess: those with the highest and the lowest scores
BOLD = 2.0  # length of a canary in clips; above 1, to test the clipping
FEW, FEW_ROUNDS = 100, 10  # canaries and rounds for a mechanism whose clients add the noise


def with_canaries(promise: PrivacyPromise, canaries: int) -> PrivacyPromise:
    """The same rates and rounds for a population of canaries only."""
    expected = max(1, round(promise.expected / promise.population * canaries))
    honest = max(1, round(promise.honest / promise.expected * expected))
    return replace(promise, population=canaries, expected=expected, size=canaries, honest=honest)


def guess_participation(mechanism: Mechanism, clip: float | Adaptive, rounds: int, *, seed: int = 0) -> CanaryGuesses:
    """Simulate one training run in which each canary takes part with probability 1/2, and let the attacker guess.

    The attacker adds up every round's release. It guesses that canaries with high coordinates took part and those with
    low ones did not, and abstains on the half in between: Steinke, Nasr and Jagielski, NeurIPS 2023, Algorithm 1. Where
    sampling or turns may leave some canaries out of every round, it guesses only at high coordinates.
    """
    m, seen = mechanism.population, share_of_rounds(mechanism, rounds)
    present = randomness.generator(seed, "canaries").random(m) < 0.5
    length = 1.0 if isinstance(clip, Adaptive) else BOLD * clip
    silent = isinstance(mechanism, DistributedNoise)  # absent clients send zero, plus their noise
    sent = torch.diag(torch.as_tensor(present).float()) if silent else torch.eye(m)
    first, second = torch.split(length * sent, [m // 2, m - m // 2], 1)
    scores = torch.zeros(m, dtype=torch.float64)
    for release, bound in every_release(
        mechanism, clip, {"a": first, "b": second}, rounds, answering=lambda c: [i for i in c if silent or present[i]]
    ):
        scores += torch.cat([release["a"], release["b"]]).double() / bound
    return guess_canaries(scores.numpy(), present, part=min(GUESSED, seen * 0.8), absent=seen > 0.99)


def share_of_rounds(mechanism: Mechanism, rounds: int) -> float:
    """The fraction of participants that are in at least one round's cohort."""
    rate = mechanism.expected / mechanism.population
    return 1 - (1 - rate) ** rounds if isinstance(mechanism, Independent) else min(1.0, rounds * rate)


def probe_canaries(promise: PrivacyPromise, *, claimed: bool, count: int, seed: int, show: Show) -> Finding:
    """Audit a privacy promise by canaries, and compare with the same rounds without noise.

    Args:
        promise: the privacy plan to test.
        claimed: whether the run makes this promise; otherwise it is a reference.
        count: the number of canaries.
        seed: for the canaries' participation.
        show: progress display.
    """
    named: dict[str, Any] = {
        "name": "canaries",
        "title": "Canary clients: is ε as claimed?",
        "sees": "the model after every round, and so every noised sum; not the participants",
        "obtains": (
            f"guesses which of {count} artificial clients took part, each with probability 1/2; so many right guesses "
            "are impossible below the ε shown (95 % confidence)"
        ),
        "unit": "ε ≥",
    }
    if promise.settings.mechanism == "local":
        return Finding(**named, missing=LOCAL_NOISE_REASON)
    tick = show.stage("canaries", 2)
    plan, most = with_canaries(promise, count), promise.epsilon
    if promise.settings.mechanism == "distributed":  # each canary draws its own noise: use fewer canaries and rounds
        plan = replace(with_canaries(promise, min(count, FEW)), rounds=min(promise.rounds, FEW_ROUNDS))
        most = epsilon(promise.mechanism(Noise(bytes(32))).spent(plan.rounds), promise.delta)
    mechanism = plan.mechanism(Noise(new_key()))
    guesses = guess_participation(mechanism, plan.clip, plan.rounds, seed=seed)
    bound = lower_bound(guesses, promise.delta)
    tick(f"ε ≥ {bound:.2f}")
    noiseless = Independent(Noise(new_key()), 0.0, plan.population, plan.population)
    without_noise = guess_participation(noiseless, 1.0, 1, seed=seed)
    tick(f"without noise ε ≥ {lower_bound(without_noise, promise.delta):.2f}")
    text = f"ε ≥ {bound:.2f} by canaries, claimed ε = {most:.4g} at δ = {promise.delta:.2g} for {plan.rounds} rounds"
    row = AttackRow(
        f"{guesses.right} of {guesses.guessed}",
        {
            "plain": Figure(lower_bound(without_noise, promise.delta)),
            "private": Figure(bound),
            "guess": Figure(0.0),
            "ceiling": Figure(most),
        },
    )
    return Finding(
        **named,
        rows=[row],
        claim=Claim(text, bound > most) if claimed else None,
        notes=[
            "It finds noise that is missing or ten times too small, not noise at half its size: see the noise probe.",
            "It runs the mechanism with the run's noise, clip, rates and rounds on artificial clients, with a separate "
            "key: the run's own releases contain no canaries.",
        ],
    )


LOCAL_NOISE_REASON = (
    "privacy.mechanism=local: every client adds noise to its own message, so there is no sum to find a canary in"
)


def check_ledger(promise: PrivacyPromise, folder: Path) -> Finding:
    """Compare the ledger's count with the run's claim."""
    named: dict[str, Any] = {
        "name": "ledger",
        "title": "The ledger of the run",
        "sees": "ledger.jsonl, whose lines are chained by hashes",
        "obtains": "ε of all recorded releases",
        "unit": "ε",
    }
    path = folder / LEDGER
    if not path.exists():
        return Finding(**named, claim=Claim(f"{path} is missing: nothing shows what was spent", refuted=True))
    spent = Ledger(path, epsilon=promise.epsilon, delta=promise.delta)
    row = AttackRow(
        f"{spent.charged_rounds} rounds", {"private": Figure(spent.epsilon), "ceiling": Figure(promise.epsilon)}
    )
    text = f"the ledger records ε = {spent.epsilon:.4g} for {spent.charged_rounds} of {promise.rounds} rounds"
    too_few = spent.charged_rounds < promise.rounds
    return Finding(**named, rows=[row], claim=Claim(text, too_few or spent.epsilon > promise.epsilon))
