"""A minimal Flower app: Flower does not start a run without one."""

from pathlib import Path

from seedbed.serialization import write_atomically

TABLE = """[project]
name = "{name}"
version = "1.0.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41"]

[tool.flwr.app]
publisher = "seedbed"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "{name}:server"
clientapp = "{name}:client"

[tool.flwr.app.config]
"""


def app_files(name: str, code: str) -> dict[str, bytes | Path]:
    """The files of an app, by name.

    Args:
        name: of the app and of its only module.
        code: the module's source. It must assign `server` and `client` in separate statements, as Flower requires.
    """
    texts = {"pyproject.toml": TABLE.format(name=name), f"{name}.py": code, "LICENSE": "Apache-2.0\n"}
    return {file: text.encode() for file, text in texts.items()}


def write_app_bundle(folder: Path, name: str, code: str) -> None:
    """Write a folder that `flwr run` accepts; see `app_files`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in app_files(name, code).items():
        assert isinstance(data, bytes)
        write_atomically(folder / file, data)
