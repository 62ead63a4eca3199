"""The client's side of SecAgg+: four answers, and the requests that it refuses.

A client answers each stage once and in order. It refuses all that a deviating server would need: see `ClientAbort`.
"""

from collections.abc import Iterable, Mapping, Sequence

from seedbed.privacy.secure import keys, masks, shamir
from seedbed.privacy.secure.checks import check_roster, client_ids
from seedbed.privacy.secure.fixed_point import GridWords, Numbers
from seedbed.privacy.secure.sealing import open_shares, seal_shares
from seedbed.privacy.secure.secagg_protocol import (
    AdvertisedKeys,
    ClientAbort,
    ClientId,
    MaskedInput,
    SecAggPlan,
    UnmaskRequest,
    UnmaskShares,
    between,
    draw_neighbours,
    is_client,
    keys_statement,
    point,
    session,
    survivors_statement,
)

OVER = "nothing more"  # the stage after the last, and after a refusal


class SecureClient:
    """One client in one attempt; its secrets exist only as long as this object.

    Args:
        plan: the client's own copy, agreed beforehand; no message of the server changes it.
        client: this client's number.
        identity: its private signing key; needed with `plan.malicious_server`.
        identities: all clients' public signing keys from a trusted source; needed with `plan.malicious_server`.
    Raises:
        ClientAbort: in every stage, if the server asks for something that could unmask an update.
    """

    def __init__(
        self,
        plan: SecAggPlan,
        client: ClientId,
        *,
        identity: bytes | None = None,
        identities: Mapping[ClientId, bytes] | None = None,
    ):
        if plan.malicious_server and (identity is None or identities is None):
            raise ClientAbort("malicious_server needs this client's identity key and the public keys of all clients")
        self.plan, self.client = plan, client
        self._identity, self._identities = identity, identities or {}
        self._sealing, self._masking, self._self_mask = keys.new_secret(), keys.new_secret(), keys.new_secret()
        self._next = "advertise"
        self._roster: dict[ClientId, AdvertisedKeys] = {}
        self._session = b""
        self._holders: frozenset[ClientId] = frozenset()  # clients that get this client's shares
        self._delivered: frozenset[ClientId] = frozenset()  # neighbours that have shared their own secrets
        self._alive: frozenset[ClientId] = frozenset()  # holders that sent no junk to this client
        self._held: dict[ClientId, tuple[bytes, bytes]] = {}  # shares of others' self-masks and masking keys
        self._confirmed: frozenset[ClientId] = frozenset()

    def advertise(self) -> AdvertisedKeys:
        """Stage 0: publish two public keys."""
        self._turn("advertise")
        sealing, masking = keys.public_of(self._sealing), keys.public_of(self._masking)
        statement = keys_statement(self.plan, self.client, sealing, masking)
        signature = keys.sign(self._identity, statement) if self._identity and self.plan.malicious_server else b""
        self._roster[self.client] = AdvertisedKeys(self.client, sealing, masking, signature)
        self._next = "share"
        return self._roster[self.client]

    def share(self, roster: Sequence[AdvertisedKeys]) -> dict[ClientId, bytes]:
        """Stage 1: share both secrets, encrypted for each holder. The holders are drawn only now.

        Args:
            roster: all clients' keys, as the server distributes them.
        """
        self._turn("share")
        check_roster(self.plan, roster, self._roster[self.client], self._identities)
        self._roster, self._session = {k.client: k for k in roster}, session(self.plan, roster)
        self._holders = draw_neighbours(self.plan, self._roster, self.client)
        if len(self._holders) < self.plan.threshold:
            raise ClientAbort(
                f"{len(self._holders)} neighbours are fewer than the threshold of {self.plan.threshold}: the shares "
                "would protect nothing"
            )
        places = {c: point(list(self._roster), c) for c in self._holders}
        first, second = (
            shamir.share_secret(secret, self.plan.threshold, places.values())
            for secret in (self._self_mask, self._masking)
        )
        sealed = {c: self._seal(c, (first[x], second[x])) for c, x in places.items()}
        self._next = "mask"
        return sealed

    def mask(self, delivered: Mapping[ClientId, bytes], numbers: Numbers, weight: float = 1.0) -> MaskedInput:
        """Stage 2: the masked update.

        Args:
            delivered: by neighbour that has shared its secrets: the shares encrypted for this client, or b"" if that
                neighbour holds this client's shares but not the reverse.
            numbers: the update, [plan.length].
            weight: within [0, 1], or the example count if the grid has a cap.
        """
        return self.mask_words(delivered, self.plan.grid.encode(numbers, weight))

    def mask_words(self, delivered: Mapping[ClientId, bytes], words: GridWords) -> MaskedInput:
        """Stage 2 for an update that is encoded already, [plan.words].

        Shares that do not open are reported in the answer and dropped: one client's junk does not stop the others.
        """
        self._turn("mask")
        if words.shape != (self.plan.words,) or words.dtype != self.plan.grid.dtype:
            raise ClientAbort(f"the update has {len(words)} words of {words.dtype}, the plan {self.plan.words}")
        unopened = frozenset(c for c, sealed in delivered.items() if not self._hold(c, sealed))
        self._delivered = frozenset(delivered)
        self._alive = self._holders & self._delivered - unopened
        if len(self._alive) < self.plan.threshold:
            raise ClientAbort(f"{len(self._alive)} of its neighbours are left, fewer than {self.plan.threshold}")
        words = words.copy()
        masks.apply(words, [masks.Mask(self._self_mask, 1), *(self._pair(other) for other in delivered)])
        self._next = "confirm" if self.plan.malicious_server else "unmask"
        return MaskedInput(self.client, words, unopened)

    def confirm(self, survivors: Iterable[ClientId]) -> bytes:
        """Between stages 2 and 3, with `malicious_server`: sign the list of survivors."""
        self._turn("confirm")
        self._confirmed = client_ids(survivors)
        self._check_survivors(self._confirmed)
        assert self._identity is not None
        self._next = "unmask"
        return keys.sign(self._identity, survivors_statement(self.plan, self._confirmed))

    def unmask(self, asked: UnmaskRequest) -> UnmaskShares:
        """Stage 3: one share for each client whose shares it holds: of the self-mask if the update counts, else of the
        masking key."""
        self._turn("unmask")
        survivors = client_ids(asked.survivors)
        self._check_survivors(survivors)
        if self.plan.malicious_server:
            self._check_signatures(survivors, asked.signatures)
        alive = {c: self._held[c][0] for c in self._held if c in survivors}
        lost = {c: self._held[c][1] for c in self._held if c not in survivors}
        return UnmaskShares(self.client, alive, lost)

    def _turn(self, stage: str) -> None:
        """Allow each stage once; after a refusal none."""
        if self._next != stage:
            raise ClientAbort(
                f"asked to {stage}, but the next step of this attempt is to {self._next}: keys are used once"
            )
        self._next = OVER

    # ---- sealing and masking -----------------------------------------------------------------------------------

    def _seal(self, holder: ClientId, shares: tuple[bytes, bytes]) -> bytes:
        return seal_shares(self._key(holder), shares, between(self._session, "about", self.client, holder))

    def _hold(self, sender: ClientId, sealed: bytes) -> bool:
        """Store the shares that a neighbour sent; return whether they are valid."""
        if not is_client(sender) or sender == self.client or sender not in self._roster:
            raise ClientAbort(f"client {sender} is not a neighbour, but has sent shares")
        if sealed == b"":
            if sender not in self._holders:
                raise ClientAbort(f"client {sender} is not a neighbour: neither holds the other's shares")
            return True
        about = between(self._session, "about", sender, self.client)
        shares = open_shares(self._key(sender), sealed, about) if isinstance(sealed, bytes) else None
        if shares is not None:
            self._held[sender] = shares
        return shares is not None

    def _key(self, other: ClientId) -> bytes:
        about = between(self._session, "sealing", *sorted((self.client, other)))
        try:
            return keys.shared_key(self._sealing, self._roster[other].sealing, about)
        except ValueError as error:
            raise ClientAbort(f"the sealing key of client {other} is invalid: leave it out of the roster") from error

    def _pair(self, other: ClientId) -> masks.Mask:
        try:
            return masks.pair(self.plan, self._masking, self._roster[other].masking, self.client, other)
        except ValueError as error:
            raise ClientAbort(f"the masking key of client {other} is invalid: leave it out of the roster") from error

    # ---- checks before unmasking -------------------------------------------------------------------------------

    def _check_survivors(self, survivors: frozenset[ClientId]) -> None:
        if self.client not in survivors:
            raise ClientAbort("the server reports this client's update as lost, but asks it to unmask")
        if len(survivors) < self.plan.min_cohort:
            raise ClientAbort(
                f"a sum over {len(survivors)} clients reveals too much about each: at least {self.plan.min_cohort} are "
                "needed"
            )
        strangers = {c for c in survivors - self._delivered if c not in self._roster or c in self._holders}
        if strangers:
            raise ClientAbort(f"clients {sorted(strangers)} are reported as survivors, but never shared their secrets")
        left = len(self._alive & survivors)
        if left < self.plan.threshold:
            raise ClientAbort(f"{left} of its neighbours survived, fewer than {self.plan.threshold}")

    def _check_signatures(self, survivors: frozenset[ClientId], signatures: Mapping[ClientId, bytes]) -> None:
        if survivors != self._confirmed:
            raise ClientAbort("the survivors differ from those that this client signed")
        statement = survivors_statement(self.plan, survivors)
        signed = [
            c
            for c in self._alive & survivors
            if keys.verify_signature(self._identities[c], signatures.get(c), statement)
        ]
        if len(signed) < self.plan.threshold:
            raise ClientAbort(
                f"{len(signed)} neighbours have signed the same survivors, fewer than {self.plan.threshold}"
            )
