"""Groups of clients for secure sums, and simulated losses: functions of (seed, round, client) by SHA-256.

Every participant that knows the seed computes the same groups, so the server cannot choose a client's group. SHA-256
replaces a random generator, which this room does not use.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence

ClientId = int
Lost = Sequence[Collection[ClientId]]  # clients that stop answering before stage 0 (keys), 1 (shares), 2 (masked), 3
Losing = Callable[[Sequence[ClientId], int], Lost]  # (clients, round) → clients that the network loses
STAGES = 4


def no_losses(clients: Sequence[ClientId], round: int) -> Lost:
    """A network without losses."""
    return [()] * STAGES


def lose_at_random(part: float, seed: int) -> Losing:
    """A network that loses each client with probability `part`, equally often at each of the four stages.

    >>> lost = lose_at_random(0.5, seed=0)(range(1000), 3)
    >>> [len(stage) for stage in lost]
    [111, 126, 133, 123]
    """

    def draw_losses(clients: Sequence[ClientId], round: int) -> Lost:
        drawn = {c: _uniform(seed, "lost", round, c) for c in clients}
        return [[c for c, u in drawn.items() if STAGES * u // part == stage] for stage in range(STAGES)]

    return draw_losses if part > 0 else no_losses


def assign_groups(clients: Iterable[ClientId], groups: int, seed: int, round: int) -> list[list[ClientId]]:
    """Split the clients into groups whose sizes differ by at most one, anew in each round.

    >>> [len(group) for group in assign_groups(range(11), 3, seed=0, round=7)]
    [4, 4, 3]
    """
    order = sorted(clients, key=lambda c: _uniform(seed, "groups", round, c))
    return [sorted(order[place::groups]) for place in range(groups)]


def _uniform(seed: int, purpose: str, *numbers: int) -> float:
    """A uniform number in [0, 1)."""
    digest = hashlib.sha256(f"{seed} {purpose} {numbers}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53
