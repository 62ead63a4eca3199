"""The compose example is a federation: its server and nodes run commands that there are, on folders that init makes."""

from pathlib import Path
from typing import Any

import typer
import yaml

from seedbed.cli.commands import app

DOCKER = Path(__file__).parents[2] / "docker"


def test_services_run_commands_that_there_are() -> None:
    made: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    nodes = {name: service for name, service in made["services"].items() if name.startswith("node-")}
    assert len(nodes) == len(made["services"]) - 1 == 3
    for service in made["services"].values():
        word, *words = service["command"]
        commands[word].make_context(word, words)  # refuses what it does not know
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"]
    for name, service in nodes.items():
        assert service["volumes"][0] == f"../federation/nodes/{name[-1]}:/federation"
        assert "ports" not in service  # no port of a member is open
