"""A default run on anybody's table: the client and the target by name, nothing else. Real tables; skipped if absent."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from seedbed.evaluation import summarise
from seedbed.experiments.adapt import load_personal

from .bench import seedbed

ROOT = Path(__file__).parents[2]
NO_RIVALS = ("--set", "evaluation.baselines=false")  # they take most of a run's time
Real = Callable[[str], Path]


def judged(path: Path, client: str, target: str, out: Path, *more: str) -> dict[str, Any]:
    """The result of a run that must end well."""
    said = seedbed("run", "--data", path, "--client", client, "--target", target, "--out", out, *more)
    assert said.code == 0, said.err
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def check(result: Mapping[str, Any]) -> None:
    """Adapted is not worse than unadapted beyond the interval, and no client is ten times worse than trivial."""
    for row, cells in result["unseen"].items():
        adapted, unadapted, trivial = (cells[column] for column in ("adapted", "unadapted", "trivial"))
        worse = summarise([a - b for a, b in zip(adapted["scores"], unadapted["scores"], strict=True)])
        if worse.clients > 1:
            assert worse.mean - worse.ci95 <= 0, row
        assert max(adapted["scores"]) <= 10 * trivial["mean"], row
        assert not adapted["diverged"]


def some_clients(path: Path, column: str, count: int, out: Path) -> Path:
    """The rows of the first so many clients."""
    head, *rows = path.read_text().splitlines()
    place, seen = head.split(",").index(column), {}
    for row in rows:
        seen.setdefault(row.split(",")[place], []).append(row)
    kept = [row for rows_of in list(seen.values())[:count] for row in rows_of]
    out.write_text("\n".join([head, *kept]) + "\n")
    return out


@pytest.mark.slow
def test_the_pages_four_commands(real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/your_own_data.md word for word: from gapminder.csv to life expectancy in years."""
    page = (ROOT / "docs" / "your_own_data.md").read_text()
    block = re.search(r"run word for word by.*?```bash\n(.*?)```", page, re.DOTALL)
    assert block is not None
    data = real("tables") / "gapminder.csv"
    shutil.copy(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in block[1].splitlines()]
    assert len(commands) == 4
    for words in commands:
        said = seedbed(*words[1:])
        assert said.code == 0, said
    with (tmp_path / "predictions.csv").open() as file, data.open() as wanted:
        pairs = list(zip(csv.DictReader(file), csv.DictReader(wanted), strict=True))
    assert all(mine["country"] == theirs["country"] for mine, theirs in pairs)
    errors = [abs(float(mine["prediction"]) - float(theirs["lifeExp"])) for mine, theirs in pairs]
    assert sum(errors) / len(errors) < 1.5  # years
    inside = [float(a["low"]) <= float(b["lifeExp"]) <= float(a["high"]) for a, b in pairs]
    assert sum(inside) / len(inside) > 0.88


def test_gapminder_beside_its_rivals(real: Real, tmp_path: Path) -> None:
    result = judged(real("tables") / "gapminder.csv", "country", "lifeExp", tmp_path / "run")
    check(result)
    five = result["unseen"]["5"]
    assert five["adapted"]["mean"] < five["unadapted"]["mean"] / 2
    assert 1 < five["adapted"]["also"]["RMSE"] < 5  # years
    assert list(five) == ["unadapted", "adapted", "fedavg_finetuned", "local", "trivial"]
    assert five["local"]["mean"] < five["trivial"]["mean"] / 3  # no straw man
    assert five["fedavg_finetuned"]["mean"] < five["trivial"]["mean"] / 3
    assert "20" not in result["unseen"]  # of 12 rows a country
    adapted = seedbed(
        "adapt", tmp_path / "run", "--support", real("tables") / "gapminder.csv", "--client", "Japan", "--out",
        tmp_path / "japan.safetensors", "--query", real("tables") / "gapminder.csv",
    )  # fmt: skip
    assert adapted.code == 0, adapted.err
    inputs = json.loads((tmp_path / "run" / "manifest.json").read_text())["shape"]["inputs"]
    assert load_personal(tmp_path / "japan.safetensors").predict(torch.zeros(1, *inputs)).shape == (1, 1)
    again = seedbed("evaluate", tmp_path / "run")
    assert f"{five['adapted']['mean']:.4g}" in again.out


@pytest.mark.parametrize(
    ("name", "client", "target"),
    [("exam", "school", "normexam"), ("verbagg", "id", "r2"), ("penguins", "island", "species")],
)
def test_tables_of_other_kinds(real: Real, tmp_path: Path, name: str, client: str, target: str) -> None:
    path = real("tables") / f"{name}.csv"
    if name == "verbagg":
        path = some_clients(path, client, 120, tmp_path / "part.csv")
    check(judged(path, client, target, tmp_path / "run", *NO_RIVALS))
    if name == "verbagg":
        said = seedbed("adapt", tmp_path / "run", "--support", path, "--client", "1", "--out", tmp_path / "m")
        assert said.code == 0, said.err
        one = load_personal(tmp_path / "m")
        x = torch.ones(9, one.model.width)
        calibrated, plain = one.predict(x), one.model.predict(dict(one.params), x)
        assert ((calibrated / plain) < 1).all()  # logits are shrunk by what is not known of the client


def test_clients_of_one_row_train_and_are_counted(real: Real, tmp_path: Path) -> None:
    path = some_clients(real("tables") / "chem97.csv", "school", 80, tmp_path / "part.csv")
    assert any(path.read_text().count(f"\n{number},") == 1 for number in range(80))
    result = judged(path, "school", "score", tmp_path / "run", *NO_RIVALS)
    check(result)
    notes = " ".join(json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["notes"])
    assert "unseen clients are too small to be judged with 20 examples: left out of that row" in notes
    counts = [row["adapted"]["clients"] for row in result["unseen"].values()]
    assert counts[1] < counts[0] < counts[2]
