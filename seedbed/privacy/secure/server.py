"""The server's half of SecAgg+: it hands messages on, adds up what is masked, and takes the masks off the sum.

Clients may be lost before, in or between all stages; whoever has not answered when a stage is closed is left out.
"""

from collections.abc import Mapping

import numpy as np

from seedbed.privacy.secure import keys, shamir
from seedbed.privacy.secure.fixed_point import Words, add
from seedbed.privacy.secure.masks import own_mask, pair_mask
from seedbed.privacy.secure.protocol import (
    Aborted,
    ClientId,
    Keys,
    Masked,
    Plan,
    Shares,
    Unmasking,
    neighbourhoods,
    point,
)


class SecureServer:
    """One attempt at one sum: receive_* takes a client's answer, the method after it closes the stage."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._keys: dict[ClientId, Keys] = {}
        self._sealed: dict[ClientId, Mapping[ClientId, bytes]] = {}
        self._neighbours: dict[ClientId, frozenset[ClientId]] = {}
        self._total: Words = np.zeros(plan.words, plan.grid.dtype)
        self._survivors: set[ClientId] = set()
        self._signatures: dict[ClientId, bytes] = {}
        self._answers: dict[ClientId, Shares] = {}

    # ---- stage 0: keys -----------------------------------------------------------------------------------------

    def receive_keys(self, sent: Keys) -> None:
        self._keys.setdefault(sent.client, sent)

    def roster(self) -> list[Keys]:
        """What every client is sent for stage 1."""
        self._enough(len(self._keys), "sent their keys")
        self._neighbours = neighbourhoods(self.plan, self._keys)
        return [self._keys[c] for c in sorted(self._keys)]

    # ---- stage 1: shares ---------------------------------------------------------------------------------------

    def receive_sealed(self, client: ClientId, sealed: Mapping[ClientId, bytes]) -> None:
        if client in self._keys and set(sealed) == self._neighbours[client]:
            self._sealed.setdefault(client, sealed)

    def deliveries(self) -> dict[ClientId, dict[ClientId, bytes]]:
        """For each client that shared: what its neighbours have sealed for it, by sender. They answer stage 2."""
        self._enough(len(self._sealed), "shared their secrets")
        return {c: {s: self._sealed[s][c] for s in self._neighbours[c] if s in self._sealed} for c in self._sealed}

    # ---- stage 2: masked updates -------------------------------------------------------------------------------

    def receive_masked(self, sent: Masked) -> None:
        good = sent.words.dtype == self._total.dtype and sent.words.shape == self._total.shape
        if good and sent.client in self._sealed and sent.client not in self._survivors:
            self._survivors.add(sent.client)
            add(self._total, sent.words)

    def survivors(self) -> frozenset[ClientId]:
        """Whose updates count: what is signed, where the server is not trusted to follow."""
        self._enough(len(self._survivors), "sent their updates")
        return frozenset(self._survivors)

    def receive_signature(self, client: ClientId, signature: bytes) -> None:
        if client in self._survivors:
            self._signatures.setdefault(client, signature)

    # ---- stage 3: unmasking ------------------------------------------------------------------------------------

    def unmasking(self) -> Unmasking:
        """What every survivor is asked."""
        return Unmasking(self.survivors(), dict(self._signatures))

    def receive_shares(self, sent: Shares) -> None:
        if sent.client in self._survivors:
            self._answers.setdefault(sent.client, sent)

    def total(self) -> Words:
        """The sum of the survivors' words, bit for bit, [plan.words]: `plan.grid.decode` makes a mean of it.

        Raises:
            Aborted: fewer than `threshold` shares of somebody's secret came back.
        """
        answers = self._answers.items()
        for client in sorted(self._survivors):
            seed = self._secret(client, {c: a.alive[client] for c, a in answers if client in a.alive})
            np.subtract(self._total, own_mask(self.plan, seed), out=self._total)
        for client in sorted(set(self._sealed) - self._survivors):
            left = sorted(self._neighbours[client] & self._survivors)
            if left:
                private = self._secret(
                    client, {c: a.lost[client] for c, a in self._answers.items() if client in a.lost}
                )
                if keys.public_of(private) != self._keys[client].masking:
                    raise Aborted(
                        f"the shares of client {client}'s masking key do not fit its public key: one is false"
                    )
                for other in left:  # minus what the other has added on account of the lost one
                    add(self._total, pair_mask(self.plan, private, self._keys[other].masking, client, other))
        return self._total

    def _secret(self, client: ClientId, shares: Mapping[ClientId, bytes]) -> bytes:
        if len(shares) < self.plan.threshold:
            raise Aborted(
                f"attempt {self.plan.attempt} of round {self.plan.round}: {len(shares)} of the {self.plan.threshold} "
                f"shares that client {client}'s secret needs came back; nothing was revealed, try again"
            )
        some = dict(sorted(shares.items())[: self.plan.threshold])
        try:
            return shamir.reconstruct({point(list(self._keys), c): share for c, share in some.items()})
        except ValueError as error:
            raise Aborted(f"the shares of client {client}'s secret do not fit together: one is false") from error

    def _enough(self, count: int, did: str) -> None:
        least = max(self.plan.min_cohort, self.plan.threshold + 1)
        if count < least:
            raise Aborted(
                f"attempt {self.plan.attempt} of round {self.plan.round}: {count} clients {did}, fewer than {least}: "
                "nothing was revealed, try again"
            )
