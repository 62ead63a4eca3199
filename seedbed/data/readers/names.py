"""Client names as people type them: one spelling of Unicode for each, and names that may be the same are asked for."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from seedbed.errors import InputError

Alike = Literal["ask", "merge", "keep"]


def same_text(text: str) -> str:
    """A text in composed Unicode: `é` typed as one or as two characters is the same name.

    >>> same_text("e\\u0301") == "\\u00e9"
    True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def alike_groups(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only by case, width, spaces or leading zeros, in order.

    >>> alike_groups(["Ward 1", "ward 01", "ward 2"])
    [['Ward 1', 'ward 01']]
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        folded = unicodedata.normalize("NFKC", name).casefold()
        groups[re.sub(r"(?<!\d)0+(?=\d)", "", " ".join(folded.split()))].append(name)
    return [group for group in groups.values() if len(group) > 1]


def client_names(names: Sequence[str], source: str, alike: Alike = "ask") -> tuple[list[str], tuple[str, ...]]:
    """Client names [M] in composed Unicode, and notes.

    Args:
        alike: names that differ only by case, width, spaces or leading zeros: `ask` refuses them, `merge` makes one
            client of them, `keep` leaves them apart.
    Raises:
        InputError: there are such names, and alike=ask.
    """
    composed = {name: same_text(name) for name in set(names)}
    groups = alike_groups(composed.values())
    if alike not in ("ask", "merge", "keep"):
        raise InputError(f"alike={alike!r}: choose from ask, merge, keep")
    if groups and alike == "ask":
        first, second = groups[0][:2]
        raise InputError(
            f"{source} has the clients {first!r} and {second!r}: say alike=merge if they are one client, or alike=keep "
            "if they are two (on the command line: --set reader.alike=merge)"
        )
    same = {name: group[0] for group in groups for name in group} if alike == "merge" else {}
    notes = tuple(f"clients {', '.join(map(repr, group))} taken for one" for group in groups if alike == "merge")
    spelt = {name: same.get(text, text) for name, text in composed.items()}
    joined = len(set(names)) - len(set(composed.values()))
    if joined:
        notes += (f"{joined} client names spelt in two forms of Unicode: taken for one each",)
    return [spelt[name] for name in names], notes
