"""What `benchmarks/peers/run.py` stands on: contestants compute the same, and who does not is left out and named."""

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest

from seedbed.errors import InputError

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
ENDS_IN_A_TURN = f"""
import sys
sys.path.insert(0, {str(PEERS)!r})
from turns import Turns

turns = Turns()
params = lambda: dict(turns.work.params)
turns.wait(params), turns.wait(params), turns.wait(params)
raise RuntimeError("after two rounds")
"""


class Rooms(NamedTuple):
    contestant: ModuleType
    entrants: ModuleType
    kept: ModuleType
    memory: ModuleType
    race: ModuleType
    tables: ModuleType


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Rooms:
    monkeypatch.syspath_prepend(str(PEERS.parent))
    monkeypatch.syspath_prepend(str(PEERS))
    import contestant
    import entrants
    import kept
    import memory
    import race
    import tables

    return Rooms(contestant, entrants, kept, memory, race, tables)


@pytest.mark.slow
def test_contestants_in_turn(rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain loop and Seedbed as processes: equal after a round, one time each a turn; one that cannot start is left
    out, and so is one that ends in a turn, and the others go on. Their table is on the page once, and says who is
    out."""
    monkeypatch.setattr(rooms.contestant, "BLOCK", 0.01)
    monkeypatch.setattr(rooms.race, "APART", 1.0)  # for the one that trains nothing
    loop, ours = rooms.entrants.LOOP, "Seedbed, stacked"
    entrants = [entrant for entrant in rooms.entrants.ENTRANTS if entrant.name in (loop, ours)]
    (tmp_path / "ends.py").write_text(ENDS_IN_A_TURN)
    broken = rooms.entrants.Entrant("broken", ("turns_that_are_not_there.py",), "a")
    ends = rooms.entrants.Entrant("ends", (str(tmp_path / "ends.py"),), "a")
    found = rooms.race.race("a", [*entrants, broken, ends], 2, tmp_path, lambda line: None)
    assert {name: len(seconds) for name, seconds in found.seconds.items()} == {loop: 2, ours: 2}
    assert found.apart[ours] < 1e-6
    assert "turns_that_are_not_there.py" in found.left["broken"]
    assert found.left["ends"] == "RuntimeError: after two rounds"
    page = tmp_path / "page.md"
    page.write_text(rooms.tables.MARK.format("a", "", "a"))
    rooms.tables.put(page, found)
    rooms.tables.put(page, found)
    assert page.read_text().count("| plain loop |") == 1
    assert "Left out: broken" in page.read_text()


def test_memory_is_of_all_that_a_process_started(rooms: Rooms) -> None:
    """A process that starts one that takes 64 MB."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("the system does not tell")
    takes = "x = b'1' * 2**26; print(len(x), flush=True); input()"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {takes!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", starts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with rooms.memory.Watched(process.pid) as watched:
            time.sleep(2 * rooms.memory.EVERY)
        process.communicate(b"\n")
    assert 64 < watched.most < 128


def test_ratios_are_of_neighbours(rooms: Rooms) -> None:
    """The machine is three times as slow in the last turn: each turn has its ratio of 4, as has the median."""
    found = rooms.race.Race("a", seconds={"theirs": [4, 8, 12], "ours": [1, 2, 3]}, gemm=[1.0, 1.0, 1.0])
    assert found.ratio("theirs", "ours") == (4, 4, 4)


def test_other_parameters_are_infinitely_far(rooms: Rooms) -> None:
    difference = rooms.race.difference
    assert difference({"w": np.zeros(2)}, {"w": np.array([0, 0.5])}) == 0.5
    assert difference({"w": np.zeros(2)}, {"v": np.zeros(2)}) == float("inf")
    assert difference({"w": np.zeros(2)}, {"w": np.zeros(3)}) == float("inf")


def test_finished_workloads_are_kept(rooms: Rooms, tmp_path: Path) -> None:
    found = rooms.race.Race(
        "b2", seconds={"plain loop": [1.0, 2.0]}, left={"FedLab": "no"}, gemm=[1.0, 2.0], when="now"
    )
    assert rooms.kept.kept(tmp_path, "b2") is None
    rooms.kept.keep(tmp_path, found)
    assert rooms.kept.kept(tmp_path, "b2") == found
    (tmp_path / "b2.json").write_text("{")
    with pytest.raises(InputError, match=r"b2.json holds no finished workload .*: remove it, and measure b2 again"):
        rooms.kept.kept(tmp_path, "b2")


def test_a_page_without_a_place_is_refused(rooms: Rooms, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Nothing\n")
    with pytest.raises(InputError, match="no place for workload b"):
        rooms.tables.put(page, rooms.race.Race("b"))
