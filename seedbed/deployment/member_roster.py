"""Which members a federation has now: those of its agreement, those that came later, less those that were removed.

A member's number never changes and is never another's. The agreement stays as it was signed: members that came later
have the same file.
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
    """Of a federation.

    Attributes:
        names: of all that ever were members, by number.
        removed: those of them that are members no more.
    """

    names: tuple[str, ...]
    removed: frozenset[str] = frozenset()

    @classmethod
    def read(cls, server: Path, founders: Sequence[str]) -> "MemberRoster":
        """
        Args:
            server: the server's folder; without the file there, the founders are the members.
        Raises:
            InputError: the file was altered so that it is none any more.
        """
        path = server / ROSTER
        if not path.exists():
            return cls(tuple(founders))
        try:
            table = from_json(path.read_text(encoding="utf-8"))
            names, removed = list(table["names"]), list(table["removed"])
            refuse_names(names)  # they name files
            if names[: len(founders)] != list(founders) or not set(removed) <= set(names):
                raise ValueError("it is of other members")
            if len(set(names)) < len(names):
                raise ValueError("a name is there twice")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no list of members any more ({error}): put it back") from error
        return cls(tuple(names), frozenset(removed))

    def write(self, server: Path) -> None:
        table = {"names": list(self.names), "removed": sorted(self.removed)}
        write_atomically(server / ROSTER, (json.dumps(table, indent=2) + "\n").encode())

    @property
    def present(self) -> dict[ClientId, str]:
        """Members by number."""
        return {number: name for number, name in enumerate(self.names) if name not in self.removed}

    def with_member(self, name: str) -> "MemberRoster":
        """
        Raises:
            InputError: it is a member.
        """
        if name in self.present.values():
            raise InputError(f"{name!r} is a member already: `renew-key` makes it new keys")
        names = self.names if name in self.names else (*self.names, name)
        return MemberRoster(names, self.removed - {name})

    def without(self, name: str) -> "MemberRoster":
        """
        Raises:
            InputError: it is no member, or one of the last two.
        """
        self.number(name)
        if len(self.present) <= 2:
            raise InputError(f"{name!r} is one of two members: a federation has two at least")
        return MemberRoster(self.names, self.removed | {name})

    def number(self, name: str) -> ClientId:
        """
        Raises:
            InputError: it is no member.
        """
        for number, present in self.present.items():
            if present == name:
                return number
        raise InputError(f"{name!r} is no member: they are {', '.join(self.present.values())}")
