"""What the pages show is so: python blocks run, commands and their options exist, links lead somewhere."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer

from seedbed.algorithms.catalogue import CATALOGUE, Axes, CatalogueEntry
from seedbed.cli.commands import app
from seedbed.experiments.config import Settings, settings_from, table_from
from seedbed.experiments.factories import settable_parameters

from .loading import ROOT, loaded

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SHORTER = {"round.number == 100": "round.number == 2", "count=50": "count=2"}  # what takes long is run for less long


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [Block(page, text[: m.start()].count("\n") + 2, m[1], m[2]) for m in found]


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(b.language == language for b in blocks(page))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- python ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages_with("python"), ids=named)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after another in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    dtype, space = torch.get_default_dtype(), {"__name__": page.stem, **ready(page)}
    try:
        for block in blocks(page):
            if block.language == "python":
                text = block.text
                for long, short in SHORTER.items():
                    text = text.replace(long, short)
                exec(compile("\n" * (block.line - 1) + text, str(page), "exec"), space)
    finally:
        torch.set_default_dtype(dtype)


def ready(page: Path) -> dict[str, Any]:
    """What a page's blocks may use without importing it: rows of the law table and of the catalogue."""
    if page.name != "write_an_algorithm.md":
        return {}
    bench = loaded(ROOT / "tests" / "agreement" / "bench.py")
    return {"Row": bench.Row, "module": bench.module, "Axes": Axes, "Entry": CatalogueEntry}


# ---- commands -------------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's bash blocks, and of every `seedbed ...` in its text."""
    text = "".join(b.text for b in blocks(page) if b.language == "bash").replace("\\\n", " ")
    quoted = re.findall(r"`(seedbed [^`]+)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S))
    return [words for line in [*text.splitlines(), *quoted] if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=named)
def test_commands_exist(page: Path) -> None:
    """`seedbed` commands and options are the command line's own, settings are accepted, scripts are there."""
    for words in commands(page):
        if words[0] == "seedbed":
            check_command(words)
        elif words[0] == "python" or "/" in words[0]:
            script = ROOT / words[words[0].endswith("python")]
            assert script.exists(), " ".join(words)
        if words[0] in ("scripts/test", "scripts/prove"):
            check_names(words)


def check_command(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while rest and getattr(command, "commands", None):
        assert rest[0] in command.commands, f"no such command: {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    options = {name for p in command.params for name in p.opts if name.startswith("-")}
    unknown = {word for word in rest if word.startswith("-")} - options
    assert not unknown, f"{' '.join(words)}: no {', '.join(sorted(unknown))}"
    assignments = [value for flag, value in pairwise(rest) if flag == "--set" and "=" in value]
    settings = settings_from(table_from(assignments=assignments))
    for key in settings.options:
        assert key in algorithm_settings(), f"{' '.join(words)}: {key} is no setting of any algorithm"


def algorithm_settings() -> set[str]:
    context = dict.fromkeys(("loss", "features", "head", "ways", "adapt"), object())
    return {name.split(".")[0] for e in CATALOGUE.values() for name in settable_parameters(e.factory, context)}


def check_names(words: list[str]) -> None:
    """Paths of tests (but for the worked example's, which the reader is to write) and names of proofs."""
    for word in words[1:]:
        if words[0] == "scripts/test" and word.startswith("tests/") and "sign_avg" not in word:
            assert (ROOT / word).exists(), " ".join(words)
        if words[0] == "scripts/prove" and word[0].islower():
            assert (ROOT / "proofs" / f"{word}.py").exists(), " ".join(words)


# ---- links and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{named(page)} links to {target}"


def test_the_sections_that_pages_name_exist() -> None:
    """`evaluation.episodes` and the like, wherever a page quotes one."""
    sections = {name: set(f.annotation.model_fields) for name, f in Settings.model_fields.items() if is_section(f)}
    for page in PAGES:
        for section, key in re.findall(r"`(task|evaluation|model)\.(?!safetensors)(\w+)`", page.read_text()):
            assert key in sections[section], f"{named(page)} names {section}.{key}"


def is_section(field: Any) -> bool:
    return hasattr(field.annotation, "model_fields")
