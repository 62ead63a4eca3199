"""SecAgg+: what all agree on beforehand, the graph of neighbours, and the messages.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal and Seth, "Practical secure aggregation for
privacy-preserving machine learning", CCS 2017; Bell, Bonawitz, Gascón, Lepoint and Raykova, "Secure single-server
aggregation with (poly)logarithmic overhead", CCS 2020. Each client i draws k others itself, after the roster is fixed:
its holders N(i), which hold shares of its two secrets. Two clients mask with each other if one holds for the other.

    stage       a client sends                                          who answered
    0 keys      two public keys                                         U1
    1 shares    its two secrets in shares, sealed for each holder       U2 ⊆ U1
    2 masked    y = x + PRG(b_i) + Σ_j ±PRG(s_ij), j in U2              U3 ⊆ U2
    3 unmask    shares of b_j of those in U3 that it holds for, of the  U4 ⊆ U3
                mask keys of those in U2 that are not in U3; never both

    server: Σ_U3 x = Σ_U3 y − Σ_U3 PRG(b_i) ∓ Σ of PRG(s_ij) between U3 and the lost

What it promises. The server learns sums over several honest clients, and of one update nothing but what these tell:
against a server that follows the protocol, while fewer than t of each client's holders collude with it; with
`malicious_server` against one that deviates, while fewer than 2t − k do, as long as every client knows the others'
identity keys from elsewhere. `odds` says how sure that is. Not covered: what a sum itself tells (take many clients, or
differential privacy), false inputs, a client's own machine, who took part and when.

The graph. No server can choose a client's holders: the client draws them from the operating system's randomness, after
it has seen the roster. So there is nothing to grind, no last revealer, and no stage more. What is left to a server
that deviates is which clients the roster holds: at least `Plan.roster` of them, for which the odds are computed.
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
    """A client will not go on: the server asked for something that would unmask an update."""


class RoundAborted(TooFewMessages):
    """An attempt that cannot end: too many clients were lost, or lie. Nothing was revealed.

    The round may be tried again as a new attempt, unless survivors were asked to unmask this one.
    """


@dataclass(frozen=True)
class SecAggPlan:
    """What server and clients agree on before an attempt; its digest is in every key and signature.

    Attributes:
        run, round, attempt: which sum this is. Keys are never used for another.
        length: numbers in an update, without its weight.
        neighbours: k, the holders of a client's shares; all others where they are fewer.
        threshold: t: so many shares give a secret, and so many holders must stay.
        min_cohort: a client takes no part in a sum over fewer.
        roster: a client takes no part where the roster is smaller. See `odds`, which counts on it.
        grid: how numbers become words.
        malicious_server: keys and survivors are signed; 2t − k colluding holders are needed, not t.
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
            raise InputError(f"min_cohort={self.min_cohort}: of a sum of two, each knows the other's; take 3 or more")

    @property
    def words(self) -> int:
        """Of a message: the numbers and the weight."""
        return self.length + 1

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


class AdvertisedKeys(NamedTuple):
    """Stage 0."""

    client: ClientId
    sealing: bytes  # the public key that shares for this client are sealed to
    masking: bytes  # the public key of its pairwise masks
    signature: bytes  # over both and the plan, by its identity; empty where the server is trusted to follow


class UnmaskRequest(NamedTuple):
    """What the server asks at stage 3."""

    survivors: frozenset[ClientId]  # U3
    signatures: dict[ClientId, bytes]  # of survivors over U3; empty where the server is trusted to follow


class UnmaskShares(NamedTuple):
    """A client's answer at stage 3: shares of the neighbours' self-masks, and of the lost ones' masking keys."""

    client: ClientId
    alive: dict[ClientId, bytes]
    lost: dict[ClientId, bytes]


class MaskedInput(NamedTuple):
    """Stage 2."""

    client: ClientId
    words: GridWords
    unopened: frozenset[ClientId] = frozenset()  # whose sealed shares did not open, or are not those committed to


def draw_neighbours(plan: SecAggPlan, roster: Collection[ClientId], client: ClientId) -> frozenset[ClientId]:
    """N(i): k of the others, drawn by the client itself; all of them where there are no more."""
    others = sorted(set(roster) - {client})
    for place in range(min(plan.neighbours, len(others))):  # the first k of a random order
        other = place + secrets.randbelow(len(others) - place)
        others[place], others[other] = others[other], others[place]
    return frozenset(others[: plan.neighbours])


def neighbourhoods(plan: SecAggPlan, clients: Iterable[ClientId]) -> dict[ClientId, frozenset[ClientId]]:
    """A graph as clients draw it, afresh in each call: whose shares each client gives to whom."""
    members = frozenset(clients)
    return {c: draw_neighbours(plan, members, c) for c in members}


def is_client(value: object) -> bool:
    """Whether it can number a client: what others send may hold anything."""
    return type(value) is int and 0 <= value < 2**63


def keys_statement(plan: SecAggPlan, client: ClientId, sealing: bytes, masking: bytes) -> bytes:
    """What a client signs at stage 0."""
    return b"keys" + plan.digest + client.to_bytes(8, "big") + sealing + masking


def survivors_statement(plan: SecAggPlan, survivors: Iterable[ClientId]) -> bytes:
    """What a client signs before stage 3."""
    return b"survivors" + plan.digest + json.dumps(sorted(survivors)).encode()


def session(plan: SecAggPlan, roster: Iterable[AdvertisedKeys]) -> bytes:
    """A digest of the plan and everybody's keys: shares that are sealed under another roster do not open."""
    members = sorted((k.client, k.sealing, k.masking) for k in roster)
    keys = b"".join(client.to_bytes(8, "big") + sealing + masking for client, sealing, masking in members)
    return hashlib.sha256(plan.digest + keys).digest()


def between(about: bytes, purpose: str, *clients: ClientId) -> bytes:
    """What a key between two clients is for, of this plan or session."""
    return about + purpose.encode() + b"".join(c.to_bytes(8, "big") for c in clients)


def point(roster: Sequence[ClientId], client: ClientId) -> int:
    """At which point a client's shares of others' secrets are taken: its place in the roster, from 1."""
    return sorted(roster).index(client) + 1
