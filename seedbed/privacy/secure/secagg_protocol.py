"""SecAgg+: the agreed plan, the graph of neighbours, and the messages.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal and Seth, "Practical secure aggregation for
privacy-preserving machine learning", CCS 2017; Bell, Bonawitz, Gascón, Lepoint and Raykova, "Secure single-server
aggregation with (poly)logarithmic overhead", CCS 2020. Each client i draws k others itself, after the roster is fixed:
its holders N(i), which hold shares of its two secrets. Two clients mask with each other if one holds for the other.

    stage       message of a client                                     clients that answered
    0 keys      two public keys                                         U1
    1 shares    its two secrets in shares, encrypted for each holder    U2 ⊆ U1
    2 masked    y = x + PRG(b_i) + Σ_j ±PRG(s_ij), j in U2              U3 ⊆ U2
    3 unmask    shares of b_j of those in U3 that it holds for, of the  U4 ⊆ U3
                mask keys of those in U2 that are not in U3; never both

    server: Σ_U3 x = Σ_U3 y − Σ_U3 PRG(b_i) ∓ Σ of PRG(s_ij) between U3 and the lost

Guarantee. The server learns sums over several honest clients, and about one update only what these sums reveal. Against
a server that follows the protocol this holds while fewer than t of each client's holders collude with it. With
`malicious_server` it holds against a server that deviates, while fewer than 2t − k collude, and if every client knows
the others' identity keys from a trusted source. `odds` computes the failure probability. Not covered: what the sum
itself reveals (use many clients, or differential privacy), false inputs, a compromised client machine, and the fact of
participation.

The graph. The server cannot choose a client's holders: the client draws them from the operating system's randomness
after it has seen the roster. So there is nothing to grind, no last revealer and no additional stage. A deviating server
can only choose the clients on the roster: at least `SecAggPlan.roster` of them, for which the odds are computed.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import NamedTuple

from seedbed.aggregation.robust import TooFewMessages
from seedbed.errors import InputError
from seedbed.privacy.secure.fixed_point import FixedPointGrid, GridWords

ClientId = int


class ClientAbort(InputError):
    """A client refuses to continue: the server asked for something that could unmask an update."""


class RoundAborted(TooFewMessages):
    """An attempt that cannot complete: too many clients were lost, or sent false data. Nothing was revealed.

    The round may be retried as a new attempt, unless survivors were already asked to unmask this one.
    """


@dataclass(frozen=True)
class SecAggPlan:
    """The plan that server and clients agree on before an attempt; every key and signature contains its digest.

    Attributes:
        run, round, attempt: identify the sum. Keys are never reused for another.
        length: numbers in an update, without its weight.
        neighbours: k, the holders of a client's shares; all others if there are fewer.
        threshold: t: shares needed to reconstruct a secret, and holders that must remain.
        min_cohort: a client refuses a sum over fewer clients; at least 3.
        roster: a client refuses a smaller roster; `odds` relies on it.
        grid: the fixed-point format.
        malicious_server: keys and survivors are signed; an attack needs 2t − k colluding holders instead of t.
    """

    run: str
    round: int
    attempt: int
    length: int
    neighbours: int
    threshold: int
    min_cohort: int = 3
    roster: int = 3
    grid: FixedPointGrid = field(default_factory=FixedPointGrid)
    malicious_server: bool = False

    def __post_init__(self) -> None:
        least = self.neighbours // 2 + 1 if self.malicious_server else 2
        if not least <= self.threshold <= self.neighbours:
            why = "more than half of its neighbours" if self.malicious_server else "at least 2"
            raise InputError(
                f"threshold={self.threshold} of {self.neighbours} neighbours does not protect a client: it must be "
                f"{why} and at most all of them, {least} to {self.neighbours}"
            )
        if self.min_cohort < 3:
            raise InputError(
                f"min_cohort={self.min_cohort}: in a sum of two, each learns the other's update; use 3 or more"
            )

    @property
    def words(self) -> int:
        """Words of a message: the numbers and the weight."""
        return self.length + 1

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


class AdvertisedKeys(NamedTuple):
    """Stage 0: a client's public keys."""

    client: ClientId
    sealing: bytes  # public key for encrypting shares to this client
    masking: bytes  # public key of its pairwise masks
    signature: bytes  # over both keys and the plan, by its identity key; empty without `malicious_server`


class UnmaskRequest(NamedTuple):
    """Stage 3: the server's request."""

    survivors: frozenset[ClientId]  # U3
    signatures: dict[ClientId, bytes]  # of survivors over U3; empty without `malicious_server`


class UnmaskShares(NamedTuple):
    """Stage 3: a client's answer: shares of the survivors' self-masks and of the lost clients' masking keys."""

    client: ClientId
    alive: dict[ClientId, bytes]
    lost: dict[ClientId, bytes]


class MaskedInput(NamedTuple):
    """Stage 2: a masked update."""

    client: ClientId
    words: GridWords
    unopened: frozenset[ClientId] = frozenset()  # senders whose shares do not open or do not match their commitments


def draw_neighbours(plan: SecAggPlan, roster: Collection[ClientId], client: ClientId) -> frozenset[ClientId]:
    """N(i): k of the others, drawn by the client itself; all others if there are fewer."""
    others = sorted(set(roster) - {client})
    for place in range(min(plan.neighbours, len(others))):  # the first k of a random order
        other = place + secrets.randbelow(len(others) - place)
        others[place], others[other] = others[other], others[place]
    return frozenset(others[: plan.neighbours])


def neighbourhoods(plan: SecAggPlan, clients: Iterable[ClientId]) -> dict[ClientId, frozenset[ClientId]]:
    """A random graph as clients draw it, new in each call: client → the holders of its shares."""
    members = frozenset(clients)
    return {c: draw_neighbours(plan, members, c) for c in members}


def is_client(value: object) -> bool:
    """Whether the value can number a client; messages from outside may contain anything."""
    return type(value) is int and 0 <= value < 2**63


def keys_statement(plan: SecAggPlan, client: ClientId, sealing: bytes, masking: bytes) -> bytes:
    """The bytes that a client signs at stage 0."""
    return b"keys" + plan.digest + client.to_bytes(8, "big") + sealing + masking


def survivors_statement(plan: SecAggPlan, survivors: Iterable[ClientId]) -> bytes:
    """The bytes that a client signs before stage 3."""
    return b"survivors" + plan.digest + json.dumps(sorted(survivors)).encode()


def session(plan: SecAggPlan, roster: Iterable[AdvertisedKeys]) -> bytes:
    """Digest of the plan and all clients' keys: shares encrypted under another roster do not open."""
    members = sorted((k.client, k.sealing, k.masking) for k in roster)
    keys = b"".join(client.to_bytes(8, "big") + sealing + masking for client, sealing, masking in members)
    return hashlib.sha256(plan.digest + keys).digest()


def between(about: bytes, purpose: str, *clients: ClientId) -> bytes:
    """HKDF info of a key between clients, bound to a plan or session and a purpose."""
    return about + purpose.encode() + b"".join(c.to_bytes(8, "big") for c in clients)


def point(roster: Sequence[ClientId], client: ClientId) -> int:
    """The point of a client's shares of others' secrets: its place in the roster, from 1."""
    return sorted(roster).index(client) + 1
