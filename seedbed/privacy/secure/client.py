"""A client's half of SecAgg+: four answers, and everything it refuses.

It answers each stage once and in order. What it refuses is what a server that deviates would need: see `Refused`.
"""

from collections.abc import Iterable, Mapping, Sequence

from seedbed.privacy.secure import keys, shamir
from seedbed.privacy.secure.fixed_point import Numbers, Words, add
from seedbed.privacy.secure.masks import own_mask, pair_mask
from seedbed.privacy.secure.protocol import (
    ClientId,
    Keys,
    Masked,
    Plan,
    Refused,
    Shares,
    Unmasking,
    between,
    keys_statement,
    neighbourhoods,
    point,
    survivors_statement,
)


class SecureClient:
    """One client in one attempt; its secrets live as long as it does.

    Args:
        plan: agreed on beforehand. It is the client's own copy: nothing that the server says changes it.
        client: this client.
        identity: its private signing key, and
        identities: everybody's public ones, known from elsewhere; needed with `plan.malicious_server`.
    """

    def __init__(
        self,
        plan: Plan,
        client: ClientId,
        *,
        identity: bytes | None = None,
        identities: Mapping[ClientId, bytes] | None = None,
    ):
        if plan.malicious_server and (identity is None or identities is None):
            raise Refused("malicious_server needs this client's identity key and everybody's public ones")
        self.plan, self.client = plan, client
        self._identity, self._identities = identity, identities or {}
        self._sealing, self._masking, self._self_mask = keys.new_secret(), keys.new_secret(), keys.new_secret()
        self._next = "advertise"
        self._roster: dict[ClientId, Keys] = {}
        self._neighbours: frozenset[ClientId] = frozenset()
        self._confirmed: frozenset[ClientId] = frozenset()
        self._held: dict[ClientId, tuple[bytes, bytes]] = {}  # shares of neighbours' self-masks and masking keys

    def advertise(self) -> Keys:
        """Stage 0."""
        self._turn("advertise", "share")
        sealing, masking = keys.public_of(self._sealing), keys.public_of(self._masking)
        statement = keys_statement(self.plan, self.client, sealing, masking)
        signature = keys.sign(self._identity, statement) if self._identity and self.plan.malicious_server else b""
        self._roster[self.client] = Keys(self.client, sealing, masking, signature)
        return self._roster[self.client]

    def share(self, roster: Sequence[Keys]) -> dict[ClientId, bytes]:
        """Stage 1: both secrets in shares, sealed for each neighbour.

        Args:
            roster: everybody's keys, as the server hands them on.
        """
        self._turn("share", "mask")
        self._check_roster(roster)
        self._roster = {k.client: k for k in roster}
        self._neighbours = neighbourhoods(self.plan, self._roster)[self.client]
        if len(self._neighbours) < self.plan.threshold:
            raise Refused(
                f"{len(self._neighbours)} neighbours are fewer than the threshold of {self.plan.threshold}: its shares "
                "would not hide anything"
            )
        places = {c: point(list(self._roster), c) for c in self._neighbours}
        halves = [
            shamir.share(secret, self.plan.threshold, places.values()) for secret in (self._self_mask, self._masking)
        ]
        return {
            c: keys.seal(self._sealing_key(c), halves[0][x] + halves[1][x], between(self.plan, "about", self.client, c))
            for c, x in places.items()
        }

    def mask(self, sealed: Mapping[ClientId, bytes], numbers: Numbers, weight: float = 1.0) -> Masked:
        """Stage 2: the update behind masks.

        Args:
            sealed: what neighbours have sealed for this client.
            numbers: the update, [plan.length].
        """
        return self.mask_words(sealed, self.plan.grid.encode(numbers, weight))

    def mask_words(self, sealed: Mapping[ClientId, bytes], words: Words) -> Masked:
        """Stage 2 of an update that is in words already, [plan.words]."""
        self._turn("mask", "confirm" if self.plan.malicious_server else "unmask")
        if words.shape != (self.plan.words,) or words.dtype != self.plan.grid.dtype:
            raise Refused(f"the update has {len(words)} words of {words.dtype}, the plan {self.plan.words}")
        for sender, content in sealed.items():
            self._hold(sender, content)
        if len(self._held) < self.plan.threshold:
            raise Refused(f"{len(self._held)} of its neighbours are left, fewer than {self.plan.threshold}")
        words = words.copy()
        add(words, own_mask(self.plan, self._self_mask))
        for other in self._held:
            add(words, pair_mask(self.plan, self._masking, self._roster[other].masking, self.client, other))
        return Masked(self.client, words)

    def confirm(self, survivors: Iterable[ClientId]) -> bytes:
        """Between stages 2 and 3, where the server is not trusted to follow: its signature over who survived."""
        self._turn("confirm", "unmask")
        self._confirmed = frozenset(survivors)
        self._check_survivors(self._confirmed)
        assert self._identity is not None
        return keys.sign(self._identity, survivors_statement(self.plan, self._confirmed))

    def unmask(self, asked: Unmasking) -> Shares:
        """Stage 3: of each neighbour one share: of its self-mask if its update counts, of its masking key if not."""
        self._turn("unmask", "nothing more")
        self._check_survivors(asked.survivors)
        if self.plan.malicious_server:
            self._check_signatures(asked)
        alive = {c: self._held[c][0] for c in self._held if c in asked.survivors}
        lost = {c: self._held[c][1] for c in self._held if c not in asked.survivors}
        return Shares(self.client, alive, lost)

    # ---- refusals ----------------------------------------------------------------------------------------------

    def _turn(self, stage: str, then: str) -> None:
        if self._next != stage:
            raise Refused(f"asked to {stage}, but the next of this attempt is to {self._next}: keys are used once")
        self._next = then

    def _check_roster(self, roster: Sequence[Keys]) -> None:
        named = [k.client for k in roster]
        if len(roster) < self.plan.min_cohort:
            raise Refused(
                f"a sum over {len(roster)} clients says too much of each: the least is {self.plan.min_cohort}"
            )
        if len(roster) > self.plan.grid.clients:
            raise Refused(
                f"{len(roster)} clients may overflow the sum: the plan's grid is for {self.plan.grid.clients}"
            )
        public = [key for k in roster for key in (k.sealing, k.masking)]
        if len(set(named)) < len(named) or len(set(public)) < len(public):
            raise Refused("the roster holds a client or a key twice")
        if self._roster[self.client] not in roster:
            raise Refused("the roster does not hold this client's own keys as it sent them")
        if self.plan.malicious_server:
            for k in roster:
                identity = self._identities.get(k.client)
                if identity is None:
                    raise Refused(f"client {k.client} has no known identity")
                if not keys.is_signed(identity, k.signature, keys_statement(self.plan, k.client, k.sealing, k.masking)):
                    raise Refused(f"the keys of client {k.client} are not signed by it")

    def _hold(self, sender: ClientId, sealed: bytes) -> None:
        if sender not in self._neighbours:
            raise Refused(f"client {sender} is no neighbour, but has sent shares")
        content = keys.unseal(self._sealing_key(sender), sealed, between(self.plan, "about", sender, self.client))
        if content is None or len(content) != 2 * shamir.SIZE:
            raise Refused(f"the shares from client {sender} were altered on the way")
        self._held[sender] = content[: shamir.SIZE], content[shamir.SIZE :]

    def _check_survivors(self, survivors: frozenset[ClientId]) -> None:
        if self.client not in survivors:
            raise Refused("its own update is said to be lost, but it is being asked to unmask")
        if len(survivors) < self.plan.min_cohort:
            raise Refused(f"a sum over {len(survivors)} says too much of each: the least is {self.plan.min_cohort}")
        strangers = {c for c in survivors if c not in self._roster or (c in self._neighbours and c not in self._held)}
        if strangers:
            raise Refused(f"clients {sorted(strangers)} are said to have survived, but never shared their secrets")
        left = sum(c in survivors for c in self._held)
        if left < self.plan.threshold:
            raise Refused(f"{left} of its neighbours survived, fewer than {self.plan.threshold}")

    def _check_signatures(self, asked: Unmasking) -> None:
        if asked.survivors != self._confirmed:
            raise Refused("the survivors are not those that it has signed")
        statement = survivors_statement(self.plan, asked.survivors)
        good = sum(
            keys.is_signed(self._identities[c], signature, statement)
            for c, signature in asked.signatures.items()
            if c in self._held and c in asked.survivors
        )
        if good < self.plan.threshold:
            raise Refused(f"{good} neighbours have signed the same survivors, fewer than {self.plan.threshold}")

    def _sealing_key(self, other: ClientId) -> bytes:
        pair = sorted((self.client, other))
        return keys.agreed(self._sealing, self._roster[other].sealing, between(self.plan, "sealing", *pair))
