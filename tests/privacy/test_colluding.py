"""Servers that deviate together with clients: what they get at the stated bound, and one client beyond it."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from seedbed.errors import InputError
from seedbed.privacy.secure import ClientAbort, FixedPointGrid, MaskedSums, RoundAborted, SecAggPlan, keys, shamir
from seedbed.privacy.secure.fixed_point import GridWords
from seedbed.privacy.secure.masks import pair_mask, self_mask_of
from seedbed.privacy.secure.secagg_protocol import UnmaskRequest, draw_neighbours, neighbourhoods, survivors_statement

from .attempt import Attempt
from .bench import plan

VICTIM = 0


def read_off(agreed: SecAggPlan, count: int, colluding: int) -> bool:
    """Whether a server with so many colluding clients gets an honest client's update, as it was sent.

    Some of the honest clients are told that it survived, the others that it did not; those that collude sign both, and
    give the server both shares that they hold.
    """
    deceived = Attempt(agreed, count, "confirm")
    corrupt, honest = range(count - colluding, count), range(1, count - colluding)
    everybody = frozenset(range(count))
    half = max(0, min(len(honest), agreed.threshold - colluding))  # as few as are needed
    views = [([VICTIM, *honest[:half]], everybody), ([*honest[half:]], everybody - {VICTIM})]
    shares: list[dict[int, bytes]] = [{}, {}]
    for which, (told, survivors) in enumerate(views):
        signatures = {c: deceived.clients[c].confirm(survivors) for c in told}
        for c in corrupt:
            signatures[c] = keys.sign(deceived.pairs[c][0], survivors_statement(agreed, survivors))
            shares[which][c + 1] = deceived.clients[c]._held[VICTIM][which]
        for c in told:
            try:
                answer = deceived.clients[c].unmask(UnmaskRequest(survivors, signatures))
            except ClientAbort:
                continue
            shares[which] |= {c + 1: (answer.alive, answer.lost)[which][VICTIM]} if c != VICTIM else {}
    if min(map(len, shares)) < agreed.threshold:
        return False
    first, second = (shamir.reconstruct_secret(dict(sorted(some.items())[: agreed.threshold])) for some in shares)
    return opens(deceived, first, second)


def opens(deceived: Attempt, self_mask: bytes, masking: bytes) -> bool:
    agreed = deceived.plan
    words: GridWords = deceived.masked[VICTIM].words - self_mask_of(agreed, self_mask)
    for other in deceived.deliveries[VICTIM]:
        public = deceived.roster[other].masking
        np.subtract(words, pair_mask(agreed, masking, public, VICTIM, other), out=words)
    return bool(agreed.grid.decode(words)[0] == pytest.approx(np.ones(agreed.length), abs=1e-4))


@pytest.mark.parametrize(("count", "lost"), [(10, 0.3), (10, 0.2), (13, 0.3)])
def test_an_update_is_safe_until_two_thresholds_overlap(count: int, lost: float) -> None:
    """Both of a client's secrets take 2t shares, of which holders that collude give two each: k + c ≥ 2t. In a complete
    graph it takes one client more, whose signature the others wait for. The plan holds at the bound, for more than it
    states, and not beyond."""
    agreed = MaskedSums(malicious_server=True, lost=lost).plan(count, 4, FixedPointGrid(clients=count), 0)
    bound = 2 * agreed.threshold - agreed.neighbours
    stated = MaskedSums(malicious_server=True, lost=lost).assumed(count).colluding
    assert stated < bound
    found = {c: read_off(agreed, count, c) for c in (stated, bound, bound + 1)}
    assert found == {stated: False, bound: False, bound + 1: True}


def test_the_default_plan_holds_against_all_but_four() -> None:
    """`malicious_server=True` with nothing else said, and so many that only four clients are honest."""
    for count in (10, 16):
        assert not read_off(
            MaskedSums(malicious_server=True).plan(count, 4, FixedPointGrid(clients=count), 0), count, count - 4
        )


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 30])
def test_the_default_plan_holds_for_larger_rounds(count: int) -> None:
    agreed = MaskedSums(malicious_server=True).plan(count, 4, FixedPointGrid(clients=count), 0)
    assert not any(read_off(agreed, count, colluding) for colluding in range(0, count - 3, 3))


def test_an_update_that_survived_is_never_left_by_itself() -> None:
    """The server names as survivors the victim and no more of its holders than it must: any fewer, and no holder gives
    a share of its self-mask; with those its masks stand, since their own holders have signed that they survived."""
    agreed = MaskedSums(malicious_server=True, lost=0.2).plan(10, 4, FixedPointGrid(clients=10), 0)
    for named in range(3, 10):
        deceived = Attempt(agreed, 10, "confirm")
        survivors = frozenset(range(named))
        given = 0
        for c in survivors - {VICTIM}:
            try:
                signed = {h: keys.sign(deceived.pairs[h][0], survivors_statement(agreed, survivors)) for h in survivors}
                deceived.clients[c].confirm(survivors)
                given += VICTIM in deceived.clients[c].unmask(UnmaskRequest(survivors, signed)).alive
            except ClientAbort:
                continue
        assert given == (named - 1 if named > agreed.threshold else 0)


# ---- the graph ---------------------------------------------------------------------------------------------------


def test_neighbours_are_drawn_by_the_client_itself() -> None:
    """k of the others, none its own, all of them where they are few; afresh each time, each as often as chance would
    have it: χ² over 2,000 draws."""
    agreed = plan(neighbours=6)
    graph = neighbourhoods(agreed, range(20))
    assert all(len(others) == 6 and c not in others and others <= set(range(20)) for c, others in graph.items())
    assert draw_neighbours(agreed, range(5), 2) == {0, 1, 3, 4}
    drawn = [draw_neighbours(agreed, range(20), 3) for _ in range(2000)]
    assert len(set(drawn)) > 1900
    counts = Counter(c for one in drawn for c in one)
    assert stats.chisquare([counts[c] for c in range(20) if c != 3]).pvalue > 1e-4


def test_a_server_cannot_choose_a_clients_neighbours() -> None:
    """It shows the victim 400 rosters of 24 to 30 clients, six of which collude, and keeps those under which a graph
    drawn beforehand would give it 7 of 10. What the victim then draws is as if nothing had been tried: on average the
    part that colludes, by ± 4 standard errors."""
    agreed = plan(neighbours=10, threshold=7)
    rng = np.random.default_rng(0)
    colluding = set(range(24, 30))
    rosters = [[*range(int(rng.integers(18, 24))), *colluding] for _ in range(400)]
    best = max(rosters, key=lambda roster: len(draw_neighbours(agreed, roster, VICTIM) & colluding))
    found = [len(draw_neighbours(agreed, best, VICTIM) & colluding) for _ in range(2000)]
    expected = stats.hypergeom(len(best) - 1, 6, 10)
    assert np.mean(found) == pytest.approx(expected.mean(), abs=4 * expected.std() / np.sqrt(2000))


def test_holders_are_drawn_after_the_roster_is_fixed() -> None:
    """Nothing that a client sends or holds before tells them, and a small roster is refused: the odds count on it."""
    agreed = MaskedSums().plan(60, 4, FixedPointGrid(clients=60), 0)
    assert agreed.roster == 42
    attempt = Attempt(agreed, 60, "share")
    assert not attempt.victim._holders
    with pytest.raises(ClientAbort, match="at least 42"):
        attempt.victim.share(attempt.roster[:41])
    twice = [Attempt(agreed, 60, "share").victim for _ in range(2)]
    assert len({frozenset(client.share(attempt_roster(client, attempt))) for client in twice}) == 2


def attempt_roster(client: object, attempt: Attempt) -> list[object]:
    """The roster of an attempt, with this client in the place of its own victim."""
    return [client._roster[VICTIM], *attempt.roster[1:]]  # type: ignore[attr-defined]


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "clients", "words"),
    [
        (MaskedSums(malicious_server=True, lost=0.4), 10, "2 of them, while tolerating 4 lost .* twice the lost"),
        (MaskedSums(colluding=0.6, lost=0.5), 20, "follows the protocol and colludes with 12 of them, .* 10"),
        (MaskedSums(malicious_server=True, lost=0.3), 4, "no threshold protects 4 clients"),
        (MaskedSums(neighbours=14, threshold=8), 100, r"an update is exposed with odds of 1 in .* \(at most 1 in 1.1e"),
        (MaskedSums(threshold=2), 10, "threshold=2 of 9 neighbours does not protect 10 clients: with 2 colluding"),
        (MaskedSums(threshold=9), 10, r"3 lost, the round is given up with odds of 1 in 1 \(at most 1 in 1e\+06\)"),
        (MaskedSums(threshold=40), 10, "it must be from 2 to 9"),
    ],
)
def test_plans_that_cannot_hold_are_refused_in_words(form: MaskedSums, clients: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        form.plan(clients, 4, FixedPointGrid(clients=clients), 0)
    with pytest.raises(RoundAborted, match=words):
        form.sum(
            {c: np.zeros(4, np.uint32) for c in range(clients)}, FixedPointGrid(clients=clients), 0, ((), (), (), ())
        )
