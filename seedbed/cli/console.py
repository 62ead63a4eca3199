"""Consoles on which data is only text: names, classes and paths are shown as they are, never read as markup."""

from typing import Any

from rich.console import Console
from rich.text import Text


class PlainConsole(Console):
    """A console without markup and emoji codes, and without control characters in what it shows."""

    def __init__(self, *, stderr: bool = False):
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)


def printable(text: str) -> str:
    r"""Text whose control characters are written as escapes; ends of lines stay.

    >>> printable("a\x1b[2J\n[/b]")
    'a\\x1b[2J\n[/b]'
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
