"""Which choices of a run do not work together: asked of one table before anything is computed or written.

Algorithms, reducers, schedules, privacy and secure aggregation declare what they can do (`CatalogueEntry`, ...).
A row of the table (`compatibility_rows.ROWS`) names two choices that clash, why, and ways out. Every refusal has one
form: `A does not work with B: reason. Use C, or drop D.` A way out is offered only after the table was asked again
with it: it changes something that the user set, and this row is not met again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from seedbed.algorithms import catalogue
from seedbed.data.population import Population
from seedbed.engines import process_group
from seedbed.errors import InputError
from seedbed.experiments.config import Settings, settings_from

DROP = "drop"  # in place of a value: leave the setting out
MOST_WAYS = 2  # ways out that a refusal offers
FLAGS = {"privacy.epsilon": "--epsilon", "privacy.delta": "--delta"}
SHORT = {"reduce.name": "reduce", "attack.name": "attack"}
HEADS = ("epsilon", "form", "name")  # settings without which the others of their section mean nothing
NEVER_DROPPED = ("algorithm", "start")  # another one is offered instead

Command = Literal["run", "audit", "compare", "server", "peers"]
Change = Mapping[str, Any]  # dotted setting -> value, or DROP
Way = Change | str  # a string: what to do beside the settings


@dataclass(frozen=True)
class Facts:
    """What the data and the command add to the settings of a run.

    Attributes:
        classes: 0 for a regression.
        targets: numbers that a regression predicts for each example.
        ranks: processes that share the run.
        torchrun: torchrun started this process.
    """

    episodic: bool = False
    classes: int = 2
    images: bool = False
    table: bool = False
    targets: int = 1
    ranks: int = 1
    torchrun: bool = False
    command: Command = "run"

    @classmethod
    def of(cls, population: Population, command: Command = "run") -> "Facts":
        return cls(
            population.episodic,
            len(population.classes),
            population.x.ndim > 2,
            population.encoding.get("format") == "table",
            1 if population.y.ndim == 1 else int(population.y[0].numel()),
            process_group.current_group().size,
            process_group.is_torchrun(),
            command,
        )


@dataclass(frozen=True)
class Case:
    """A run as the table sees it.

    Attributes:
        settings: complete.
        given: what the user set, as nested tables.
        again: the case of other given settings.
    """

    settings: Settings
    facts: Facts
    given: Mapping[str, Any]
    again: Callable[[Mapping[str, Any]], "Case"]

    @classmethod
    def of(cls, settings: Settings, facts: Facts) -> "Case":
        """The case of settings whose origin is unknown: what differs from the defaults counts as given."""
        return cls(
            settings,
            facts,
            settings.model_dump(exclude_defaults=True),
            lambda given: cls.of(settings_from(given), facts),
        )

    @property
    def entry(self) -> catalogue.CatalogueEntry:
        return catalogue.entry(self.settings.algorithm)

    @property
    def private(self) -> bool:
        return self.settings.privacy.epsilon is not None

    @property
    def secure(self) -> bool:
        return self.settings.secure.form != "none"

    @property
    def robust(self) -> bool:
        """Whether a rule other than the mean reduces the messages."""
        return self.settings.reduce.name not in (None, "mean")

    @property
    def exact(self) -> bool:
        return self.settings.start == "exact"

    @property
    def episodic(self) -> bool:
        return self.facts.episodic and not self.entry.same_labels

    @property
    def heterogeneous(self) -> bool:
        """Whether clients' messages differ in structure."""
        return self.entry.takes("assign") or bool(self.settings.model.several)

    def value(self, key: str) -> Any:
        """The value of a dotted setting.

        >>> Case.of(Settings(), Facts()).value("task.ways")
        5
        """
        return value_of(self.settings, key)

    def is_given(self, key: str) -> bool:
        """Whether the user set it."""
        found: Any = self.given
        for name in key.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found is not None

    def after(self, change: Change) -> "Case | None":
        """The case after a change; None: the settings are invalid then."""
        try:
            found = self.again(changed(self.given, change))
            return found if found.settings.algorithm in catalogue.CATALOGUE else None
        except InputError:
            return None


Condition = Callable[[Case], Any]


def value_of(settings: Settings, key: str) -> Any:
    found: Any = settings
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
    return found


@dataclass(frozen=True)
class Row:
    """Two choices that do not work together.

    Attributes:
        first, second: dotted settings; or words, for what is no setting.
        clashes: whether a case has both.
        reason: why they clash; a function, where it depends on the case.
        ways: what to do instead of dropping one of the two.
    """

    first: str
    second: str
    clashes: Condition
    reason: str | Callable[[Case], str]
    ways: tuple[Way, ...] = ()

    def refusal(self, case: Case, rows: Iterable["Row"]) -> "Incompatible":
        found = tuple(ways_out(self, case, rows))
        reason = self.reason if isinstance(self.reason, str) else self.reason(case)
        link = "" if self.second.startswith("without ") else "with "
        what = f"{spell(self.first, case)} does not work {link}{spell(self.second, case)}"
        advice = ", or ".join(spell_way(way, case) for way in found)
        return Incompatible(f"{what}: {reason}. {advice[:1].upper()}{advice[1:]}", self, found)


class Incompatible(InputError):
    """Choices that do not work together, and what to change.

    Attributes:
        row: of the table.
        ways: changes, each of which takes the clash away.
    """

    def __init__(self, message: str, row: Row, ways: tuple[Way, ...]):
        super().__init__(message)
        self.row, self.ways = row, ways


def check(case: Case, rows: Iterable[Row]) -> None:
    """
    Raises:
        Incompatible: the first row of the table that the case meets.
    """
    for row in clashing(case, rows):
        raise row.refusal(case, rows)


def clashing(case: Case, rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if row.clashes(case))


def ways_out(row: Row, case: Case, rows: Iterable[Row]) -> list[Way]:
    """Changes after which fewer rows are met, and this one is not; where some leave none, only those."""
    outside: list[Way] = [way for way in row.ways if isinstance(way, str)]
    drops = [drop(key, case) for key in (row.second, row.first) if case.is_given(key) and key not in NEVER_DROPPED]
    changes = [way for way in row.ways if not isinstance(way, str)] + drops
    left = _rows_left(row, case, changes, rows)
    if not left and not outside:
        left = _rows_left(row, case, list(_together(drops)), rows)[:1]
    clean = [change for change, count in left if count == 0]
    return [*outside, *(clean or [change for change, _ in sorted(left, key=lambda found: found[1])])][:MOST_WAYS]


def drop(key: str, case: Case) -> Change:
    """Leave a setting out; with the name of a section's method go its other settings."""
    section, _, name = key.partition(".")
    table = case.given.get(section)
    if name in HEADS and isinstance(table, Mapping):
        return {f"{section}.{name}": DROP for name in table if case.is_given(f"{section}.{name}")}
    return {key: DROP}


def _together(drops: list[Change]) -> Iterator[Change]:
    """Larger changes, for where no single one helps."""
    both: Change = {key: value for change in drops for key, value in change.items()}
    yield from (both, {"algorithm": "fedavg", **both}, {"algorithm": DROP, **both})


def _rows_left(row: Row, case: Case, changes: list[Change], rows: Iterable[Row]) -> list[tuple[Change, int]]:
    """The changes that help, and how many rows are met after each."""
    now, found = len(list(clashing(case, rows))), []
    for change in changes:
        after = case.after(change) if changed(case.given, change) != case.given else None
        if after is not None and not row.clashes(after):
            left = len(list(clashing(after, rows)))
            found += [(change, left)] if left < now else []
    return found


def changed(given: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Given settings after a change.

    >>> changed({"privacy": {"epsilon": 4.0}, "rounds": 2}, {"privacy.epsilon": DROP, "reduce.name": "mean"})
    {'rounds': 2, 'reduce': {'name': 'mean'}}
    """
    table = dict(given)
    for key, value in change.items():
        name, _, inner = key.partition(".")
        below = table.get(name)
        if inner:
            value = changed(below if isinstance(below, Mapping) else {}, {inner: value}) or DROP
        if value == DROP:
            table.pop(name, None)
        else:
            table[name] = value
    return table


def spell(key: str, case: Case) -> str:
    """A setting as people type it; words as they are."""
    if key.partition(".")[0] not in Settings.model_fields:
        return key
    value = case.value(key)
    if key == "algorithm":
        return str(value)
    return _assigned(key, value)


def _assigned(key: str, value: Any) -> str:
    if key == "secure.form" and value == "masks":
        return "--secure"
    if key in FLAGS:
        return f"{FLAGS[key]} {value:g}"
    said = list(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value
    return f"{_short(key)}={f'{said:g}' if isinstance(said, float) else said}"


def _short(key: str) -> str:
    return FLAGS.get(key) or SHORT.get(key) or key.removeprefix("options.")


def spell_way(way: Way, case: Case) -> str:
    """
    >>> spell_way({"reduce.name": "mean"}, Case.of(Settings(), Facts()))
    'use reduce=mean'
    """
    if isinstance(way, str):
        return way
    dropped = [spell_key(key, case) for key, value in way.items() if value == DROP]
    used = [str(v) if k == "algorithm" else _assigned(k, v) for k, v in way.items() if v != DROP]
    parts = [f"use {' '.join(used)}"] if used else []
    return " and ".join(parts + ([f"drop {' and '.join(dropped)}"] if dropped else []))


def spell_key(key: str, case: Case) -> str:
    """The setting's name as people type it."""
    if key == "secure.form":
        return "--secure" if case.settings.secure.form == "masks" else "secure.form"
    if key == "algorithm":
        return case.settings.algorithm
    return _short(key)


def case_of(given: Mapping[str, Any], facts: Facts, complete: Callable[[Mapping[str, Any]], Settings]) -> Case:
    """The case of what a user has set; `complete` fills in what is open."""
    return Case(complete(given), facts, given, partial(case_of, facts=facts, complete=complete))
