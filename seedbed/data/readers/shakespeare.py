"""Shakespeare by speaking role: the next character. Shapes: M windows of L characters."""

from pathlib import Path

import numpy as np
import torch

from seedbed.data.population import Population
from seedbed.errors import InputError
from seedbed.limits import BROKEN, read_unfolded

SHAKESPEARE_FILE = "shakespeare_roles.tsv.xz"


def read(path: str | Path, *, length: int = 80, stride: int = 20, least_characters: int = 1000) -> Population:
    """Windows of a role's lines, and the character that follows each.

    Args:
        path: the folder of shakespeare_roles.tsv.xz (play, role, line, text).
        length: characters of a window (LEAF: 80).
        stride: characters from a window to the next (LEAF: 1; 20 keeps the windows of all roles under 150
            MB).
        least_characters: roles that say less are left out.

    Source: McMahan et al., AISTATS 2017; Caldas et al., LEAF, 2018. The text is in the public domain.
    """
    if length < 1 or stride < 1:
        raise InputError(f"length={length} and stride={stride} must be at least 1")
    roles = {
        name: said
        for name, said in _roles(Path(path) / SHAKESPEARE_FILE).items()
        if len(said) >= max(least_characters, length + 1)
    }
    if not roles:
        raise InputError(f"no role has {least_characters} characters: lower least_characters")
    text = "".join(roles.values())
    symbols = sorted(set(text))
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    number = np.zeros(int(codes.max()) + 1, np.int64)
    number[[ord(s) for s in symbols]] = np.arange(len(symbols))
    tokens = number[codes]
    ends = np.cumsum([len(said) for said in roles.values()])
    own = [np.lib.stride_tricks.sliding_window_view(part, length + 1)[::stride] for part in np.split(tokens, ends[:-1])]
    windows = np.concatenate(own)
    target = {"kind": "classes", "classes": symbols}
    shape = {"shape": [length], "dtype": "int64"}
    return Population.from_arrays(
        torch.as_tensor(windows[:, :-1]),
        torch.as_tensor(windows[:, -1].copy()),
        np.repeat(list(roles), [len(w) for w in own]),
        classes=tuple(symbols),
        source="shakespeare_roles",
        notes=(f"{len(roles)} roles of at least {least_characters} characters, windows every {stride} characters",),
        encoding={
            "format": "leaf",
            "input": shape,
            "symbols": "".join(symbols),
            "target": target,
            "episodic": False,
        },
    )


def _roles(path: Path) -> dict[str, str]:
    """{play/role: all that it says, a newline after each line}."""
    try:
        lines = read_unfolded(path).decode("utf-8").split("\n")[1:]
        rows = [line.split("\t") for line in lines if line]
        said: dict[str, list[str]] = {}
        for play, role, _, text in rows:
            said.setdefault(f"{play}/{role}", []).append(text)
    except BROKEN as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return {name: "\n".join(texts) + "\n" for name, texts in said.items()}
