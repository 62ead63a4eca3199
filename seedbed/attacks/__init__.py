"""Attacks on federated training, to measure what a defence is worth: clients that lie, and clients with bad data."""

from collections.abc import Callable, Mapping

from seedbed.attacks.after_adaptation import after_adaptation
from seedbed.attacks.attack import (
    Attack,
    AttackedEngine,
    HonestMessages,
    PoisonedTasks,
    TriggeredTasks,
    choose_attackers,
)
from seedbed.attacks.data_poisoning import backdoor, label_flip
from seedbed.attacks.model_poisoning import LIES
from seedbed.attacks.tailored import min_max, min_sum, tailored

ATTACKS: Mapping[str, Callable[..., Attack]] = {
    **LIES,
    "min_max": min_max,
    "min_sum": min_sum,
    "tailored": tailored,
    "label_flip": label_flip,
    "backdoor": backdoor,
    "after_adaptation": after_adaptation,
}

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackedEngine",
    "HonestMessages",
    "PoisonedTasks",
    "TriggeredTasks",
    "choose_attackers",
]
