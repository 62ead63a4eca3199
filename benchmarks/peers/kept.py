"""Races that were finished, a file for each workload, so that one can be measured at a time."""

import json
from dataclasses import asdict
from pathlib import Path

from race import Race

from seedbed.errors import InputError
from seedbed.serialization import write_atomically


def keep(folder: Path, found: Race) -> None:
    """Into `LETTER.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n"
    write_atomically(_file(folder, found.workload), text.encode())


def kept(folder: Path, letter: str) -> Race | None:
    """What `keep` wrote; None: nothing.

    Raises:
        InputError: the file holds something else.
    """
    file = _file(folder, letter)
    if not file.exists():
        return None
    try:
        return Race(**json.loads(file.read_text()))
    except (ValueError, TypeError) as reason:
        raise InputError(
            f"{file} holds no finished workload ({reason}): remove it, and measure {letter} again"
        ) from None


def _file(folder: Path, letter: str) -> Path:
    return folder / f"{letter}.json"
