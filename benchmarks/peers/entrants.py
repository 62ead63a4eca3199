"""Who may take part, in which workloads, and what was aimed at."""

from dataclasses import dataclass

LETTERS = {"a": "mlp", "b": "cnn", "b2": "small_cnn", "c": "lstm", "d": "maml"}
LOOP, OURS = "plain loop", "Seedbed, "


@dataclass(frozen=True)
class Entrant:
    """Who may take part.

    Attributes:
        script: and its arguments, after the file with the work.
        workloads: letters of LETTERS.
        peer: whose environment it needs; None: Seedbed's own.
        cores: that it computes on: its processes, or its threads over clients; where a library decides (XLA), all.
    """

    name: str
    script: tuple[str, ...]
    workloads: str
    peer: str | None = None
    cores: int = 1


ENTRANTS = (
    Entrant(LOOP, ("by_loop.py", "1"), "a b b2 c d"),
    Entrant("plain loop, 2 processes", ("by_loop.py", "2"), "a b b2 c d", cores=2),
    Entrant("Seedbed, chosen", ("by_seedbed.py", "auto"), "a b b2 c d", cores=2),
    Entrant("Seedbed, stacked", ("by_seedbed.py", "stacked"), "a"),
    Entrant("Seedbed, stacked, bare", ("by_seedbed.py", "stacked", "bare"), "a"),
    Entrant("Seedbed, batched", ("by_seedbed.py", "batched"), "a", cores=2),
    Entrant("Seedbed, batched, bare", ("by_seedbed.py", "batched", "bare"), "a", cores=2),
    Entrant("Seedbed, fused", ("by_seedbed.py", "fused"), "a", cores=2),
    Entrant("Seedbed, fused, bare", ("by_seedbed.py", "fused", "bare"), "a", cores=2),
    Entrant("Seedbed, factored", ("by_seedbed.py", "factored"), "b b2", cores=2),
    Entrant("Seedbed, factored, bare", ("by_seedbed.py", "factored", "bare"), "b b2", cores=2),
    Entrant("Seedbed, loop", ("by_seedbed.py", "loop"), "b2 c d", cores=2),
    Entrant("Flower (Ray)", ("by_flower.py",), "a b b2 c", "flower", cores=2),
    Entrant("pfl", ("by_pfl.py", "1"), "a b b2 c", "pfl"),
    Entrant("pfl, 2 processes", ("by_pfl.py", "2"), "a b b2 c", "pfl", cores=2),
    Entrant("FedML", ("by_fedml.py",), "a b b2 c", "fedml"),
    Entrant("FedLab", ("by_fedlab.py",), "a b b2 c", "fedlab"),
    Entrant("FedJAX", ("by_fedjax.py",), "a b b2 c", "fedjax", cores=2),
    Entrant("JAX", ("by_jax.py",), "a b b2 c d", "jax", cores=2),
    Entrant("learn2learn", ("by_learn2learn.py",), "d", "learn2learn"),
    Entrant("higher", ("by_higher.py",), "d", "higher"),
)


@dataclass(frozen=True)
class Aim:
    """`ours` takes part at `times` its rival's speed at least."""

    workload: str
    ours: str
    rival: str
    times: float


AIMS = (
    Aim("a", "Seedbed, batched", "Flower (Ray)", 60),
    Aim("a", "Seedbed, batched", "pfl, 2 processes", 15),
    Aim("a", "Seedbed, fused", "Flower (Ray)", 200),
    Aim("a", "Seedbed, fused", "pfl, 2 processes", 50),
    Aim("b", "Seedbed, chosen", "Flower (Ray)", 2.5),
    Aim("b", "Seedbed, chosen", "pfl, 2 processes", 1.8),
    Aim("b2", "Seedbed, chosen", "plain loop, 2 processes", 1.25),
    Aim("c", "Seedbed, chosen", "plain loop, 2 processes", 1.0),
    Aim("d", "Seedbed, chosen", "learn2learn", 2.0),
    Aim("d", "Seedbed, chosen", "higher", 2.0),
)
LIMITS = (  # workload, who, cores of which it is the share, per cent
    ("a", "Seedbed, fused", 1, 50.0),
    ("b", "Seedbed, chosen", 2, 60.0),
)
COSTS = (("a", "Seedbed, batched"), ("a", "Seedbed, fused"), ("b", "Seedbed, factored"))  # with all beside bare
COST, FIRST = 1.10, ("a", "Seedbed, batched", 3.0)  # at most that much, and those seconds to the first round's end


def entrants(letter: str, peers: list[str]) -> list[Entrant]:
    """Those of this workload that need no peer, or one of these."""
    return [e for e in ENTRANTS if letter in e.workloads.split() and (e.peer is None or e.peer in peers)]
