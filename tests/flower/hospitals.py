"""Made-up hospitals: a table each, in units of its own, and their federation."""

from pathlib import Path

import numpy as np
import pandas as pd

from seedbed.deployment.agreement import Agreement
from seedbed.deployment.flower.init import init_federation

NAMES = ("basel", "bern", "chur")
GIVEN = {"algorithm": "fedavg", "rounds": 3, "reader": {"target": "ill"}, "model": {"name": "linear"}}


def tables(folder: Path) -> dict[str, Path]:
    """A file each: 40 to 60 patients of two numbers and a word."""
    paths = {}
    for i, name in enumerate(NAMES):
        rng = np.random.default_rng(i)
        n = 40 + 10 * i
        ill = rng.integers(0, 2, n)
        table = pd.DataFrame(
            {
                "age": 50 + 10 * i + 8 * ill + rng.normal(0, 5, n),
                "pressure": (7.5 if i else 1) * (18 + 2 * ill + rng.normal(0, 1, n)),  # kPa, or mmHg
                "sex": np.where(rng.random(n) < 0.5, "f", "m"),
                "ill": np.where(ill == 1, "yes", "no"),
            }
        )
        paths[name] = folder / f"{name}.csv"
        table.to_csv(paths[name], index=False)
    return paths


def federation(folder: Path, port: int = 8443, **given: object) -> tuple[Path, dict[str, Path], Agreement]:
    """Its folder, the members' files, and what was agreed on."""
    files = tables(folder)
    agreement = init_federation(
        folder / "fed", NAMES, str(files["bern"]), {**GIVEN, **given}, host="localhost", port=port
    )
    return folder / "fed", files, agreement
