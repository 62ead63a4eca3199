"""SecAgg+: the masked sum is the plain one bit for bit, whoever is lost; and what clients refuse."""

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import seedbed.privacy.secure
from seedbed.errors import InputError
from seedbed.privacy.secure import Aborted, Grid, Plan, Refused, SecureClient, SecureServer, secure_sum, shamir
from seedbed.privacy.secure.keys import new_identity, public_of, seal
from seedbed.privacy.secure.protocol import Keys, Unmasking, neighbourhoods
from seedbed.privacy.secure.together import plain_sum

from .bench import CLIENTS, NUMBERS, is_exact, losses, plan

# ---- the sum ---------------------------------------------------------------------------------------------


def test_masked_is_plain_bit_for_bit() -> None:
    """Random numbers of clients, lengths, weights, neighbours and grids."""
    rng = np.random.default_rng(0)
    for case in range(40):
        n, d = int(rng.integers(4, 30)), int(rng.integers(1, 300))
        k = int(rng.integers(3, n))
        grid = Grid(clip=float(rng.uniform(0.1, 10)), bits=int(rng.integers(8, 40)), clients=n)
        agreed = Plan("r", case, 0, d, k, int(rng.integers(2, max(3, k // 2 + 1))), grid=grid)
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
        with pytest.raises(Aborted, match=f"3 clients sent their {word}|3 clients shared their {word}"):
            secure_sum(plan(), updates, lost=lost)  # type: ignore[arg-type]
    with pytest.raises(Aborted, match="of the 4 shares"):
        secure_sum(plan(), updates, lost=[(), (), (), range(17)])


def test_everybody_computes_the_same_graph() -> None:
    """k neighbours each, mutual, none its own; another roster or attempt gives another graph."""
    around = neighbourhoods(plan(neighbours=6), range(CLIENTS))
    assert all(len(others) == 6 and c not in others for c, others in around.items())
    assert all(c in around[other] for c, others in around.items() for other in others)
    assert neighbourhoods(plan(neighbours=6), reversed(range(CLIENTS))) == around
    assert neighbourhoods(plan(neighbours=6, attempt=1), range(CLIENTS)) != around


def test_shares_below_the_threshold_fit_every_secret() -> None:
    """With t − 1 shares any secret is possible: one more point makes them shares of whatever one likes. t shares
    or more give the secret; a false one is noticed but with probability 2⁻²⁶⁵."""
    secret = bytes(range(32))
    shares = shamir.share(secret, 5, range(1, 10))
    assert shamir.reconstruct({x: shares[x] for x in (9, 2, 4, 7, 1)}) == secret
    assert shamir.reconstruct(shares) == secret
    few = {x: shares[x] for x in (1, 2, 3, 4)}
    with pytest.raises(ValueError, match="do not fit"):
        shamir.reconstruct(few)
    with pytest.raises(ValueError, match="do not fit"):
        shamir.reconstruct(few | {5: shares[6]})


def test_shamir_by_hand() -> None:
    """f(x) = s + a·x through (1, s + a) and (2, s + 2a): s = 2f(1) − f(2), whatever a was drawn."""
    shares = shamir.share((1234).to_bytes(32, "big"), 2, (1, 2))
    one, two = (int.from_bytes(shares[x], "big") for x in (1, 2))
    assert (2 * one - two) % shamir.PRIME == 1234


# ---- what can be seen ------------------------------------------------------------------------------------


def masked(agreed: Plan, updates: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
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


class Attempt:
    """A malicious-server attempt of twelve clients up to a stage, with client 0 to be deceived."""

    def __init__(self, stage: str):
        self.plan = plan(length=3, neighbours=11, threshold=8, malicious_server=True)
        pairs = {c: new_identity() for c in range(12)}
        self.identities = {c: pair[1] for c, pair in pairs.items()}
        self.clients = {
            c: SecureClient(self.plan, c, identity=pairs[c][0], identities=self.identities) for c in range(12)
        }
        self.victim, self.server = self.clients[0], SecureServer(self.plan)
        for client in self.clients.values():
            self.server.receive_keys(client.advertise())
        self.roster = self.server.roster()
        if stage == "share":
            return
        for c, client in self.clients.items():
            self.server.receive_sealed(c, client.share(self.roster))
        self.deliveries = self.server.deliveries()
        if stage == "mask":
            return
        for c, sealed in self.deliveries.items():
            if c != 11:
                self.server.receive_masked(self.clients[c].mask(sealed, np.ones(3)))
        self.survivors = self.server.survivors()
        if stage == "confirm":
            return
        for c in self.survivors:
            self.server.receive_signature(c, self.clients[c].confirm(self.survivors))


def test_honest_to_the_end() -> None:
    attempt = Attempt("unmask")
    for c in attempt.survivors:
        attempt.server.receive_shares(attempt.clients[c].unmask(attempt.server.unmasking()))
    mean, weight = attempt.plan.grid.decode(attempt.server.total())
    assert weight == 11
    assert mean == pytest.approx(np.ones(3), abs=1e-4)


def other_keys(k: Keys) -> Keys:
    return k._replace(masking=public_of(bytes(range(1, 33))))


def test_a_roster_that_was_tampered_with_is_refused() -> None:
    """Keys of another client that the server made itself, its own keys altered, the same keys twice, a client that
    nobody knows, and a cohort shrunk until the sum is the update."""
    for change, reason in [
        (lambda r: [r[0], other_keys(r[1]), *r[2:]], "not signed"),
        (lambda r: [other_keys(r[0]), *r[1:]], "own keys"),
        (lambda r: [*r, r[3]], "twice"),
        (lambda r: [*r[:-1], r[-1]._replace(client=77)], "no known identity"),
        (lambda r: r[:2], "says too much"),
        (lambda r: r[:6], "fewer than the threshold"),
    ]:
        attempt = Attempt("share")
        with pytest.raises(Refused, match=reason):
            attempt.victim.share(change(attempt.roster))  # type: ignore[no-untyped-call]


def test_stages_are_answered_once_and_in_order() -> None:
    """A second sharing, masking or unmasking in one attempt, or one before its time."""
    attempt = Attempt("mask")
    with pytest.raises(Refused, match="keys are used once"):
        attempt.victim.share(attempt.roster)
    with pytest.raises(Refused, match="the next of this attempt is to mask"):
        attempt.victim.unmask(Unmasking(frozenset(range(12)), {}))
    attempt.victim.mask(attempt.deliveries[0], np.ones(3))
    with pytest.raises(Refused, match="keys are used once"):
        attempt.victim.mask(attempt.deliveries[0], np.ones(3))
    attempt = Attempt("unmask")
    attempt.victim.unmask(attempt.server.unmasking())
    with pytest.raises(Refused, match="keys are used once"):
        attempt.victim.unmask(attempt.server.unmasking())


def test_altered_or_foreign_shares_are_refused() -> None:
    """Shares that the server flipped a bit of, sealed itself, took from another attempt, or withheld too many of."""
    for change, reason in [
        (lambda d: d | {3: d[3][:-1] + bytes([d[3][-1] ^ 1])}, "altered"),
        (lambda d: d | {3: seal(bytes(32), bytes(132), b"")}, "altered"),
        (lambda d: d | {3: Attempt("mask").deliveries[0][3]}, "altered"),
        (lambda d: d | {3: d[4]}, "altered"),
        (lambda d: d | {88: d[4]}, "no neighbour"),
        (lambda d: {c: d[c] for c in (1, 2, 3)}, "fewer than 8"),
    ]:
        attempt = Attempt("mask")
        with pytest.raises(Refused, match=reason):
            attempt.victim.mask(change(attempt.deliveries[0]), np.ones(3))  # type: ignore[no-untyped-call]


def test_forged_survivors_are_refused() -> None:
    """To have an update unmasked, a server must get both of its secrets: by telling some clients that it survived and
    others that it did not, by naming too few survivors or ones that never shared, or by leaving the victim out."""
    everybody = frozenset(range(11))
    attempt = Attempt("confirm")
    with pytest.raises(Refused, match="never shared"):
        attempt.victim.confirm(everybody | {99})
    for survivors, reason in [
        (everybody - {0}, "own update"),
        (frozenset({0, 1}), "says too much"),
        (frozenset(range(6)), "fewer than 8"),
    ]:
        with pytest.raises(Refused, match=reason):
            Attempt("confirm").victim.confirm(survivors)
    attempt = Attempt("unmask")
    asked = attempt.server.unmasking()
    with pytest.raises(Refused, match="not those that it has signed"):
        attempt.victim.unmask(asked._replace(survivors=everybody - {5}))
    attempt = Attempt("unmask")
    asked = attempt.server.unmasking()
    few = {c: s for c, s in asked.signatures.items() if c < 5}
    with pytest.raises(Refused, match="have signed the same survivors"):
        attempt.victim.unmask(asked._replace(signatures=few))
    attempt = Attempt("unmask")
    wrong = {c: asked.signatures[c] for c in asked.signatures}  # of another attempt's clients
    with pytest.raises(Refused, match="have signed the same survivors"):
        attempt.victim.unmask(attempt.server.unmasking()._replace(signatures=wrong))


def test_a_split_view_cannot_be_signed() -> None:
    """Half of the clients are told that client 5 survived, half that it did not: neither half has signatures of
    more than two thirds of its neighbours over what it was told."""
    attempt = Attempt("confirm")
    views = {c: attempt.survivors - ({5} if c % 2 else frozenset()) for c in attempt.survivors if c != 5}
    signed = {c: attempt.clients[c].confirm(view) for c, view in views.items()}
    for c, view in views.items():
        with pytest.raises(Refused, match="have signed the same survivors"):
            attempt.clients[c].unmask(Unmasking(frozenset(view), signed))


def test_another_plan_is_another_language() -> None:
    """A server that lowers the threshold or the modulus in its own plan: no signature of it holds."""
    lowered = SecureServer(plan(length=3, neighbours=11, threshold=8, malicious_server=True, round=9))
    attempt = Attempt("share")
    for c in range(12):
        stranger = SecureClient(lowered.plan, c, identity=new_identity()[0], identities=attempt.identities)
        lowered.receive_keys(stranger.advertise())
    roster = [attempt.roster[0], *lowered.roster()[1:]]
    with pytest.raises(Refused, match="not signed"):
        attempt.victim.share(roster)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"threshold": 1}, "does not protect"),
        ({"threshold": 20}, "does not protect"),
        ({"threshold": 12, "malicious_server": True}, "two thirds"),
        ({"min_cohort": 2}, "a sum of two"),
    ],
)
def test_plans_that_protect_nobody_are_refused(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        plan(**wrong)


def test_a_false_share_is_noticed() -> None:
    """A client that lies about a share spoils the attempt, not the result."""
    agreed = plan(length=3, neighbours=5, threshold=3)
    server, clients = SecureServer(agreed), {c: SecureClient(agreed, c) for c in range(6)}
    for client in clients.values():
        server.receive_keys(client.advertise())
    roster = server.roster()
    for c, client in clients.items():
        server.receive_sealed(c, client.share(roster))
    for c, sealed in server.deliveries().items():
        if c:
            server.receive_masked(clients[c].mask(sealed, np.ones(3)))
    for c in range(1, 6):
        answer = clients[c].unmask(server.unmasking())
        server.receive_shares(answer._replace(lost={0: bytes(66)}) if c == 1 else answer)
    with pytest.raises(Aborted, match="is false"):
        server.total()
