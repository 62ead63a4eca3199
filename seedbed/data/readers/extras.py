"""Libraries that only some readers need: imported when first used."""

import importlib
from typing import Any

from seedbed.errors import InputError


def require(module: str, what: str) -> Any:
    """A module of the extra `seedbed[data]`, or one line that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow"}.get(module.split(".")[0], module.split(".")[0])
        raise InputError(f"{what} needs {package}, which is not installed: pip install 'seedbed[data]'") from error
