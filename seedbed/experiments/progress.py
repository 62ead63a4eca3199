"""What a person hears of training: a word after every round, and what was noticed in all of them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from seedbed.experiments.config import Settings
from seedbed.rounds import Round


class RoundWatcher:
    """Watches rounds: passes a word on each to a progress bar, and remembers what else there is to say.

    Args:
        tick: told a word after every round.
        names: of the clients.
    """

    def __init__(self, tick: Callable[[str], None], names: Sequence[str]):
        self.tick, self.names = tick, names
        self.refused: Counter[tuple[str, str]] = Counter()
        self.cut: list[float] = []

    def __call__(self, round: Round) -> None:
        self.tick(round_line(round.info))
        self.cut.append(round.info.get("cut", 0.0))
        for client, why in round.refused.items():
            known = 0 <= client < len(self.names)
            self.refused[self.names[client] if known else "an unknown client", why] += 1

    def notes(self, settings: Settings) -> Iterator[str]:
        """What the user should know, once the rounds are over."""
        for (client, why), times in self.refused.items():
            yield f"{client} was refused in {times} rounds: {why}"
        if any(self.cut):
            yield (
                f"in {sum(c > 0 for c in self.cut)} rounds numbers beyond secure.clip={settings.secure.clip:g} were "
                f"cut, {max(self.cut):.2%} of them at most: raise it, or lower learning rates"
            )


def round_line(info: Mapping[str, float]) -> str:
    """How training goes, beside its progress bar.

    >>> round_line({"loss": 0.5, "time": 12.25, "staleness": 1.0})
    'loss 0.500, 12.2 s of simulated time'
    """
    if "abandoned" in info:
        return "given up: too few clients were left"
    forms = {"loss": "loss {:.3f}", "time": "{:.1f} s of simulated time", "consensus": "consensus distance {:.2g}"}
    return ", ".join(form.format(info[name]) for name, form in forms.items() if name in info)
