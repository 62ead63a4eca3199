"""SecAgg+: the masked sum is the plain one bit for bit, whoever is lost; and what clients refuse."""

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import seedbed.privacy.secure
from seedbed.errors import InputError
from seedbed.privacy.secure import (
    ClientAbort,
    FixedPointGrid,
    RoundAborted,
    SecAggPlan,
    SecureClient,
    SecureServer,
    secure_sum,
    shamir,
)
from seedbed.privacy.secure.in_process import plain_sum
from seedbed.privacy.secure.keys import new_identity, public_of
from seedbed.privacy.secure.sealing import seal_shares
from seedbed.privacy.secure.secagg_protocol import AdvertisedKeys, UnmaskRequest

from . import attempt
from .bench import CLIENTS, NUMBERS, is_exact, losses, plan

# ---- the sum ---------------------------------------------------------------------------------------------


def test_masked_is_plain_bit_for_bit() -> None:
    """Random numbers of clients, lengths, weights, neighbours and grids."""
    rng = np.random.default_rng(0)
    for case in range(40):
        n, d = int(rng.integers(4, 30)), int(rng.integers(1, 300))
        k = int(rng.integers(3, n))
        grid = FixedPointGrid(clip=float(rng.uniform(0.1, 10)), bits=int(rng.integers(8, 40)), clients=n)
        agreed = SecAggPlan("r", case, 0, d, k, int(rng.integers(2, max(3, k // 2 + 1))), grid=grid)
        updates = {c: rng.normal(size=d) for c in range(n)}
        weights = {c: float(rng.uniform(0, 1)) for c in updates}
        assert (secure_sum(agreed, updates, weights).words == plain_sum(grid, updates, weights)).all()


@pytest.mark.parametrize("kind", ["0", "1", "2", "3", "mixed"])
@pytest.mark.parametrize("malicious", [False, True])
def test_thirty_per_cent_lost_at_any_stage(kind: str, malicious: bool) -> None:
    """The sum is exact whenever enough are left, and a named abort otherwise; 200 of 200 is
    `scripts/prove secure_aggregation`."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        lost = losses(rng, kind)
        for agreed in (plan(malicious_server=malicious, threshold=13 if malicious else 4), plan(neighbours=8)):
            assert is_exact(agreed, lost, rng)


def test_too_few_are_a_named_abort_that_reveals_nothing() -> None:
    updates = {c: np.zeros(NUMBERS) for c in range(CLIENTS)}
    for stage, word in enumerate(("keys", "secrets", "updates")):
        lost: list[object] = [(), (), (), ()]
        lost[stage] = range(17)
        with pytest.raises(RoundAborted, match=f"3 clients sent their {word}|3 clients shared their {word}"):
            secure_sum(plan(), updates, lost=lost)  # type: ignore[arg-type]
    with pytest.raises(RoundAborted, match="of the 4 shares"):
        secure_sum(plan(), updates, lost=[(), (), (), range(17)])


def test_shares_below_the_threshold_fit_every_secret() -> None:
    """With t − 1 shares any secret is possible: one more point makes them shares of whatever one likes. t shares
    or more give the secret; a false one is noticed but with probability 2⁻²⁶⁵."""
    secret = bytes(range(32))
    shares = shamir.share_secret(secret, 5, range(1, 10))
    assert shamir.reconstruct_secret({x: shares[x] for x in (9, 2, 4, 7, 1)}) == secret
    assert shamir.reconstruct_secret(shares) == secret
    few = {x: shares[x] for x in (1, 2, 3, 4)}
    with pytest.raises(ValueError, match="do not fit"):
        shamir.reconstruct_secret(few)
    with pytest.raises(ValueError, match="do not fit"):
        shamir.reconstruct_secret(few | {5: shares[6]})


def test_shamir_by_hand() -> None:
    """f(x) = s + a·x through (1, s + a) and (2, s + 2a): s = 2f(1) − f(2), whatever a was drawn."""
    shares = shamir.share_secret((1234).to_bytes(32, "big"), 2, (1, 2))
    one, two = (int.from_bytes(shares[x], "big") for x in (1, 2))
    assert (2 * one - two) % shamir.PRIME == 1234


# ---- what can be seen ------------------------------------------------------------------------------------


def masked(agreed: SecAggPlan, updates: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """What the server gets at stage 2."""
    server, clients = SecureServer(agreed), {c: SecureClient(agreed, c) for c in updates}
    for c in clients.values():
        server.receive_keys(c.advertise())
    roster = server.roster()
    for c, client in clients.items():
        server.receive_sealed(c, client.share(roster))
    return {c: clients[c].mask(sealed, updates[c]).words for c, sealed in server.deliveries().items()}


def test_masked_words_look_uniform() -> None:
    """A million words of constant updates: χ² over 256 values of each byte and Kolmogorov–Smirnov, p > 1e-3 / 10 for
    ten tests; the same updates again share no more words than chance would (10⁶ pairs of 2³²)."""
    agreed = plan(length=50_000, neighbours=4, threshold=3)
    updates = {c: np.full(50_000, 0.25) for c in range(20)}
    first, again = (np.concatenate([*masked(agreed, updates).values()]) for _ in range(2))
    assert first.size > 1e6
    for byte in range(4):
        counts = np.bincount((first >> np.uint32(8 * byte)) & np.uint32(255), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.kstest(first / 2**32, "uniform").pvalue > 1e-4
    assert (first == again).sum() <= 3
    assert abs(np.corrcoef(first, again)[0, 1]) < 5 / np.sqrt(first.size)


def test_randomness_comes_from_the_operating_system_alone() -> None:
    """No generator of numpy, torch or Python is named in the room: secrets and cryptography only."""
    for path in Path(seedbed.privacy.secure.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not names & {"random", "rand", "randn", "randint", "default_rng", "Generator", "draws", "manual_seed"}


# ---- a server that deviates ------------------------------------------------------------------------------


class Attempt(attempt.Attempt):
    """A malicious-server attempt of twelve clients up to a stage, with client 0 to be deceived, and client 11 lost."""

    def __init__(self, stage: str):
        agreed = plan(length=3, neighbours=11, threshold=8, malicious_server=True)
        super().__init__(agreed, 12, stage, silent={11})


def test_honest_to_the_end() -> None:
    deceived = Attempt("unmask")
    for c in deceived.survivors:
        deceived.server.receive_shares(deceived.clients[c].unmask(deceived.server.unmasking()))
    mean, weight = deceived.plan.grid.decode(deceived.server.total())
    assert weight == 11
    assert mean == pytest.approx(np.ones(3), abs=1e-4)


def other_keys(k: AdvertisedKeys) -> AdvertisedKeys:
    return k._replace(masking=public_of(bytes(range(1, 33))))


def test_a_roster_that_was_tampered_with_is_refused() -> None:
    """Keys of another client that the server made itself, its own keys altered, the same keys twice, a client that
    nobody knows, and a cohort shrunk until the sum is the update."""
    for change, reason in [
        (lambda r: [r[0], other_keys(r[1]), *r[2:]], "signature"),
        (lambda r: [other_keys(r[0]), *r[1:]], "own keys"),
        (lambda r: [*r, r[3]], "twice"),
        (lambda r: [*r[:-1], r[-1]._replace(client=77)], "identity key of client"),
        (lambda r: r[:2], "reveals too much"),
        (lambda r: r[:6], "fewer than the threshold"),
    ]:
        deceived = Attempt("share")
        with pytest.raises(ClientAbort, match=reason):
            deceived.victim.share(change(deceived.roster))  # type: ignore[no-untyped-call]


def test_stages_are_answered_once_and_in_order() -> None:
    """A second sharing, masking or unmasking in one attempt, or one before its time."""
    deceived = Attempt("mask")
    with pytest.raises(ClientAbort, match="keys are used once"):
        deceived.victim.share(deceived.roster)
    with pytest.raises(ClientAbort, match="the next step of this attempt is to mask"):
        deceived.victim.unmask(UnmaskRequest(frozenset(range(12)), {}))
    deceived.victim.mask(deceived.deliveries[0], np.ones(3))
    with pytest.raises(ClientAbort, match="keys are used once"):
        deceived.victim.mask(deceived.deliveries[0], np.ones(3))
    deceived = Attempt("unmask")
    deceived.victim.unmask(deceived.server.unmasking())
    with pytest.raises(ClientAbort, match="keys are used once"):
        deceived.victim.unmask(deceived.server.unmasking())


def test_altered_or_foreign_shares_are_not_held() -> None:
    """Shares that the server flipped a bit of, sealed itself, took from another attempt or another client, or a
    commitment that it changed: the client says so, and would give none of them back."""
    for change in (
        lambda d: d | {3: d[3][:-1] + bytes([d[3][-1] ^ 1])},
        lambda d: d | {3: bytes([d[3][0] ^ 1]) + d[3][1:]},
        lambda d: d | {3: seal_shares(bytes(32), (bytes(66), bytes(66)), b"")},
        lambda d: d | {3: Attempt("mask").deliveries[0][3]},
        lambda d: d | {3: d[4]},
    ):
        deceived = Attempt("mask")
        sent = deceived.victim.mask(change(deceived.deliveries[0]), np.ones(3))  # type: ignore[no-untyped-call]
        assert sent.unopened == {3}
        assert set(deceived.victim._held) == set(range(1, 12)) - {3}


def test_shares_of_strangers_and_too_few_are_refused() -> None:
    """Shares of a stranger, of itself, nothing from one that holds nothing; four of eleven altered, and withheld."""
    for change, reason in [
        (lambda d: d | {88: d[4]}, "not a neighbour"),
        (lambda d: d | {0: d[4]}, "not a neighbour"),
        (lambda d: d | dict.fromkeys((1, 2, 3, 4), b"x"), "7 of its neighbours are left, fewer than 8"),
        (lambda d: {c: d[c] for c in (1, 2, 3)}, "fewer than 8"),
    ]:
        deceived = Attempt("mask")
        with pytest.raises(ClientAbort, match=reason):
            deceived.victim.mask(change(deceived.deliveries[0]), np.ones(3))  # type: ignore[no-untyped-call]
        with pytest.raises(ClientAbort, match="nothing more"):  # whoever has refused takes no further part
            deceived.victim.confirm(range(12))


def test_shares_of_another_roster_do_not_open() -> None:
    """The server shows clients 0 to 5 one roster and the others one without client 11: only within each half shares
    open, so that nobody of the smaller half goes on."""
    split = Attempt("share")
    rosters = {c: split.roster if c < 6 else split.roster[:-1] for c in range(11)}
    sealed = {c: split.clients[c].share(roster) for c, roster in rosters.items()}
    with pytest.raises(ClientAbort, match="5 of its neighbours are left, fewer than 8"):
        split.victim.mask({c: sealed[c][0] for c in range(1, 11)}, np.ones(3))


def test_forged_survivors_are_refused() -> None:
    """To have an update unmasked, a server must get both of its secrets: by telling some clients that it survived and
    others that it did not, by naming too few survivors or ones that never shared, or by leaving the victim out."""
    everybody = frozenset(range(11))
    deceived = Attempt("confirm")
    with pytest.raises(ClientAbort, match="never shared"):
        deceived.victim.confirm(everybody | {99})
    for survivors, reason in [
        (everybody - {0}, "as lost, but asks it to unmask"),
        (frozenset({0, 1}), "reveals too much"),
        (frozenset(range(6)), "fewer than 8"),
    ]:
        with pytest.raises(ClientAbort, match=reason):
            Attempt("confirm").victim.confirm(survivors)
    deceived = Attempt("unmask")
    asked = deceived.server.unmasking()
    with pytest.raises(ClientAbort, match="differ from those that this client signed"):
        deceived.victim.unmask(asked._replace(survivors=everybody - {5}))
    deceived = Attempt("unmask")
    asked = deceived.server.unmasking()
    few = {c: s for c, s in asked.signatures.items() if c < 5}
    with pytest.raises(ClientAbort, match="have signed the same survivors"):
        deceived.victim.unmask(asked._replace(signatures=few))
    deceived = Attempt("unmask")
    wrong = {c: asked.signatures[c] for c in asked.signatures}  # of another attempt's clients
    with pytest.raises(ClientAbort, match="have signed the same survivors"):
        deceived.victim.unmask(deceived.server.unmasking()._replace(signatures=wrong))


def test_a_split_view_cannot_be_signed() -> None:
    """Half of the clients are told that client 5 survived, half that it did not: neither half has signatures of
    more than two thirds of its neighbours over what it was told."""
    deceived = Attempt("confirm")
    views = {c: deceived.survivors - ({5} if c % 2 else frozenset()) for c in deceived.survivors if c != 5}
    signed = {c: deceived.clients[c].confirm(view) for c, view in views.items()}
    for c, view in views.items():
        with pytest.raises(ClientAbort, match="have signed the same survivors"):
            deceived.clients[c].unmask(UnmaskRequest(frozenset(view), signed))


def test_another_plan_is_another_language() -> None:
    """A server that lowers the threshold or the modulus in its own plan: no signature of it holds."""
    lowered = SecureServer(plan(length=3, neighbours=11, threshold=8, malicious_server=True, round=9))
    deceived = Attempt("share")
    for c in range(12):
        stranger = SecureClient(lowered.plan, c, identity=new_identity()[0], identities=deceived.identities)
        lowered.receive_keys(stranger.advertise())
    roster = [deceived.roster[0], *lowered.roster()[1:]]
    with pytest.raises(ClientAbort, match="signature"):
        deceived.victim.share(roster)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"threshold": 1}, "does not protect"),
        ({"threshold": 20}, "does not protect"),
        ({"threshold": 9, "malicious_server": True}, "more than half"),
        ({"min_cohort": 2}, "a sum of two"),
    ],
)
def test_plans_that_protect_nobody_are_refused(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        plan(**wrong)


# ---- the least that is left -----------------------------------------------------------------------------------


def test_the_server_takes_no_sum_of_threshold_clients() -> None:
    """A secret needs t holders beside its owner: t + 1 clients go on at each stage, t are told so, before anything more
    is asked of them."""
    for stage, word in (("advertise", "sent their keys"), ("share", "shared"), ("mask", "sent their updates")):
        for left in (5, 4):
            few = attempt.Attempt(plan(length=3, neighbours=5, threshold=4), 6, stage)
            if left == 4:
                with pytest.raises(RoundAborted, match=f"4 clients {word}.*fewer than 5"):
                    go_on(few, stage, left)
            else:
                go_on(few, stage, left)


def go_on(few: attempt.Attempt, stage: str, left: int) -> None:
    """With the first clients only."""
    if stage != "mask":
        few.clients = {c: few.clients[c] for c in range(left)}
    if stage == "advertise":
        few.advertise()
    elif stage == "share":
        few.share()
    else:
        few.mask(silent=range(left, 6))


@pytest.mark.parametrize("malicious", [False, True])
def test_a_client_needs_threshold_neighbours_to_mask_and_to_unmask(malicious: bool) -> None:
    """With t it answers, with t − 1 it refuses."""
    agreed = plan(length=3, neighbours=6, threshold=4, malicious_server=malicious)
    for left, reason in ((4, None), (3, "fewer than 4")):
        few = attempt.Attempt(agreed, 7, "mask")
        delivered = {c: few.deliveries[0][c] for c in range(1, left + 1)}
        answer(partial(few.victim.mask, delivered, np.ones(3)), reason)
        few = attempt.Attempt(agreed, 7, "confirm")
        survivors = frozenset(range(left + 1))
        if malicious:
            answer(partial(few.victim.confirm, survivors), reason)
        else:
            answer(partial(few.victim.unmask, UnmaskRequest(survivors, {})), reason)


def test_a_client_needs_threshold_signatures() -> None:
    """Of its neighbours, over the survivors that it has signed itself: its own does not count."""
    for signed, reason in ((range(1, 9), None), (range(8), "7 neighbours have signed"), (range(1, 8), "7 neighbours")):
        few = Attempt("unmask")
        asked = few.asked._replace(signatures={c: few.asked.signatures[c] for c in signed})
        answer(partial(few.victim.unmask, asked), reason)


def test_a_secret_needs_threshold_shares() -> None:
    """Five clients that answer hold four shares of each other's secrets, four hold three."""
    for answering, reason in ((range(1, 6), None), (range(1, 5), "3 of the 4 shares")):
        few = attempt.Attempt(plan(length=3, neighbours=5, threshold=4), 6, "unmask")
        for c in answering:
            few.server.receive_shares(few.clients[c].unmask(few.asked))
        answer(few.server.total, reason)


def answer(ask: Callable[[], object], reason: str | None) -> None:
    """It answers, or refuses for this reason."""
    if reason is None:
        ask()
    else:
        with pytest.raises((ClientAbort, RoundAborted), match=reason):
            ask()
