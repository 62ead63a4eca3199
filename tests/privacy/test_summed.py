"""An engine out of which only sums come: what a server gets of a round, whoever is lost, lies or says nonsense."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seedbed import tree
from seedbed.aggregation import make_rule
from seedbed.errors import Diverged, InputError
from seedbed.federated import MessageBatch
from seedbed.privacy.secure import (
    FixedPointGrid,
    MaskedSums,
    PlainSums,
    SecureSumEngine,
    SharedSums,
    WeightedEncoding,
    assign_groups,
    lose_at_random,
    secure_sum,
)
from seedbed.privacy.secure.groups import no_losses
from seedbed.privacy.secure.in_process import plain_sum
from seedbed.privacy.secure.secagg_client import SecureClient
from seedbed.rounds import Round, asynchronous, equal_latency, synchronous

from .saying import Saying, start, steps

CLIENTS, SIZE = 12, 7
GRID = FixedPointGrid(clip=4.0, bits=30, clients=CLIENTS, cap=9.0)


def saying(seed: int = 0) -> Saying:
    rng = np.random.default_rng(seed)
    weights = [float(w) for w in rng.integers(1, 10, CLIENTS)]
    return Saying(torch.from_numpy(rng.normal(size=(CLIENTS, SIZE))), weights, rng.uniform(0, 3, CLIENTS).tolist())


def rounds(engine: Any, count: int = 1, algorithm: Any = None, **settings: Any) -> list[Round]:
    endless = synchronous(algorithm or steps(), engine, start(SIZE), **settings)
    return [next(endless) for _ in range(count)]


def asked(engine: Any, algorithm: Any = None) -> list[MessageBatch]:
    return list(engine.ask(algorithm or steps(), dict.fromkeys(range(CLIENTS)), 0))


# ---- what a server gets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", [MaskedSums(), MaskedSums(malicious_server=True), SharedSums(3)], ids=["masks", "malicious", "shares"]
)
def test_one_message_comes_out_and_it_is_the_mean(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve clients' messages the schedule gets one, over all twelve; nothing on the wire, which is watched at
    every client, holds an update's own words."""
    wire: list[bytes] = []
    mask = SecureClient.mask_words

    def watched(self: SecureClient, *arguments: Any) -> Any:
        sent = mask(self, *arguments)
        wire.append(sent.words.tobytes())
        return sent

    monkeypatch.setattr(SecureClient, "mask_words", watched)
    engine, encoding = saying(), WeightedEncoding(GRID)
    [group] = asked(SecureSumEngine(engine, encoding, form))
    assert group.messages.weight.shape == (1,)
    assert group.members == [list(range(CLIENTS))]
    w = torch.tensor(engine.weights, dtype=torch.float64)
    mean = (w[:, None] * engine.says).sum(0) / w.sum()
    got = torch.cat([group.messages.value["b"][0], group.messages.value["w"][0]])
    assert (got - mean).abs().max() < 1e-7
    assert (engine.says - got).abs().max(1).values.min() > 0.1  # it is nobody's own
    assert group.messages.weight == pytest.approx(w.sum().item(), rel=1e-7)
    assert group.messages.info["loss"] == pytest.approx(
        float((w @ torch.tensor(engine.losses).double()) / w.sum()), abs=1e-6
    )
    plain = [encoding.words(engine.message(c), c, 0) for c in range(CLIENTS)]
    assert len(wire) == (0 if isinstance(form, SharedSums) else CLIENTS)
    assert not {words.tobytes() for words in plain} & set(wire)


@pytest.mark.parametrize("seed", range(6))
def test_whoever_is_lost_the_model_is_that_of_those_who_are_left(seed: int) -> None:
    """40 % lost over all four stages: bit for bit the open sum over those whose update arrived, or a round given up,
    which says so and leaves the model. Losses are named with their stage, and those at the last stage count."""
    lose = lose_at_random(0.4, seed)
    masked, shared = (
        rounds(SecureSumEngine(saying(seed), WeightedEncoding(GRID), f, losing=lose), 4)
        for f in (MaskedSums(), SharedSums())
    )
    before = start(SIZE).params
    for number, (round, other) in enumerate(zip(masked, shared, strict=True)):
        gone = {c: stage for stage, some in enumerate(lose(range(CLIENTS), number)) for c in some}
        assert {c for c, stage in gone.items() if stage < 3} <= set(round.lost)
        if "abandoned" in round.info:
            assert same(round.state.params, before)
            assert any("nothing was revealed" in why for why in round.lost.values())
        else:
            left = [c for c in range(CLIENTS) if c not in round.lost]
            move = opened(saying(seed), left)
            after = tree.sub(before, move)
            assert same(round.state.params, after)
            assert round.info["lost"] == CLIENTS - len(left) if round.lost else "lost" not in round.info
        before = round.state.params
        assert set(other.lost) == {c for c, stage in gone.items() if stage < 3}


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def opened(engine: Saying, left: list[int]) -> Any:
    """The mean over these alone, by the arithmetic without any protection."""
    encoding = WeightedEncoding(GRID)
    words = {c: encoding.words(engine.message(c), c, 0) for c in left}
    total = PlainSums().sum(words, GRID, 0, no_losses(left, 0)).words
    return encoding.message(total, engine.message(0), len(left)).value


def test_both_happen() -> None:
    """In the test above there are rounds given up, and sums with clients lost at every stage."""
    seen = [
        r
        for seed in range(6)
        for r in rounds(SecureSumEngine(saying(seed), WeightedEncoding(GRID), losing=lose_at_random(0.4, seed)), 4)
    ]
    given_up = sum("abandoned" in r.info for r in seen)
    assert 0 < given_up < len(seen)
    reasons = {why for r in seen if "abandoned" not in r.info for why in r.lost.values()}
    assert {f"lost before it s{word}" for word in ("ent its keys", "hared its secrets", "ent its update")} <= reasons


def test_losses_follow_from_the_seed_and_are_as_many_as_said() -> None:
    lost = [lose_at_random(0.3, 5)(range(500), number) for number in range(40)]
    assert lost == [lose_at_random(0.3, 5)(range(500), number) for number in range(40)]
    for stage in range(4):
        assert sum(len(some[stage]) for some in lost) == pytest.approx(0.3 * 500 * 40 / 4, rel=0.08)
    assert all(len(set().union(*some)) == sum(map(len, some)) for some in lost)


def test_what_is_not_finite_is_not_sent() -> None:
    """A client with NaN in its update or its loss keeps it to itself; the sum is that of the others."""
    engine = saying()
    engine.says[3, 2], engine.losses[5] = torch.nan, float("inf")  # type: ignore[index]
    [round] = rounds(SecureSumEngine(engine, WeightedEncoding(GRID)))
    assert set(round.lost) == {3, 5}
    move = opened(engine, [c for c in range(CLIENTS) if c not in (3, 5)])
    assert torch.equal(-round.state.params["w"], move["w"])


def test_a_model_that_diverges_is_said_to() -> None:
    """More clients have nothing finite to send than have: no round given up after round, but an end."""
    for bad in (7, CLIENTS):
        engine = saying()
        engine.says[:bad] = torch.nan
        with pytest.raises(Diverged, match=f"no longer finite for {bad} of its 12"):
            rounds(SecureSumEngine(engine, WeightedEncoding(GRID)))


def test_cut_numbers_are_counted_in_sum() -> None:
    engine = Saying(torch.full((4, 5), 3.0, dtype=torch.float64))
    engine.says[1, :2] = 5.0
    [group] = asked_of(SecureSumEngine(engine, WeightedEncoding(FixedPointGrid(clip=4.0, bits=30))), 4)
    assert group.messages.info["cut"] == pytest.approx(2 / 20)
    assert group.messages.value["b"][0] == pytest.approx((3 * 3 + 4) / 4, abs=1e-6)


def asked_of(engine: Any, count: int) -> list[MessageBatch]:
    return list(engine.ask(steps(), dict.fromkeys(range(count)), 0))


def test_a_loss_travels_whatever_its_size() -> None:
    for size in (1e-3, 1.0, 4e5):
        losses = [size * f for f in (0.5, 1.0, 2.0, 1.5)]
        [group] = asked_of(
            SecureSumEngine(
                Saying(torch.zeros(4, 3, dtype=torch.float64), losses=losses), WeightedEncoding(FixedPointGrid())
            ),
            4,
        )
        assert group.messages.info["loss"] == pytest.approx(1.25 * size, abs=1e-4)


# ---- groups -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "centered_clipping", "nnm+trimmed_mean"])
def test_a_rule_over_groups_is_the_rule_on_their_means(name: str) -> None:
    """Bit for bit the plain rule on the fixed-point means of the groups; weights are the groups'."""
    engine, groups = saying(), 4
    rule = make_rule(name, **({"f": 1} if "trimmed" in name else {"f": 0} if name == "krum" else {}))
    algorithm = replace(steps(), reduce=rule)
    [round] = rounds(SecureSumEngine(engine, WeightedEncoding(GRID), groups=groups, seed=3), algorithm=algorithm)
    parts = assign_groups(range(CLIENTS), groups, 3, 0)
    assert sorted(c for part in parts for c in part) == list(range(CLIENTS))
    assert [len(part) for part in parts] == [3] * 4
    parts.sort(key=min)
    weights = torch.tensor([sum(engine.weights[c] for c in part) for part in parts], dtype=torch.float64)
    reduced = rule(tree.stack([opened(engine, part) for part in parts]), weights)
    assert all(torch.equal(round.state.params[k], 0 - reduced[k]) for k in ("w", "b"))
    assert round.lost == {}


def test_groups_are_dealt_afresh_and_by_the_seed() -> None:
    drawn = [assign_groups(range(20), 5, 1, number) for number in range(8)]
    assert drawn == [assign_groups(reversed(range(20)), 5, 1, number) for number in range(8)]
    assert len({str(one) for one in drawn}) == 8
    assert assign_groups(range(20), 5, 2, 0) != drawn[0]


def test_one_that_lies_spoils_its_own_group_alone() -> None:
    """Client 4 sends what it likes: the means of the groups without it are the same, bit for bit, and the median stays
    within those; the mean of all would be off by a third of the grid."""
    honest, lying = saying(), saying()
    lying.says[4] = 1e9
    median = replace(steps(), reduce=make_rule("median"))
    a, b = (asked(SecureSumEngine(e, WeightedEncoding(GRID), groups=4), median) for e in (honest, lying))
    for ours, theirs in zip(a, b, strict=True):
        assert ours.members == theirs.members
        same = torch.equal(ours.messages.value["w"], theirs.messages.value["w"])
        assert same == (4 not in ours.members[0])  # type: ignore[index]
    [round] = rounds(SecureSumEngine(lying, WeightedEncoding(GRID), groups=4), algorithm=median)
    means = torch.cat([g.messages.value["w"] for g in b if 4 not in g.members[0]])  # type: ignore[index]
    assert (-round.state.params["w"] <= means.max(0).values + 1e-12).all()
    assert (-round.state.params["w"] >= means.min(0).values - 1e-12).all()


def test_a_group_that_is_lost_is_missing_and_the_others_count() -> None:
    def lose(clients: Any, number: int) -> Any:
        return [assign_groups(range(CLIENTS), 3, 0, 0)[1][:2], (), (), ()]

    algorithm = replace(steps(), reduce=make_rule("median"))
    [round] = rounds(SecureSumEngine(saying(), WeightedEncoding(GRID), groups=3, losing=lose), algorithm=algorithm)
    assert set(round.lost) == set(assign_groups(range(CLIENTS), 3, 0, 0)[1])
    assert "abandoned" not in round.info
    assert float(round.state.params["w"].abs().max()) > 0


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "groups", "words"),
    [
        ({"reduce": make_rule("median")}, 1, r"only sees sums.*secure\.groups=5"),
        ({}, 4, "without any benefit for the mean"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], groups: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rounds(SecureSumEngine(saying(), WeightedEncoding(GRID), groups=groups), algorithm=replace(steps(), **settings))


def test_a_round_without_a_cohort_cannot_take_sums() -> None:
    schedule = asynchronous(
        steps(), SecureSumEngine(saying(), WeightedEncoding(GRID)), start(SIZE), latency=equal_latency()
    )
    with pytest.raises(InputError, match="each client's own message"):
        next(schedule)


def test_too_few_are_a_round_given_up() -> None:
    """A sum over two tells each of the two what the other sent."""
    for form in (MaskedSums(), SharedSums()):
        [round] = rounds(SecureSumEngine(saying(), WeightedEncoding(GRID), form), cohort=2)
        assert round.info["abandoned"] == 1
        assert all("fewer than 3" in why for why in round.lost.values())
        assert not any(leaf.any() for leaf in tree.leaves(round.state.params))


def test_a_weight_without_a_cap_is_not_cut_in_silence() -> None:
    [round] = rounds(SecureSumEngine(saying(), WeightedEncoding(replace(GRID, cap=None))))
    assert "give the grid a cap" in " ".join(round.lost.values())


def test_secure_sum_is_what_the_engine_takes() -> None:
    """The protocol over numbers, and the engine's arithmetic, are one: the words of a message without info."""
    engine, plan = saying(), MaskedSums().plan(CLIENTS, SIZE + 1, GRID, 0)
    updates = {c: torch.cat([engine.says[c, :1], engine.says[c, 1:]]).numpy() for c in range(CLIENTS)}
    weights = dict(enumerate(engine.weights))
    assert (secure_sum(plan, updates, weights).words == plain_sum(GRID, updates, weights)).all()
