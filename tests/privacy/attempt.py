"""One attempt at a sum, taken to a stage, for tests that alter what is sent from there on."""

from collections.abc import Collection

import numpy as np

from seedbed.privacy.secure import SecAggPlan, SecureClient, SecureServer
from seedbed.privacy.secure.keys import new_identity
from seedbed.privacy.secure.secagg_protocol import UnmaskRequest

STAGES = ("advertise", "share", "mask", "confirm", "unmask")


class Attempt:
    """Clients 0 to count − 1, each with the update of ones; the stage that is named comes next.

    Args:
        silent: who never sends its masked update.
    """

    def __init__(self, agreed: SecAggPlan, count: int, stage: str, *, silent: Collection[int] = ()):
        self.plan = agreed
        self.pairs = {c: new_identity() for c in range(count)}
        self.identities = {c: pair[1] for c, pair in self.pairs.items()}
        self.clients = {
            c: SecureClient(agreed, c, identity=self.pairs[c][0], identities=self.identities) for c in range(count)
        }
        self.victim, self.server = self.clients[0], SecureServer(agreed, self.identities)
        steps = (self.advertise, self.share, lambda: self.mask(silent), self.confirm)
        for step in steps[: STAGES.index(stage)]:
            step()

    def advertise(self) -> None:
        for client in self.clients.values():
            self.server.receive_keys(client.advertise())
        self.roster = self.server.roster()

    def share(self) -> None:
        self.sealed = {c: client.share(self.roster) for c, client in self.clients.items()}
        for c, sealed in self.sealed.items():
            self.server.receive_sealed(c, sealed)
        self.deliveries = self.server.deliveries()

    def mask(self, silent: Collection[int] = ()) -> None:
        ones = np.ones(self.plan.length)
        self.masked = {c: self.clients[c].mask(sealed, ones) for c, sealed in self.deliveries.items()}
        for c in self.masked.keys() - set(silent):
            self.server.receive_masked(self.masked[c])
        self.survivors = self.server.survivors()

    def confirm(self) -> None:
        if self.plan.malicious_server:
            for c in self.survivors:
                self.server.receive_signature(c, self.clients[c].confirm(self.survivors))
        self.asked: UnmaskRequest = self.server.unmasking()
