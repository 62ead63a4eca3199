"""The server's side of SecAgg+: it forwards messages, adds up masked updates, and removes the masks from the sum.

Clients may be lost before, during or between all stages; a client that has not answered when a stage closes is left
out. An invalid or late answer is refused, and `refused` records the client and the reason. No answer of one client can
raise an exception, or make other clients refuse.
"""

from collections.abc import Mapping
from enum import IntEnum

import numpy as np

from seedbed.privacy.secure import keys, masks, shamir
from seedbed.privacy.secure.checks import check_signature, is_well_formed
from seedbed.privacy.secure.fixed_point import GridWords, add_modular
from seedbed.privacy.secure.sealing import MASKING_KEY, SELF_MASK, SIZE, is_committed
from seedbed.privacy.secure.secagg_protocol import (
    AdvertisedKeys,
    ClientAbort,
    ClientId,
    MaskedInput,
    RoundAborted,
    SecAggPlan,
    UnmaskRequest,
    UnmaskShares,
    is_client,
    point,
)


class Stage(IntEnum):
    """The answers that the server waits for."""

    KEYS = 0
    SEALED = 1
    MASKED = 2
    SHARES = 3


class SecureServer:
    """One attempt at one sum: each receive_* method takes a client's answer; the method after it closes the stage.

    Args:
        plan: the agreed plan.
        identities: all clients' public signing keys; if given, keys that their owner did not sign are refused.

    Attributes:
        refused: by client: why its answer was refused, or what is wrong with its shares.
    """

    def __init__(self, plan: SecAggPlan, identities: Mapping[ClientId, bytes] | None = None):
        self.plan, self.identities = plan, identities
        self.refused: dict[ClientId, str] = {}
        self._stage = Stage.KEYS
        self._keys: dict[ClientId, AdvertisedKeys] = {}
        self._points: dict[ClientId, int] = {}
        self._sealed: dict[ClientId, Mapping[ClientId, bytes]] = {}
        self._unopened: dict[ClientId, frozenset[ClientId]] = {}  # dealer → holders that could not open its shares
        self._total: GridWords = np.zeros(plan.words, plan.grid.dtype)
        self._survivors: set[ClientId] = set()
        self._signatures: dict[ClientId, bytes] = {}
        self._answers: dict[ClientId, UnmaskShares] = {}

    # ---- stage 0: keys -----------------------------------------------------------------------------------------

    def receive_keys(self, sent: AdvertisedKeys) -> None:
        if not is_well_formed(sent):
            self._refuse(getattr(sent, "client", None), "its keys are malformed")
        elif self._is_open(Stage.KEYS, sent.client) and sent.client not in self._keys:
            why = self._why_not(sent)
            if why:
                self._refuse(sent.client, why)
            else:
                self._keys[sent.client] = sent

    def _why_not(self, sent: AdvertisedKeys) -> str:
        """Why other clients would refuse a roster with these keys; empty if they would not."""
        known = {key for k in self._keys.values() for key in (k.sealing, k.masking)}
        if not (keys.is_public(sent.sealing) and keys.is_public(sent.masking)):
            return "one of its keys is malformed or of low order"
        if sent.sealing == sent.masking or known & {sent.sealing, sent.masking}:
            return "one of its keys is in use already"
        if len(self._keys) == self.plan.grid.clients:
            return f"the plan's grid is for {self.plan.grid.clients} clients"
        if self.plan.malicious_server and self.identities is not None:
            try:
                check_signature(self.plan, sent, self.identities)
            except ClientAbort as error:
                return str(error)
        return ""

    def roster(self) -> list[AdvertisedKeys]:
        """The roster that every client gets for stage 1.

        Raises:
            RoundAborted: too few clients sent keys.
        """
        self._enough(len(self._keys), "sent their keys", self.plan.roster)
        self._stage = max(self._stage, Stage.SEALED)
        self._points = {c: point(list(self._keys), c) for c in self._keys}
        return [self._keys[c] for c in sorted(self._keys)]

    # ---- stage 1: shares ---------------------------------------------------------------------------------------

    def receive_sealed(self, client: ClientId, sealed: Mapping[ClientId, bytes]) -> None:
        if not self._is_open(Stage.SEALED, client) or client in self._sealed:
            return
        count = min(self.plan.neighbours, len(self._keys) - 1)
        good = isinstance(sealed, Mapping) and len(sealed) == count and client in self._keys
        if good and all(c in self._keys and c != client and _is_sealed(x) for c, x in sealed.items()):
            self._sealed[client] = dict(sealed)
        else:
            self._refuse(client, f"it did not share its secrets with {count} others of the roster")

    def deliveries(self) -> dict[ClientId, dict[ClientId, bytes]]:
        """For each client that shared: the shares encrypted for it, by sender. The client answers with stage 2.

        A neighbour that holds this client's shares but sent none for it has the entry b"".

        Raises:
            RoundAborted: too few clients shared their secrets.
        """
        self._enough(len(self._sealed), "shared their secrets")
        self._stage = max(self._stage, Stage.MASKED)
        return {c: {s: self._sealed[s].get(c, b"") for s in self._neighbours(c)} for c in self._sealed}

    def _neighbours(self, client: ClientId) -> list[ClientId]:
        """The clients of U2 that this client masks with."""
        others = (c for c in self._sealed if c != client)
        return [c for c in others if c in self._sealed[client] or client in self._sealed[c]]

    # ---- stage 2: masked updates -------------------------------------------------------------------------------

    def receive_masked(self, sent: MaskedInput) -> None:
        if not isinstance(sent, MaskedInput) or not self._is_open(Stage.MASKED, sent.client):
            return
        words = sent.words
        good = isinstance(words, np.ndarray) and words.dtype == self._total.dtype and words.shape == self._total.shape
        if not good or sent.client not in self._sealed:
            self._refuse(sent.client, f"its update does not have {self.plan.words} words, or it shared no secrets")
        elif sent.client not in self._survivors:
            self._survivors.add(sent.client)
            add_modular(self._total, words)
            self._complain(sent)

    def _complain(self, sent: MaskedInput) -> None:
        for dealer in sent.unopened if isinstance(sent.unopened, frozenset) else ():
            if sent.client in self._sealed.get(dealer, ()):
                self._unopened[dealer] = self._unopened.get(dealer, frozenset()) | {sent.client}

    def survivors(self) -> frozenset[ClientId]:
        """The clients whose updates count; with `malicious_server` they sign this list.

        Raises:
            RoundAborted: too few clients are left, or too few of a client's shares can be opened.
        """
        self._enough(len(self._survivors), "sent their updates")
        for dealer, holders in sorted(self._unopened.items()):
            self._refuse(dealer, f"its shares for {_names(holders)} do not open: either it sent junk, or they lie")
            if len(self._sealed[dealer]) - len(holders) < self.plan.threshold:
                raise self._abort(f"the shares of client {dealer} for {_names(holders)} do not open: leave it out")
        self._stage = max(self._stage, Stage.SHARES)
        return frozenset(self._survivors)

    def receive_signature(self, client: ClientId, signature: bytes) -> None:
        if is_client(client) and client in self._survivors and isinstance(signature, bytes):
            self._signatures.setdefault(client, signature)

    # ---- stage 3: unmasking ------------------------------------------------------------------------------------

    def unmasking(self) -> UnmaskRequest:
        """The request to every survivor."""
        return UnmaskRequest(self.survivors(), dict(self._signatures))

    def receive_shares(self, sent: UnmaskShares) -> None:
        if not isinstance(sent, UnmaskShares) or not self._is_open(Stage.SHARES, sent.client):
            return
        if isinstance(sent.alive, Mapping) and isinstance(sent.lost, Mapping) and sent.client in self._survivors:
            self._answers.setdefault(sent.client, sent)
        else:
            self._refuse(sent.client, "its unmasking answer is malformed, or its update does not count")

    def total(self) -> GridWords:
        """The sum of the survivors' words, exactly: [plan.words]. `plan.grid.decode` turns it into a mean.

        Raises:
            RoundAborted: fewer than `threshold` valid shares of a client's secret came back.
        """
        to_remove = [masks.Mask(self._secret(client, SELF_MASK), -1) for client in sorted(self._survivors)]
        for client in sorted(self._sealed.keys() - self._survivors):
            left = sorted(self._survivors.intersection(self._neighbours(client)))
            if left:
                private = self._secret(client, MASKING_KEY)  # removes the masks that others added for the lost client
                to_remove += [masks.pair(self.plan, private, self._keys[c].masking, client, c) for c in left]
        total = self._total.copy()
        masks.apply(total, to_remove)
        return total

    def _secret(self, client: ClientId, which: int) -> bytes:
        """Reconstruct one of a client's two secrets from the returned shares that match their commitments."""
        shares: dict[int, bytes] = {}
        for holder, sealed in self._sealed[client].items():
            share = self._share(client, holder, which)
            if isinstance(share, bytes) and is_committed(sealed, which, share):
                shares[self._points[holder]] = share
            elif share is not None:
                self._refuse(holder, f"its share of client {client}'s secret is false")
        if len(shares) < self.plan.threshold:
            raise self._abort(
                f"{len(shares)} of the {self.plan.threshold} shares needed for client {client}'s secret came back"
            )
        public = self._keys[client].masking
        secret = shamir.search_shares(
            shares, self.plan.threshold, lambda secret: which == SELF_MASK or keys.public_of(secret) == public
        )
        if secret is None:
            self._refuse(client, "its shares belong to no secret")
            raise self._abort(f"the shares of client {client} do not fit together: leave it out")
        return secret

    def _share(self, client: ClientId, holder: ClientId, which: int) -> object:
        answer = self._answers.get(holder)
        if answer is None:
            return None
        return (answer.alive if which == SELF_MASK else answer.lost).get(client)

    # ---- refusals ----------------------------------------------------------------------------------------------

    def _is_open(self, stage: Stage, client: object) -> bool:
        if not is_client(client):
            return False
        if self._stage != stage:
            late = self._stage > stage
            self._refuse(
                client, f"its {stage.name.lower()} came {'too late' if late else 'before they were asked for'}"
            )
        return self._stage == stage

    def _refuse(self, client: object, why: str) -> None:
        """Record the reason for a refusal; the first one is kept."""
        if is_client(client):
            assert isinstance(client, int)
            self.refused.setdefault(client, why)

    def _enough(self, count: int, did: str, least: int = 0) -> None:
        least = max(self.plan.min_cohort, self.plan.threshold + 1, least)
        if count < least:
            raise self._abort(f"{count} clients {did}, fewer than {least}")

    def _abort(self, why: str) -> RoundAborted:
        where = f"attempt {self.plan.attempt} of round {self.plan.round}: {why}; nothing was revealed"
        if self._stage < Stage.SHARES:
            return RoundAborted(f"{where}, try again")
        return RoundAborted(f"{where}: do not retry this round, because the difference of two sums reveals updates")


def _is_sealed(content: object) -> bool:
    return isinstance(content, bytes) and len(content) == SIZE


def _names(clients: frozenset[ClientId]) -> str:
    return ", ".join(str(c) for c in sorted(clients))
