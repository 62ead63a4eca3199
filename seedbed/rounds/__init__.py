"""When clients are asked, and with whom they exchange. Schedules know nothing of what is computed or where."""

from seedbed.rounds.asynchronous import asynchronous, equal, lognormal
from seedbed.rounds.gossip import gossip
from seedbed.rounds.mixing import by_name, mixing
from seedbed.rounds.round import Round
from seedbed.rounds.synchronous import synchronous

__all__ = ["Round", "asynchronous", "by_name", "equal", "gossip", "lognormal", "mixing", "synchronous"]
