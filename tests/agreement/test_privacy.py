"""The law table's column of differential privacy: every row, wrapped in `private(...)`, with no code of its own."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from seedbed import InputError, tree
from seedbed.engines import OneByOne, Vectorised
from seedbed.executors.factored import FactoredExecutor
from seedbed.federated import Algorithm, MessageBatch, uniform
from seedbed.privacy.differential import Adaptive, DistributedNoise, Independent, Noise, public_info, with_privacy
from seedbed.privacy.secure import MaskedSums, NoisedEncoding, PlainSums, SecureSumEngine
from seedbed.rounds.round import gather

from .bench import KINDS, SIZES, TOLERANCE, Past, Row, apart, by_hand, clients, copied, module, run, runs_apart
from .rows import ROWS
from .test_laws import FACTORED

SUMMED = [row for row in ROWS if not row.bare]
every_row = pytest.mark.parametrize("row", SUMMED, ids=str)
every_engine = pytest.mark.parametrize("kind", KINDS)
KEY = Noise(bytes(range(32)))
N = len(SIZES)


def made_private(row: Row, z: float = 0.0, clip: float | Adaptive = math.inf, expected: int = N) -> Algorithm:
    return with_privacy(row.algorithm, Independent(KEY, z, expected, N), clip=clip)


def private_run(row: Row, engine: Any, algorithm: Algorithm, **settings: Any) -> Past:
    start = algorithm.init(dict(row.net().params))
    return run(row, engine, algorithm=algorithm, **{"state": start, "cohort": None, **settings})


@every_row
@every_engine
def test_without_noise_and_clip_it_is_no_privacy_with_equal_weights(row: Row, kind: type[OneByOne]) -> None:
    """z = 0, C = ∞, q = 1: the sum over all, divided by m = N, is the plain mean."""
    got = private_run(row, kind(clients(row.items)), made_private(row))
    want = run(row, kind(clients(row.items)), algorithm=uniform(row.algorithm), cohort=None)
    for a, b in zip(got.rounds, want.rounds, strict=True):
        assert apart(public_info(a.state), b.state) <= TOLERANCE
        assert not a.info
    for x, y in zip(got.memories, want.memories, strict=True):
        assert apart([x[c] for c in sorted(x)], [y[c] for c in sorted(y)]) <= TOLERANCE


@every_row
def test_engines_agree_under_clip_noise_and_chance(row: Row) -> None:
    """Poisson cohorts, a clip that follows the norms, noise from the key: params, extra, memories; and things move."""
    algorithm = made_private(row, z=0.01, clip=Adaptive(start=0.05), expected=4)
    slow, fast = (private_run(row, kind(clients(row.items)), algorithm) for kind in KINDS)
    assert runs_apart(slow, fast) <= TOLERANCE
    for a, b in pairwise(slow.rounds):
        assert apart(a.state, b.state) > 1e-6


@pytest.mark.parametrize("row", [row for row in SUMMED if str(row) in FACTORED], ids=str)
def test_what_is_not_formed_is_clipped_alike(row: Row) -> None:
    """Factored clients in lockstep under a clip that shortens them and follows the norms: as the reference."""
    row = replace(row, net=module) if row.net is by_hand else row
    algorithm = made_private(row, clip=Adaptive(start=0.05), expected=4)
    executor = FactoredExecutor(always=True)
    want = private_run(row, OneByOne(clients(row.items)), algorithm, count=1)
    got = private_run(row, OneByOne(clients(row.items), executor=executor, lockstep=3), algorithm, count=1)
    assert runs_apart(want, got) <= TOLERANCE
    assert executor.trained


@every_row
def test_stop_and_resume_is_not_stopping(row: Row) -> None:
    """State and memories of round 1 on a new engine: the same noise, coins and clip, bit for bit."""
    algorithm = made_private(row, z=0.5, clip=Adaptive(start=0.05), expected=4)
    past = private_run(row, Vectorised(clients(row.items)), algorithm)
    engine = Vectorised(clients(row.items))
    engine.recall(copied(past.memories[0]))
    resumed = private_run(row, engine, algorithm, state=copied(past.rounds[0].state), count=2, done=1)
    assert runs_apart(Past(past.rounds[1:], past.memories[1:]), resumed) == 0


@every_row
def test_one_client_changes_the_sum_by_the_clip_at_most(row: Row) -> None:
    """‖Σ with the client − Σ without‖ ≤ C: messages measured, the largest of them well above C before."""
    clip = 1e-3
    algorithm, plain = made_private(row, clip=clip), row.algorithm
    start = algorithm.init(dict(row.net().params))
    sent = algorithm.send(start, 0)
    groups = Vectorised(clients(row.items)).ask(algorithm, dict.fromkeys(range(N), sent), 0)
    for group in groups:
        for i in range(len(group.clients)):
            value = tree.index(group.messages.value.value, i)
            assert tree.squared_norm(value).sqrt() <= clip
        assert (group.messages.weight == 1).all()
        assert not group.messages.info
    raw = next(iter(Vectorised(clients(row.items)).ask(plain, {0: plain.send(row.start, 0)}, 0))).messages.value
    if row.name != "local":
        assert tree.squared_norm(tree.index(raw, 0)).sqrt() > clip


@every_row
def test_an_empty_cohort_is_a_round(row: Row) -> None:
    """Its sum is noise alone; what clients keep is as it was."""
    algorithm = replace(made_private(row, z=1.0, clip=0.1), cohort=lambda population, round: [])
    for kind in KINDS:
        engine = kind(clients(row.items))
        past = private_run(row, engine, algorithm, count=1)
        assert past.rounds[0].clients == []
        assert not engine.memory()
        assert tree.is_finite(past.rounds[0].state)


@every_row
def test_noise_in_shares_behind_masks_is_that_in_the_open(row: Row) -> None:
    """Distributed noise, all six clients asked and one lost: with masks bit for bit as without; and the server makes a
    finite step of what comes out, that is not the one without noise."""
    start = row.algorithm.init(dict(row.net().params))
    plain = Vectorised(clients(row.items)).ask(row.algorithm, {0: row.algorithm.send(start, 0)}, 0)
    size = sum(leaf.numel() for leaf in tree.leaves(next(iter(plain)).messages.value))
    mechanism = DistributedNoise(KEY, 0.1, N, N, size=size, honest=4, clip=0.1)
    algorithm = with_privacy(row.algorithm, mechanism, clip=0.1)
    start = algorithm.init(dict(row.net().params))
    sent = {c: algorithm.send(start, c) for c in range(N)}
    said = Said(list(Vectorised(clients(row.items)).ask(algorithm, sent, 0)))
    masked, opened = (
        list(
            SecureSumEngine(said, NoisedEncoding(mechanism), form, losing=lambda *_: [(), (), (2,), ()]).ask(
                algorithm, sent, 0
            )
        )
        for form in (MaskedSums(min_cohort=4), PlainSums(min_cohort=4))
    )
    assert apart(masked[0].messages, opened[0].messages) == 0
    assert set(masked[0].lost) == {2}
    after = algorithm.server(start, gather(algorithm, masked, N))
    assert tree.is_finite(after)
    silent = SecureSumEngine(said, NoisedEncoding(replace(mechanism, noise_multiplier=0.0))).ask(algorithm, sent, 0)
    noiseless = algorithm.server(start, gather(algorithm, list(silent), N))
    assert row.name == "local" or apart(public_info(after), public_info(noiseless)) > 1e-6


class Said(OneByOne):
    """Clients who have said everything already."""

    def __init__(self, groups: list[MessageBatch]):
        self.groups = groups

    def ask(self, *_: Any) -> Any:
        return iter(self.groups)


@pytest.mark.parametrize("row", [row for row in ROWS if row not in SUMMED], ids=str)
def test_what_is_no_sum_over_all_is_refused(row: Row) -> None:
    """A reducer that needs each message; messages of unlike models, of which one mean is over a few clients only."""
    with pytest.raises(InputError, match=r"needs a sum|(different|unlike) structure"):
        private_run(row, OneByOne(clients(row.items)), made_private(row, z=1.0, clip=0.1))
