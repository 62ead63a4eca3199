"""Attacks on federated training, to measure what a defence is worth: clients that lie, and clients with bad data."""

from collections.abc import Callable, Mapping

from seedbed.attacks.attack import Attack, Attacked, Poisoned, Seen, Triggered, choose_attackers
from seedbed.attacks.lies import LIES
from seedbed.attacks.poison import backdoor, label_flip

ATTACKS: Mapping[str, Callable[..., Attack]] = {**LIES, "label_flip": label_flip, "backdoor": backdoor}

__all__ = ["ATTACKS", "Attack", "Attacked", "Poisoned", "Seen", "Triggered", "choose_attackers"]
