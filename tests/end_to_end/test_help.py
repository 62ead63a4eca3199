"""`seedbed --help`: it needs nothing that computes, and every help text is shown."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from seedbed import __version__
from seedbed.cli.commands import app

HEAVY = {"torch", "scipy", "numpy", "sklearn", "pandas", "pyarrow", "safetensors", "pydantic", "cryptography"}
PROGRAM = """
import sys
from seedbed.cli import main
sys.argv = ["seedbed", *sys.argv[1:]]
try:
    main()
finally:
    print(sorted(name.split(".")[0] for name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"], ["data", "--help"]], ids=" ".join)
def test_help_imports_nothing_that_computes(words: list[str]) -> None:
    """Counted, not timed: torch and scipy took 3 seconds of `seedbed --help`."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert set(re.findall(r"'(\w+)'", ended.stderr)) & HEAVY == set()


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"seedbed {__version__}\n"


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "seedbed" for path, _ in ALL])
def test_every_help_text_is_shown(path: tuple[str, ...], command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, [*path, "--help"]).output
    words = re.sub(r"[│╭╰╮╯─\s]+", "", shown)
    for parameter in (p for p in command.params if not getattr(p, "hidden", False)):
        text = parameter.help
        assert text, f"{parameter.name} has no help text"
        assert re.sub(r"\s+", "", text) in words, f"{parameter.name}: {text!r} is not shown"


def test_a_bare_checkout_has_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    import seedbed

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert seedbed.__version__ == "0+unknown"
