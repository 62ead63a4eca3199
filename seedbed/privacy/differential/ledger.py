"""Privacy ledger: each round is recorded on disk before it is released. After a crash the ledger may count a round that
was not released; it never misses one that was.

ledger.jsonl: the first line is the plan (budget, mechanism, the key's fingerprint); then one line per round. Every line
ends with its own sha256 and contains that of the line before, so an altered file is refused. The chain has no key. It
detects damage, lost lines and manual edits. An attacker with write access can recompute all hashes undetected; against
that, keep the last line's hash elsewhere.

releases.jsonl: the sha256 of each round's state. A recomputed round must be the same release, bit for bit.
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

OF_THE_NETWORK = ("lost", "abandoned")  # round info that is published: it does not depend on the clients' data
NOT_NAMED: Sequence[ClientId] = ()  # the participants of a round are not published
AHEAD = (64, 8, 1)  # numbers of rounds to check against the budget at once, to compute ε less often


class Ledger:
    """The privacy budget of one run.

    Args:
        path: the file; created with the plan if missing.
        epsilon, delta: the budget.
        plan: everything else that must not change when the run resumes.
        rounds: the planned number of rounds; if the budget covers all of them, ε is computed once.
    Raises:
        InputError: the file belongs to another plan, or was altered.
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
                f"{path} was written {_difference(lines[0], first)}: its count would not match what is released. "
                "Restore the run's settings and files, or start another run"
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
        """Record a round; it is on disk on return. A round that is recorded already is a replay and costs nothing.

        Args:
            round: from 0, in order.
            cost: the release to charge; None if an earlier round's charge covers it.
        Raises:
            InputError: the budget does not cover the round (nothing is written then), or a round is missing.
        """
        if round < self.charged_rounds:
            return
        if round > self.charged_rounds:
            raise InputError(
                f"round {round} cannot be charged to {self.path}, which ends before round {self.charged_rounds}: lines "
                "are missing. Restore the file, or start another run"
            )
        if cost is not None and not self._affords(cost):
            raise InputError(
                f"round {round + 1} would exceed the budget of ε = {self.budget:g} at δ = {self.delta:g} "
                f"(spent: {self.epsilon:.4g}): the run stops before it; all earlier rounds are within the budget"
            )
        line = {"round": round, "cost": None if cost is None else cost._asdict()}
        self._append(line)
        self._count(line)

    def _affords(self, cost: Release) -> bool:
        """Whether the budget covers one more release; the answer for several rounds is cached."""
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
            raise InputError(f"{self.path}: the line of round {self.charged_rounds} is missing; restore the file")
        self.charged_rounds += 1
        if line["cost"] is not None:
            cost = release_event(line["cost"])
            self._spent[cost] += 1
            kind, left = self._allowed
            self._allowed = (kind, left - 1) if kind == cost and left else (None, 0)

    def _append(self, line: Mapping[str, Any]) -> None:
        """Append a line and flush it to disk, together with its directory entry."""
        text = json.dumps({**line, "before": self._last})
        digest = hashlib.sha256(text.encode()).hexdigest()
        _append_to(self.path, f"{text}\t{digest}\n")
        self._last = digest

    def _read(self) -> list[dict[str, Any]]:
        """All lines, verified. A torn last line is cut off: its round cannot have been released."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = []
        for number, raw in enumerate(whole.decode(errors="replace").split("\n")[:-1], 1):
            text, _, digest = raw.partition("\t")
            line = json.loads(text) if hashlib.sha256(text.encode()).hexdigest() == digest else None
            if line is None or line["before"] != self._last:
                raise InputError(
                    f"{self.path} line {number} is not as it was written, so the privacy spent is unknown: "
                    "restore the file, or start another run"
                )
            lines.append(line)
            self._last = digest
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        return lines


def _append_to(path: Path, line: str) -> None:
    """Append a line; on return it is on disk, together with its directory entry."""
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
            f"cannot write {path}: {error.strerror}. A release must be recorded there first: free some space, then "
            "continue with `seedbed resume`"
        ) from error


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first setting in which two plans differ.

    >>> _difference({"terms": {"lr": 0.1}}, {"terms": {"lr": 0.2}})
    'with lr=0.1, not 0.2'
    """
    name = next(name for name in now if then.get(name) != now[name])
    old, new = then.get(name), now[name]
    if isinstance(new, Mapping):
        if not isinstance(old, Mapping):
            return "by a version that did not bind noise to settings, data and versions"
        return _difference({**dict.fromkeys(new), **old}, {**dict.fromkeys(old), **new})
    return f"with {name}={old!r}, not {new!r}"


class Releases:
    """Digests of each round's release, on disk before the release is shown."""

    def __init__(self, path: Path):
        self.path = path
        text = path.read_text(errors="replace") if path.exists() else ""
        if text and not text.endswith("\n"):  # a torn last line: its round was not released
            text = text[: text.rfind("\n") + 1]
            os.truncate(path, len(text))
        with as_written(path):
            self._known = {int(line["round"]): str(line["sha256"]) for line in map(json.loads, text.splitlines())}

    def check(self, round: int, state: Tree) -> None:
        """Record the release of a round (from 0), or compare it with the recorded one.

        Raises:
            InputError: the round was released before with other content.
        """
        digest = digest_of_tree(state).hex()
        if self._known.get(round, digest) != digest:
            raise InputError(
                f"round {round + 1}, recomputed, differs from the release in {self.path}: it would be a second "
                f"release, "
                "which the ledger does not count. Continue on the same device, threads and library versions, or start "
                "another run"
            )
        if round not in self._known:
            _append_to(self.path, json.dumps({"round": round, "sha256": digest}) + "\n")
            self._known[round] = digest


def charge_rounds(
    rounds: Iterator[Round],
    ledger: Ledger,
    mechanism: Mechanism,
    *,
    done: int = 0,
    releases: Releases | None = None,
) -> Iterator[Round]:
    """The same rounds; each is charged before it is computed, and information about its participants is removed.

    Args:
        done: the number of rounds completed before.
        releases: digests of this run's releases; None: recomputed rounds are not compared.
    Raises:
        InputError: the budget does not cover the next round, or a recomputed round differs.
    """
    number = done
    while True:
        ledger.charge(number, mechanism.cost(number))
        round = next(rounds)
        if releases is not None:
            releases.check(number, round.state)
        number += 1
        public = {name: value for name, value in round.info.items() if name in OF_THE_NETWORK}
        yield round._replace(clients=NOT_NAMED, info=public, refused={}, lost={})
