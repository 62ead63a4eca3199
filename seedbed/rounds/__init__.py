"""When clients are asked, and with whom they exchange. Schedules know nothing of what is computed or where."""

from seedbed.rounds.synchronous import Round, synchronous

__all__ = ["Round", "synchronous"]
