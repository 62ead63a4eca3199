"""What an audit finds, in words and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Figure(NamedTuple):
    """A number with its 95 % interval; None: no interval can be given."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AttackRow:
    """One case of an attack.

    Attributes:
        figures: by column: `plain` (no defence), `secure` (the sum of a cohort), `private` (differential privacy),
            `guess` (who sees nothing), `ceiling` (the most that the claim allows).
    """

    case: str
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Claim:
    """What the run promises of an attack, and whether it is refuted."""

    said: str
    refuted: bool


@dataclass(frozen=True)
class Picture:
    """Images side by side: [H, W] or [3, H, W], 0…1, by column."""

    case: str
    images: Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What one attack obtains.

    Attributes:
        sees: what the attacker sees, in words.  obtains: what it makes of it.
        unit: of the figures.
        missing: why the attack does not apply to this data or model; None: it does.
    """

    name: str
    title: str
    sees: str
    obtains: str
    unit: str
    rows: Sequence[AttackRow] = ()
    missing: str | None = None
    claim: Claim | None = None
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()

    def table(self) -> dict[str, Any]:
        """For audit.json."""
        return {
            "probe": self.name,
            "title": self.title,
            "sees": self.sees,
            "obtains": self.obtains,
            "unit": self.unit,
            "does_not_apply": self.missing,
            "rows": [{"case": r.case, **{c: f._asdict() for c, f in r.figures.items()}} for r in self.rows],
            "claim": None if self.claim is None else {"said": self.claim.said, "refuted": self.claim.refuted},
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Audit:
    """All findings of one audit.

    Attributes:
        what: is audited, in words.  columns: what they stand for, by name.
        claimed: whether the run promises anything that could be refuted.
    """

    what: str
    columns: Mapping[str, str]
    claimed: bool
    findings: Sequence[Finding]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refuted(self) -> list[Finding]:
        return [f for f in self.findings if f.claim is not None and f.claim.refuted]

    @property
    def verdict(self) -> str:
        """The audit in a sentence."""
        if self.refuted:
            return f"A claim of this run is refuted: {'; '.join(f.claim.said for f in self.refuted if f.claim)}"
        if not self.claimed:
            return (
                "This run claims no privacy, so that nothing can be refuted: the figures say what it leaks, and what "
                "would help."
            )
        checked = sum(f.claim is not None for f in self.findings)
        return (
            f"No claim of this run is refuted, by {checked} checks. That proves no privacy: an attack that was not "
            "tried may do better."
        )

    def table(self) -> dict[str, Any]:
        """For audit.json."""
        return {
            "what": self.what,
            "verdict": self.verdict,
            "refuted": [f.name for f in self.refuted],
            "claimed": self.claimed,
            "columns": dict(self.columns),
            "findings": [f.table() for f in self.findings],
            "settings": dict(self.settings),
        }


def mean_of(values: Sequence[float]) -> Figure:
    """The mean with its interval by Student's t.

    >>> mean_of([1.0, 3.0]).value, mean_of([1.0]).low
    (2.0, None)
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Figure(mean)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Figure(mean, mean - half, mean + half)
