"""The pieces of `seedbed audit`: what is seen is what the real mechanisms give; each attack on a known case."""

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seedbed import tree
from seedbed.audit import canaries as mechanisms
from seedbed.audit import noise_probe
from seedbed.audit.attacks import canary_bound, label_leak, property_inference
from seedbed.audit.findings import Audit, Claim, Finding
from seedbed.audit.members import AT, lira, random_halves
from seedbed.audit.views import echo, release_of, secure_mean, update_in
from seedbed.experiments.config import PrivacySettings
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.experiments.stages import Show
from seedbed.privacy.differential import (
    Adaptive,
    Independent,
    Ledger,
    LocalPrivacy,
    Noise,
    TreeAggregation,
    distributed_noise,
    noise_for,
)
from seedbed.privacy.differential.central import bind
from seedbed.privacy.differential.mechanisms import Mechanism
from seedbed.reports.png import png, side_by_side_images, stack_images
from seedbed.tree import Tree

KEY = Noise(bytes(range(32)))
MESSAGE = {"w": torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "b": torch.tensor([0.0])}  # of length 5


@dataclass(frozen=True)
class Weakened(Independent):
    factor: float = 1.0

    def noise(self, like: Tree, round: int) -> Tree:
        return tree.scale(self.factor, super().noise(like, round))


# ---- what is seen ----------------------------------------------------------------------------------------------------


def test_what_is_released_is_clipped_and_noised_by_the_real_mechanism() -> None:
    """min(1, C/‖x‖)·x + z·C·noise, to the noise of the very round: 5 is clipped to 2; the others are taken off."""
    quiet = release_of(Independent(KEY, 0.0, 3, 9), 2.0, tree.stack([MESSAGE]))
    assert quiet["w"].flatten().tolist() == pytest.approx([1.2, 0, 0, 1.6], abs=1e-5)
    loud = release_of(Independent(KEY, 0.5, 3, 9), 2.0, tree.stack([MESSAGE]), 4)
    noise = bind(Independent(KEY, 0.5, 3, 9), echo(), 2.0).key.normal_like(MESSAGE, "sum", 4)
    for name, x in quiet.items():
        assert torch.allclose(loud[name].double(), x.double() + 0.5 * 2.0 * noise[name], atol=1e-5)


def test_two_unknown_messages_are_seen_as_their_sum() -> None:
    both = release_of(Independent(KEY, 0.0, 3, 9), 100.0, tree.stack([MESSAGE, MESSAGE]))
    assert torch.allclose(both["w"], 2 * MESSAGE["w"], atol=1e-5)


def test_local_noise_is_the_clients_own() -> None:
    """Deviation 2z·C on every number of one message, none from the server."""
    message = {"w": torch.zeros(20_000)}
    seen = release_of(LocalPrivacy(KEY, 0.5, 3, 9), 2.0, tree.stack([message]))
    assert float(seen["w"].std()) == pytest.approx(2 * 0.5 * 2.0, rel=0.02)


def test_a_secure_sum_is_one_on_a_grid() -> None:
    stacked = tree.stack([MESSAGE, tree.scale(-0.25, MESSAGE), tree.scale(0.1, MESSAGE)])
    seen = secure_mean(stacked)
    assert torch.allclose(3 * seen["w"], 0.85 * MESSAGE["w"], atol=3 * 4 / 2**19)


def test_the_update_is_found_in_any_message() -> None:
    params = {"w": torch.full((4,), 10.0), "b": torch.ones(2)}
    update = {"w": torch.full((4,), 0.5), "b": torch.zeros(2)}
    for message in (update, {"moved": update, "c": update}, [(torch.ones(1), update)]):
        found = update_in(message, params)
        assert found is not None
        assert torch.equal(found["w"], update["w"])
    model = tree.sub(params, update)
    found = update_in(model, params)  # a model: the attacker takes off what was sent
    assert found is not None
    assert torch.equal(found["w"], update["w"])
    assert update_in(torch.ones(3), params) is None
    assert update_in({"scores": torch.ones(3)}, params) is None


# ---- canaries and noise ----------------------------------------------------------------------------------------------


def test_high_scores_alone() -> None:
    scores, included = np.arange(10.0), np.arange(10) >= 5
    assert canary_bound.guess_canaries(scores, included, part=0.4) == canary_bound.CanaryGuesses(10, 4, 4)
    assert canary_bound.guess_canaries(scores, ~included, part=0.4) == canary_bound.CanaryGuesses(10, 4, 0)
    assert canary_bound.guess_canaries(scores, included, part=0.4, absent=False) == canary_bound.CanaryGuesses(10, 2, 2)


@pytest.mark.parametrize("clip", [1.0, Adaptive()], ids=["fixed", "adaptive"])
@pytest.mark.parametrize(("rate", "rounds"), [(1.0, 1), (0.3, 8)])
def test_noise_as_claimed_passes_and_none_does_not(clip: float | Adaptive, rate: float, rounds: int) -> None:
    z = noise_for(2.0, 1e-5, rate=rate, times=rounds)
    for factor, refuted in ((1.0, False), (0.1, True), (0.0, True)):
        mechanism = Weakened(KEY, z, round(500 * rate), 500, factor)
        bound = canary_bound.lower_bound(mechanisms.guess_participation(mechanism, clip, rounds), 1e-5)
        assert (bound > 2) == refuted, (factor, bound)


def test_canaries_go_through_a_tree_of_noise() -> None:
    z = noise_for(2.0, 1e-5, times=1)
    good: Mechanism = TreeAggregation(KEY, z, 100, 400)
    assert 0 <= canary_bound.lower_bound(mechanisms.guess_participation(good, 1.0, 4), 1e-5) <= 2
    silent = TreeAggregation(KEY, 1e-6, 100, 400)
    assert canary_bound.lower_bound(mechanisms.guess_participation(silent, 1.0, 4), 1e-5) > 2


def promise(mechanism: str = "gaussian", clip: float | None = 1.0) -> PrivacyPromise:
    z = noise_for(2.0, 1e-5, rate=0.1, times=20)
    settings = PrivacySettings(epsilon=2.0, mechanism=mechanism, clip=clip)  # type: ignore[arg-type]
    return PrivacyPromise(settings, 2.0, 1e-5, z, 10, 100, 20, 0, size=500, honest=6)


def probed(plan: PrivacyPromise) -> Any:
    told = noise_probe.noise(plan, claimed=True, show=Show())
    assert told.claim is not None
    return told


MECHANISMS = ["gaussian", "tree", "banded", "local", "distributed"]
every_mechanism = pytest.mark.parametrize("name", MECHANISMS)


@pytest.mark.parametrize(("name", "clip"), [(name, 1.0) for name in MECHANISMS] + [("gaussian", None)])
def test_the_claimed_noise_is_found(monkeypatch: pytest.MonkeyPatch, name: str, clip: float | None) -> None:
    """Of every mechanism: deviation 1 within 2 %, nothing shared by rounds, keys and clients."""
    monkeypatch.setattr(noise_probe, "QUIET_NUMBERS", 20_000)
    told = probed(promise(name, clip))
    assert not told.claim.refuted, told.claim.said
    assert told.rows[0].figures["private"].value == pytest.approx(1.0, abs=0.02)


CHANGES: dict[str, Callable[[Any, str, tuple[Any, ...]], Any]] = {
    "none": lambda drawn, purpose, numbers: 0 * drawn,
    "a tenth": lambda drawn, purpose, numbers: drawn / 10,
    "nine tenths": lambda drawn, purpose, numbers: drawn * 0.9,
    "a constant": lambda drawn, purpose, numbers: 0 * drawn + drawn[0],
    "not a number": lambda drawn, purpose, numbers: drawn * math.nan,
}


def weaken(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, str, tuple[Any, ...]], Any]) -> None:
    """What every mechanism draws, changed: normal numbers, and whole ones."""
    normal, whole = Noise.normal, distributed_noise.skellam

    def normals(self: Noise, count: int, purpose: str, *numbers: int) -> Any:
        return change(normal(self, count, purpose, *numbers), purpose, numbers)

    def wholes(count: int, variance: float, noise: Noise, *numbers: int) -> Any:
        drawn = np.nan_to_num(change(whole(count, variance, noise, *numbers).astype(float), "skellam", numbers))
        return np.rint(drawn).astype(np.int64)

    monkeypatch.setattr(Noise, "normal", normals)
    monkeypatch.setattr(distributed_noise, "skellam", wholes)
    monkeypatch.setattr(noise_probe, "QUIET_NUMBERS", 20_000)


@every_mechanism
@pytest.mark.parametrize("how", CHANGES)
def test_less_noise_than_claimed_is_refuted(monkeypatch: pytest.MonkeyPatch, name: str, how: str) -> None:
    weaken(monkeypatch, CHANGES[how])
    told = probed(promise(name))
    assert told.claim.refuted, told.claim.said
    if how == "nine tenths":
        assert told.rows[0].figures["private"].value == pytest.approx(0.9, abs=0.02)


@every_mechanism
def test_noise_that_does_not_depend_on_its_key_is_refuted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The right deviation, but the same numbers for every key, and so for every client and data set."""
    normal, whole = Noise.normal, distributed_noise.skellam
    weaken(monkeypatch, lambda drawn, purpose, numbers: drawn)
    one = Noise(bytes(32))
    monkeypatch.setattr(Noise, "normal", lambda self, *args: normal(one, *args))
    monkeypatch.setattr(
        distributed_noise, "skellam", lambda count, variance, noise, *n: whole(count, variance, one, *n)
    )
    told = probed(promise(name))
    assert "two keys" in told.claim.said
    assert told.claim.refuted


@pytest.mark.parametrize("name", ["gaussian", "local", "distributed"])
def test_noise_that_rounds_share_is_refuted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    normal, whole = Noise.normal, distributed_noise.skellam
    weaken(monkeypatch, lambda drawn, purpose, numbers: drawn)
    monkeypatch.setattr(Noise, "bound", lambda self, digest: self)
    monkeypatch.setattr(Noise, "normal", lambda self, count, purpose, *n: normal(self, count, purpose, 0))
    monkeypatch.setattr(
        distributed_noise, "skellam", lambda count, variance, noise, *n: whole(count, variance, noise, 0)
    )
    told = probed(promise(name))
    assert "two rounds" in told.claim.said
    assert told.claim.refuted


def test_canaries_go_through_noise_of_the_clients_own() -> None:
    """Distributed: a bound below what its rounds cost; without noise above it."""
    kept = canaries_of(promise("distributed"))
    assert not kept.claim.refuted, kept.claim.said
    silent = canaries_of(replace(promise("distributed"), noise_multiplier=1e-6, epsilon=0.5))
    assert silent.rows[0].figures["private"].value > 2


def canaries_of(plan: PrivacyPromise) -> Any:
    told = mechanisms.probe_canaries(plan, claimed=True, count=60, seed=0, show=Show())
    assert told.claim is not None
    return told


def test_canaries_do_not_apply_where_there_is_no_sum() -> None:
    local = mechanisms.probe_canaries(promise("local"), claimed=True, count=100, seed=0, show=Show())
    assert "no sum" in (local.missing or "")


def test_a_ledger_that_counts_too_little_is_refuted(tmp_path: Path) -> None:
    """All 20 rounds charged: as claimed. One short, or no ledger at all: refuted."""
    plan = promise()
    assert "is missing" in mechanisms.check_ledger(plan, tmp_path).claim.said  # type: ignore[union-attr]
    book = Ledger(tmp_path / "ledger.jsonl", epsilon=plan.epsilon, delta=plan.delta, rounds=20)
    for round in range(20):
        told = mechanisms.check_ledger(plan, tmp_path) if round in (0, 19) else None
        assert told is None or (told.claim is not None and told.claim.refuted)
        book.charge(round, plan.mechanism(KEY).cost(round))
    told = mechanisms.check_ledger(plan, tmp_path)
    assert told.claim is not None
    assert not told.claim.refuted
    assert told.rows[0].figures["private"].value == pytest.approx(2.0, rel=1e-3)


def test_canaries_keep_the_rate() -> None:
    plan = mechanisms.with_canaries(promise(), 1000)
    assert (plan.expected, plan.population) == (100, 1000)
    assert plan.mechanism(KEY).spent(20) == promise().mechanism(KEY).spent(20)


# ---- properties and members ------------------------------------------------------------------------------------------


def test_area_by_hand() -> None:
    """Of six pairs one is wrong and one a tie: (4 + 0.5)/6."""
    scores = np.array([3.0, 1.0, 2.0, 0.0, 1.0])
    found = property_inference.roc_area(scores, np.array([True, False, True, False, True]))
    assert found.area == pytest.approx(5.5 / 6)
    assert found.low < found.area < found.high == 1


def test_a_property_is_told_from_messages_and_not_from_noise() -> None:
    rng = np.random.default_rng(0)
    has = np.arange(60) % 2 == 0
    direction = rng.normal(size=2000) / 2000**0.5
    known, seen = (rng.normal(size=(60, 2000)) / 20 + np.outer(has, 3 * direction) for _ in range(2))
    assert property_inference.roc_area(property_inference.train_property_classifier(known, has, seen), has).area > 0.95
    blind = property_inference.roc_area(
        property_inference.train_property_classifier(known, has, rng.normal(size=(60, 2000))), has
    )
    assert blind.low < 0.5 < blind.high


def test_labels_by_hand() -> None:
    held = torch.tensor([True, False, False, False])
    assert label_leak.balanced_accuracy(held, held) == 1
    assert label_leak.balanced_accuracy(torch.zeros(4, dtype=torch.bool), held) == 0.5


def test_members_are_found_by_their_scores_alone() -> None:
    """N(3, 1) in and N(0, 1) out: Φ(3 − 2.33) = 0.75 are found at 1 %; where nothing is told, the 1 % themselves."""
    rng = np.random.default_rng(0)
    included = np.stack([random_halves(rng, 100) for _ in range(16)])
    found = lira(rng.normal(size=included.shape) + 3 * included, included)
    assert 0.6 < found.rate.rate < 0.85
    blind = lira(rng.normal(size=included.shape), included)
    assert blind.rate.low <= AT <= blind.rate.high
    assert AT < blind.mistaken < 0.03
    assert blind.pairs == 1600


# ---- for people ------------------------------------------------------------------------------------------------------


def pixels(data: bytes) -> Any:
    """A PNG without filters, read back."""
    width, height, _, kind = struct.unpack(">IIBB", data[16:26])
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    rows = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8)
    return rows.reshape(height, -1)[:, 1:].reshape(height, width, 3 if kind == 2 else 1)


def test_a_png_holds_its_pixels() -> None:
    grey = np.array([[0.0, 1.0], [0.5, 2.0]])
    assert pixels(png(grey))[..., 0].tolist() == [[0, 255], [128, 255]]
    colour = np.stack([grey, 0 * grey, grey])
    assert pixels(png(colour))[0, 1].tolist() == [255, 0, 255]
    assert pixels(png(grey, zoom=3)).shape == (6, 6, 1)
    assert stack_images([side_by_side_images([grey, grey]), side_by_side_images([grey, grey])]).shape == (1, 5, 5)


def test_the_verdict_says_what_it_can() -> None:
    finding = Finding("a", "A", "s", "o", "dB", claim=Claim("x is 3, claimed 2", refuted=True))
    refuted = Audit("run", {}, True, [finding])
    assert "refuted: x is 3" in refuted.verdict
    held = replace(refuted, findings=[replace(finding, claim=Claim("x", refuted=False))])
    assert "does not prove privacy" in held.verdict
    assert "claims no privacy" in Audit("run", {}, False, []).verdict
