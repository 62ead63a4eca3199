"""The findings of an audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Figure(NamedTuple):
    """A number with its 95 % interval; None if no interval can be computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AttackRow:
    """One case of an attack.

    Attributes:
        figures: by column: `plain` (no defence), `secure` (a cohort's secure sum), `private` (differential privacy),
            `guess` (an attacker that sees nothing), `ceiling` (the largest value that the claim allows).
    """

    case: str
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Claim:
    """A claim of the run, as text, and whether an attack refutes it."""

    said: str
    refuted: bool


@dataclass(frozen=True)
class Picture:
    """Images side by side, by column: [H, W] or [3, H, W], values in 0…1."""

    case: str
    images: Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """The result of one attack.

    Attributes:
        sees: what the attacker sees, in words.
        obtains: what the attacker obtains from it, in words.
        unit: of the figures.
        missing: the reason why the attack does not apply to this data or model; None if it does.
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
        """As a table for audit.json."""
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
        what: the audited subject, in words.
        columns: title of each column, by name.
        claimed: whether the run makes a claim that could be refuted.
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
        """The audit's result in one sentence."""
        if self.refuted:
            return f"A claim of this run is refuted: {'; '.join(f.claim.said for f in self.refuted if f.claim)}"
        if not self.claimed:
            return (
                "This run claims no privacy, so nothing can be refuted: the figures show what it leaks, and what would "
                "help."
            )
        checked = sum(f.claim is not None for f in self.findings)
        return (
            f"No claim of this run is refuted, by {checked} checks. This does not prove privacy: an untested attack "
            f"may "
            "do better."
        )

    def table(self) -> dict[str, Any]:
        """As a table for audit.json."""
        return {
            "what": self.what,
            "verdict": self.verdict,
            "refuted": [f.name for f in self.refuted],
            "claimed": self.claimed,
            "columns": dict(self.columns),
            "findings": [f.table() for f in self.findings],
            "settings": dict(self.settings),
        }


def mean_with_interval(values: Sequence[float]) -> Figure:
    """The mean with its 95 % interval by Student's t.

    >>> mean_with_interval([1.0, 3.0]).value, mean_with_interval([1.0]).low
    (2.0, None)
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Figure(mean)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Figure(mean, mean - half, mean + half)
