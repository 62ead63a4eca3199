"""When clients are asked, and with whom they exchange. Schedules know nothing of what is computed or where."""

from seedbed.rounds.asynchronous import asynchronous, equal_latency, in_rounds, lognormal_latency
from seedbed.rounds.cohorts import draw_cohorts
from seedbed.rounds.gossip import gossip
from seedbed.rounds.mixing import mixing, topology_links
from seedbed.rounds.round import Round
from seedbed.rounds.synchronous import Answering, synchronous

__all__ = [
    "Answering",
    "Round",
    "asynchronous",
    "draw_cohorts",
    "equal_latency",
    "gossip",
    "in_rounds",
    "lognormal_latency",
    "mixing",
    "synchronous",
    "topology_links",
]
