"""The current members of a federation: the agreement's, plus added ones, minus removed ones.

A member's number never changes and is never reused. The agreement stays as it was; added members get the same file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seedbed.deployment.agreement import refuse_names
from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.limits import from_json
from seedbed.serialization import write_atomically

ROSTER = "roster.json"


@dataclass(frozen=True)
class MemberRoster:
    """The members of a federation.

    Attributes:
        names: of all present and former members, by number.
        removed: the former members.
    """

    names: tuple[str, ...]
    removed: frozenset[str] = frozenset()

    @classmethod
    def read(cls, server: Path, founders: Sequence[str]) -> "MemberRoster":
        """Read the roster.

        Args:
            server: the server's folder; without a roster file the founders are the members.
            founders: the agreement's members.
        Raises:
            InputError: the file is damaged.
        """
        path = server / ROSTER
        if not path.exists():
            return cls(tuple(founders))
        try:
            table = from_json(path.read_text(encoding="utf-8"))
            names, removed = list(table["names"]), list(table["removed"])
            refuse_names(names)  # they become file names
            if names[: len(founders)] != list(founders) or not set(removed) <= set(names):
                raise ValueError("it belongs to other members")
            if len(set(names)) < len(names):
                raise ValueError("a name is listed twice")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}): restore it") from error
        return cls(tuple(names), frozenset(removed))

    def write(self, server: Path) -> None:
        table = {"names": list(self.names), "removed": sorted(self.removed)}
        write_atomically(server / ROSTER, (json.dumps(table, indent=2) + "\n").encode())

    @property
    def present(self) -> dict[ClientId, str]:
        """Current members, by number."""
        return {number: name for number, name in enumerate(self.names) if name not in self.removed}

    def with_member(self, name: str) -> "MemberRoster":
        """The roster with an added member.

        Raises:
            InputError: the name is a member already.
        """
        if name in self.present.values():
            raise InputError(f"{name!r} is a member already: use `renew-key` to give it new keys")
        names = self.names if name in self.names else (*self.names, name)
        return MemberRoster(names, self.removed - {name})

    def without(self, name: str) -> "MemberRoster":
        """The roster without a member.

        Raises:
            InputError: the name is not a member, or only two members are left.
        """
        self.number(name)
        if len(self.present) <= 2:
            raise InputError(f"{name!r} cannot be removed: a federation needs at least two members")
        return MemberRoster(self.names, self.removed | {name})

    def number(self, name: str) -> ClientId:
        """A member's number.

        Raises:
            InputError: the name is not a member.
        """
        for number, present in self.present.items():
            if present == name:
                return number
        raise InputError(f"{name!r} is not a member: choose one of {', '.join(self.present.values())}")
