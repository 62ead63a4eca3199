"""The application class of all commands: it shows the help of arguments whatever click is installed.

Flower holds typer below 0.21, whose arguments lose their help with click 8.5: its `Argument` sets the attribute anew.
"""

from collections.abc import Callable
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ArgumentInfo, CommandFunctionType


class Command(TyperCommand):
    """A command whose arguments have the help of their annotations."""

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        hints = get_type_hints(self.callback, include_extras=True) if self.callback else {}
        for parameter in self.params:
            for said in getattr(hints.get(parameter.name or ""), "__metadata__", ()):
                if isinstance(said, ArgumentInfo) and not parameter.help:
                    parameter.help = said.help


class CommandApp(typer.Typer):
    def command(self, name: str | None = None, **more: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        return super().command(name, **{"cls": Command, **more})
