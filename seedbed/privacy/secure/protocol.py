"""SecAgg+: what all agree on beforehand, the graph of neighbours, and the messages.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal and Seth, "Practical secure aggregation for
privacy-preserving machine learning", CCS 2017; Bell, Bonawitz, Gascón, Lepoint and Raykova, "Secure single-server
aggregation with (poly)logarithmic overhead", CCS 2020: each client shares and masks with k neighbours instead of all.

    stage       a client sends                                          who answered
    0 keys      two public keys                                         U1
    1 shares    its two secrets in shares, sealed for each neighbour    U2 ⊆ U1
    2 masked    y = x + PRG(b_i) + Σ_j∈N(i)∩U2 ±PRG(s_ij)               U3 ⊆ U2
    3 unmask    shares of b_j of neighbours in U3, of the mask keys     U4 ⊆ U3
                of those in U2 that are not in U3; never both

    server: Σ_U3 x = Σ_U3 y − Σ_U3 PRG(b_i) ∓ Σ of PRG(s_ij) between U3 and the lost

What it promises. Against a server that follows the protocol and reads all it gets, together with fewer than t of each
client's neighbours: nothing of an update but what the sum tells. With `malicious_server`, against one that deviates
too, as long as every client knows the others' identity keys from elsewhere. Not covered: what the sum itself tells
(take many clients, or differential privacy), false inputs, a client's own machine, who took part and when.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from seedbed.errors import InputError
from seedbed.privacy.secure.fixed_point import Grid, Words
from seedbed.reducers.robust import TooFew

ClientId = int


class Refused(InputError):
    """A client will not go on: the server asked for something that would unmask an update."""


class Aborted(TooFew):
    """An attempt that cannot end: too many clients were lost. Nothing was revealed; try again as a new attempt."""


@dataclass(frozen=True)
class Plan:
    """What server and clients agree on before an attempt; its digest is in every key and signature.

    Attributes:
        run, round, attempt: which sum this is. Keys are never used for another.
        length: numbers in an update, without its weight.
        neighbours: k, with whom a client shares and masks; capped by how many there are.
        threshold: t: so many shares give a secret, and so many neighbours must stay. Fewer than t colluding
            neighbours learn nothing.
        min_cohort: a client takes no part in a sum over fewer.
        grid: how numbers become words.
        malicious_server: keys and survivors are signed; t > 2k/3.
    """

    run: str
    round: int
    attempt: int
    length: int
    neighbours: int
    threshold: int
    min_cohort: int = 3
    grid: Grid = field(default_factory=Grid)
    malicious_server: bool = False

    def __post_init__(self) -> None:
        least = math.floor(2 * self.neighbours / 3) + 1 if self.malicious_server else 2
        if not least <= self.threshold <= self.neighbours:
            why = "more than two thirds of its neighbours" if self.malicious_server else "at least 2"
            raise InputError(
                f"threshold={self.threshold} of {self.neighbours} neighbours does not protect a client: it must be "
                f"{why} and at most all of them, {least} to {self.neighbours}"
            )
        if self.min_cohort < 3:
            raise InputError(f"min_cohort={self.min_cohort}: of a sum of two, each knows the other's; take 3 or more")

    @property
    def words(self) -> int:
        """Of a message: the numbers and the weight."""
        return self.length + 1

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


class Keys(NamedTuple):
    """Stage 0."""

    client: ClientId
    sealing: bytes  # the public key that shares for this client are sealed to
    masking: bytes  # the public key of its pairwise masks
    signature: bytes  # over both and the plan, by its identity; empty where the server is trusted to follow


class Unmasking(NamedTuple):
    """What the server asks at stage 3."""

    survivors: frozenset[ClientId]  # U3
    signatures: dict[ClientId, bytes]  # of survivors over U3; empty where the server is trusted to follow


class Shares(NamedTuple):
    """A client's answer at stage 3: shares of the neighbours' self-masks, and of the lost ones' masking keys."""

    client: ClientId
    alive: dict[ClientId, bytes]
    lost: dict[ClientId, bytes]


class Masked(NamedTuple):
    """Stage 2."""

    client: ClientId
    words: Words


def neighbourhoods(plan: Plan, clients: Iterable[ClientId]) -> dict[ClientId, frozenset[ClientId]]:
    """Who masks with whom: a ring in an order drawn by the plan and the roster, each with the k/2 next on each side.

    Everybody computes it by itself, so that nobody is given neighbours of the server's choice.
    """
    members = sorted(set(clients))
    about = plan.digest + hashlib.sha256(json.dumps(members).encode()).digest()
    ring = sorted(members, key=lambda c: hashlib.sha256(about + c.to_bytes(8, "big")).digest())
    n, reach = len(ring), min(math.ceil(plan.neighbours / 2), (len(ring) - 1) // 2)
    if plan.neighbours >= n - 1:
        return {c: frozenset(members) - {c} for c in members}
    around = [*range(-reach, 0), *range(1, reach + 1)]
    return {c: frozenset(ring[(i + step) % n] for step in around) for i, c in enumerate(ring)}


def keys_statement(plan: Plan, client: ClientId, sealing: bytes, masking: bytes) -> bytes:
    """What a client signs at stage 0."""
    return b"keys" + plan.digest + client.to_bytes(8, "big") + sealing + masking


def survivors_statement(plan: Plan, survivors: Iterable[ClientId]) -> bytes:
    """What a client signs before stage 3."""
    return b"survivors" + plan.digest + json.dumps(sorted(survivors)).encode()


def between(plan: Plan, purpose: str, *clients: ClientId) -> bytes:
    """What a key between two clients is for."""
    return plan.digest + purpose.encode() + b"".join(c.to_bytes(8, "big") for c in clients)


def point(roster: Sequence[ClientId], client: ClientId) -> int:
    """At which point a client's shares of others' secrets are taken: its place in the roster, from 1."""
    return sorted(roster).index(client) + 1
