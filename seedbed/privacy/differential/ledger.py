"""What has been spent, written down before it is spent: a crash may count a round that was not released, never the
other way round.

ledger.jsonl: the first line is the plan (budget, mechanism, the key's fingerprint); then a line a round. Every line
ends with the sha256 of itself and holds that of the line before: what was altered is refused. The chain has no key: it
finds damage, lost lines and edits by hand. It does not hold against somebody with write access, who can compute all
hashes again: for that, keep the last line's hash elsewhere.

releases.jsonl: the sha256 of each round's state. A round computed again must be the same release, bit for bit.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seedbed.errors import InputError, as_written
from seedbed.federated import ClientId
from seedbed.privacy.differential.accountant import Release, epsilon, release_event
from seedbed.privacy.differential.binding import digest_of_tree
from seedbed.privacy.differential.mechanisms import Mechanism
from seedbed.rounds import Round
from seedbed.tree import Tree

OF_THE_NETWORK = ("lost", "abandoned")  # what is told of a round, for it does not depend on anybody's data
NOT_NAMED: Sequence[ClientId] = ()  # the clients of a round that does not tell who they were
AHEAD = (64, 8, 1)  # so many rounds are looked ahead at once, so that not every one computes an ε


class Ledger:
    """The budget of one run.

    Args:
        path: the file; made with the plan if it is not there.
        epsilon, delta: the budget.
        plan: whatever else must stay the same while the run is gone on with.
        rounds: so many are meant to be made: if the budget covers them, that is computed once.
    Raises:
        InputError: the file is of another plan, or was altered.
    """

    def __init__(
        self, path: Path, *, epsilon: float, delta: float, plan: Mapping[str, Any] | None = None, rounds: int = 0
    ):
        self.path, self.budget, self.delta, self.rounds = path, epsilon, delta, rounds
        self._spent: Counter[Release] = Counter()
        self.charged_rounds = 0
        self._last = ""
        self._allowed: tuple[Release | None, int] = (None, 0)
        first = {"epsilon": epsilon, "delta": delta, **(plan or {})}
        lines = self._read() if path.exists() else []
        if not lines:
            self._append(first)
        elif {k: lines[0].get(k) for k in first} != first:
            raise InputError(
                f"{path} was begun {_difference(lines[0], first)}: what it counts would "
                "not be what is released; restore the run's settings and files, or start another run"
            )
        for line in lines[1:]:
            self._count(line)

    @property
    def spent(self) -> Mapping[Release, int]:
        """The releases so far."""
        return self._spent

    @property
    def epsilon(self) -> float:
        """ε of the releases so far, at the budget's δ."""
        return epsilon(self._spent, self.delta)

    def charge(self, round: int, cost: Release | None) -> None:
        """Write a round down, on disk when this returns; one that is written down already is a replay, and free.

        Args:
            round: from 0, in order.
            cost: None: an earlier round's charge covers it.
        Raises:
            InputError: the budget does not cover it, in which case nothing is written; or a round is left out.
        """
        if round < self.charged_rounds:
            return
        if round > self.charged_rounds:
            raise InputError(
                f"round {round} cannot be charged to {self.path}, which ends before round {self.charged_rounds}: lines "
                "are missing; restore the file, or start another run"
            )
        if cost is not None and not self._affords(cost):
            raise InputError(
                f"round {round + 1} would cost more than the budget of ε = {self.budget:g} at δ = {self.delta:g} "
                f"(spent: {self.epsilon:.4g}): the run stops before it; what came before is intact and within it"
            )
        line = {"round": round, "cost": None if cost is None else cost._asdict()}
        self._append(line)
        self._count(line)

    def _affords(self, cost: Release) -> bool:
        """Whether one more is within the budget; an answer for several ahead is kept."""
        if not cost.noisy:
            return False
        kind, left = self._allowed
        if kind != cost or left == 0:
            sizes = (n for n in (self.rounds - self._spent[cost], *AHEAD) if n > 0)
            ahead = next((n for n in sizes if epsilon(self._spent + Counter({cost: n}), self.delta) <= self.budget), 0)
            self._allowed = (cost, ahead)
        return self._allowed[1] > 0

    def _count(self, line: Mapping[str, Any]) -> None:
        if line.get("round") != self.charged_rounds:
            raise InputError(f"{self.path} has no round {self.charged_rounds} where it should: restore it")
        self.charged_rounds += 1
        if line["cost"] is not None:
            cost = release_event(line["cost"])
            self._spent[cost] += 1
            kind, left = self._allowed
            self._allowed = (kind, left - 1) if kind == cost and left else (None, 0)

    def _append(self, line: Mapping[str, Any]) -> None:
        """Add a line, flushed to disk with its directory entry."""
        text = json.dumps({**line, "before": self._last})
        digest = hashlib.sha256(text.encode()).hexdigest()
        _append_to(self.path, f"{text}\t{digest}\n")
        self._last = digest

    def _read(self) -> list[dict[str, Any]]:
        """All lines, checked; a torn last one, whose round cannot have been released, is cut off."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        found = []
        for number, raw in enumerate(whole.decode(errors="replace").split("\n")[:-1], 1):
            text, _, digest = raw.partition("\t")
            line = json.loads(text) if hashlib.sha256(text.encode()).hexdigest() == digest else None
            if line is None or line["before"] != self._last:
                raise InputError(
                    f"{self.path} line {number} is not as it was written: what was spent is not known any more; "
                    "restore the file, or start another run"
                )
            found.append(line)
            self._last = digest
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        return found


def _append_to(path: Path, line: str) -> None:
    """Add a line, on disk with its directory entry when this returns."""
    try:
        with open(path, "a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; nothing is released that is not written down there: free some "
            "space, then `seedbed resume` goes on"
        ) from error


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing in which two plans differ, by name.

    >>> _difference({"terms": {"lr": 0.1}}, {"terms": {"lr": 0.2}})
    'with lr=0.1, not 0.2'
    """
    name = next(name for name in now if then.get(name) != now[name])
    old, new = then.get(name), now[name]
    if isinstance(new, Mapping):
        if not isinstance(old, Mapping):
            return "before noise was bound to settings, data and versions"
        return _difference({**dict.fromkeys(new), **old}, {**dict.fromkeys(old), **new})
    return f"with {name}={old!r}, not {new!r}"


class Releases:
    """The digest of each round's release, on disk before anybody sees it."""

    def __init__(self, path: Path):
        self.path = path
        text = path.read_text(errors="replace") if path.exists() else ""
        if text and not text.endswith("\n"):  # torn off while it was written: not released
            text = text[: text.rfind("\n") + 1]
            os.truncate(path, len(text))
        with as_written(path):
            self._known = {int(line["round"]): str(line["sha256"]) for line in map(json.loads, text.splitlines())}

    def check(self, round: int, state: Tree) -> None:
        """Write down a round's release (round from 0), or compare it with what was written.

        Raises:
            InputError: the round was released before, and otherwise.
        """
        found = digest_of_tree(state).hex()
        if self._known.get(round, found) != found:
            raise InputError(
                f"round {round + 1} computed again is not the release that {self.path} has: it would be a second one, "
                "which the ledger does not count; go on where the first was computed (device, threads, libraries), or "
                "start another run"
            )
        if round not in self._known:
            _append_to(self.path, json.dumps({"round": round, "sha256": found}) + "\n")
            self._known[round] = found


def charge_rounds(
    rounds: Iterator[Round],
    ledger: Ledger,
    mechanism: Mechanism,
    *,
    done: int = 0,
    releases: Releases | None = None,
) -> Iterator[Round]:
    """The same rounds, each charged before it is computed, and without what tells of those who took part.

    Args:
        done: rounds that lie behind.
        releases: of this run; None: a round computed again is not compared with the first.
    Raises:
        InputError: before the round that the budget does not cover, or that is another release than the first time.
    """
    number = done
    while True:
        ledger.charge(number, mechanism.cost(number))
        round = next(rounds)
        if releases is not None:
            releases.check(number, round.state)
        number += 1
        told = {name: number for name, number in round.info.items() if name in OF_THE_NETWORK}
        yield round._replace(clients=NOT_NAMED, info=told, refused={}, lost={})
