"""Joint ledger of one data set: every private run on it records its planned spending, so that ε adds up over runs.

Each data set has one file, named by its fingerprint, in a folder of this user, with one JSON line per run. The
accountant composes all runs; ε of all is not the sum of each. The ledger counts the runs of one user on one machine. It
has no key.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seedbed.errors import InputError, as_written
from seedbed.privacy.differential.accountant import Release, epsilon, release_event

OFF = "off"


class Joint(NamedTuple):
    """The total cost of all private runs on a data set.

    Attributes:
        epsilon, delta: of all runs together.
        runs: the number of runs counted, this one included.
        path: the ledger's file.
    """

    epsilon: float
    delta: float
    runs: int
    path: Path

    def __str__(self) -> str:
        if self.runs == 1:
            return f"This is the first private run on these data in {self.path}, which adds up all later ones."
        return (
            f"Together with the {self.runs - 1} earlier private runs on these data in {self.path}: ε = "
            f"{self.epsilon:.3g} at δ = {self.delta:.2g}. The ledger counts the runs of this user on this machine."
        )


def default_folder() -> Path:
    """$XDG_DATA_HOME/seedbed/ledgers, else ~/.local/share/seedbed/ledgers."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "seedbed" / "ledgers"


class JointLedger:
    """The ledger of the data with this fingerprint.

    Raises:
        InputError: the file cannot be read or written.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.path = folder / f"{fingerprint[:32]}.jsonl"

    def charge(self, run: str, spent: Mapping[Release, int], delta: float) -> Joint:
        """Record a run before its first round; a run that is recorded already is not counted twice.

        Args:
            run: a name unique to this run: the fingerprint of its noise key.
            spent: the releases of all rounds that the run plans.
            delta: δ at which the total ε is stated.
        Raises:
            InputError: the file cannot be read or written.
        """
        line = {"run": run, "spent": [[r._asdict(), n] for r, n in spent.items()]}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                text = file.read()
                lines = self._lines(text)
                if run not in {known["run"] for known in lines}:
                    if text and not text.endswith("\n"):
                        file.truncate(len(text[: text.rfind("\n") + 1].encode()))
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                    lines.append(line)
        except OSError as error:
            raise InputError(
                f"cannot write {self.path}, which adds up ε over runs on the same data: {error.strerror}; set "
                f"privacy.joint_ledger to another folder, or to {OFF} to disable it"
            ) from error
        return self._total(lines, delta)

    def _lines(self, text: str) -> list[dict[str, Any]]:
        """All complete lines; a torn last line belongs to a run that has released nothing."""
        whole = text[: text.rfind("\n") + 1]
        with as_written(self.path, "restore it, or set privacy.joint_ledger to another folder"):
            lines = [json.loads(line) for line in whole.splitlines()]
            for line in lines:
                _refuse_odd(line["run"], line["spent"])
            return lines

    def _total(self, lines: list[dict[str, Any]], delta: float) -> Joint:
        spent: Counter[Release] = Counter()
        for line in lines:
            for table, times in line["spent"]:
                spent[release_event(table)] += times
        return Joint(epsilon(spent, delta), delta, len(lines), self.path)


def _refuse_odd(run: object, spent: list[tuple[dict[str, Any], int]]) -> None:
    """
    Raises:
        TypeError, ValueError: an impossible entry, such as a negative number of releases.
    """
    for table, times in spent:
        numbers = list(release_event(table))
        if not isinstance(run, str) or type(times) is not int or times < 0:
            raise ValueError(f"{times} releases")
        if not all(0 < number < float("inf") for number in numbers):
            raise ValueError(f"a release of {table}")
