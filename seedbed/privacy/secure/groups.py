"""Who sums with whom, and who is lost in a simulation: functions of (seed, round, client), by SHA-256.

Everybody who knows the seed computes the same groups, so that nobody is dealt into one of the server's choice. No
generator of numbers is drawn from: this room has none.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence

ClientId = int
Lost = Sequence[Collection[ClientId]]  # who answers no more from stage 0 (keys), 1 (shares), 2 (masked), 3 (unmask) on
Losing = Callable[[Sequence[ClientId], int], Lost]  # (clients, round) -> whom the network loses
STAGES = 4


def no_losses(clients: Sequence[ClientId], round: int) -> Lost:
    """A network that loses nobody."""
    return [()] * STAGES


def lose_at_random(part: float, seed: int) -> Losing:
    """A network that loses each client with this probability, at each of the four stages equally often.

    >>> lost = lose_at_random(0.5, seed=0)(range(1000), 3)
    >>> [len(stage) for stage in lost]
    [111, 126, 133, 123]
    """

    def lost(clients: Sequence[ClientId], round: int) -> Lost:
        drawn = {c: _uniform(seed, "lost", round, c) for c in clients}
        return [[c for c, u in drawn.items() if STAGES * u // part == stage] for stage in range(STAGES)]

    return lost if part > 0 else no_losses


def assign_groups(clients: Iterable[ClientId], groups: int, seed: int, round: int) -> list[list[ClientId]]:
    """The clients in so many groups, of sizes that differ by one at most, dealt afresh in each round.

    >>> [len(group) for group in assign_groups(range(11), 3, seed=0, round=7)]
    [4, 4, 3]
    """
    order = sorted(clients, key=lambda c: _uniform(seed, "groups", round, c))
    return [sorted(order[place::groups]) for place in range(groups)]


def _uniform(seed: int, purpose: str, *numbers: int) -> float:
    """In [0, 1)."""
    digest = hashlib.sha256(f"{seed} {purpose} {numbers}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53
