"""What `benchmarks/peers/run.py` stands on: contestants compute the same, and who does not is left out and named."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from seedbed.errors import InputError

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PEERS))
    import run

    return run


def test_contestants_in_turn(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain loop and Seedbed as processes: equal after a round, one time each a turn; a broken one is left out."""
    monkeypatch.setattr(run, "BLOCK", 0.01)
    entrants = [entrant for entrant in run.ENTRANTS if entrant.name in (run.LOOP, "Seedbed, stacked")]
    broken = run.Entrant("broken", ("turns_that_are_not_there.py",), "a")
    found = run.race("a", [*entrants, broken], 2, tmp_path, lambda line: None)
    assert {name: len(seconds) for name, seconds in found.seconds.items()} == {run.LOOP: 2, "Seedbed, stacked": 2}
    assert found.apart["Seedbed, stacked"] < 1e-6
    assert "turns_that_are_not_there.py" in found.left["broken"]
    page = tmp_path / "page.md"
    page.write_text(run.MARK.format("a", "", "a"))
    run.put(page, found)
    run.put(page, found)
    assert page.read_text().count("| plain loop |") == 1
    assert "Left out: broken" in page.read_text()


def test_ratios_are_of_neighbours(run: ModuleType) -> None:
    """The machine is three times as slow in the last turn: each turn has its ratio of 4, as has the median."""
    found = run.Race("a", seconds={"theirs": [4, 8, 12], "ours": [1, 2, 3]}, gemm=[1.0, 1.0, 1.0])
    assert found.ratio("theirs", "ours") == (4, 4, 4)


def test_other_parameters_are_infinitely_far(run: ModuleType) -> None:
    assert run.difference({"w": np.zeros(2)}, {"w": np.array([0, 0.5])}) == 0.5
    assert run.difference({"w": np.zeros(2)}, {"v": np.zeros(2)}) == float("inf")
    assert run.difference({"w": np.zeros(2)}, {"w": np.zeros(3)}) == float("inf")


def test_a_page_without_a_place_is_refused(run: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Nothing\n")
    with pytest.raises(InputError, match="no place for workload b"):
        run.put(page, run.Race("b"))
