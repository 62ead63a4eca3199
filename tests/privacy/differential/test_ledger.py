"""The ledger: charged before, never under, stops in time, and cannot be altered without being found out."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from seedbed import InputError
from seedbed.federated import ServerState
from seedbed.privacy.differential import Gaussian, Independent, Ledger, TreeAggregation, charge_rounds, epsilon
from seedbed.privacy.differential.joint_ledger import JointLedger
from seedbed.privacy.differential.ledger import Releases
from seedbed.rounds import Round

from .parrots import KEY

COST = Gaussian(10.0)
PLANS = 100


def rounds() -> Iterator[Round]:
    return (Round(n + 1, ServerState({}, {}), [1, 2], {}) for n in count())


def opened(path: Path, budget: float = 4.0, **plan: object) -> Ledger:
    return Ledger(path / "ledger.jsonl", epsilon=budget, delta=1e-5, plan=plan)


@pytest.mark.parametrize("seed", range(PLANS))
def test_the_run_stops_before_the_budget_is_exceeded(tmp_path: Path, seed: int) -> None:
    """Random budgets, noise, rates and, in a third of the plans, costs that change on the way. The round that is
    refused is not made and not written; with it, ε would have been above the budget."""
    rng = np.random.default_rng(seed)
    budget = float(rng.uniform(0.3, 8))
    rate = 1.0 if seed % 50 else 0.5
    noise = 5 * rate * np.sqrt(rng.uniform(1, 9, 2)) / budget  # some 1 to 9 rounds
    costs = [Gaussian(float(z), rate) for z in noise[: 2 if seed % 3 == 0 and rate == 1 else 1]]
    ledger, made = opened(tmp_path, budget), 0
    try:
        while made < 1000:
            ledger.charge(made, costs[made // 3 % len(costs)])
            made += 1
    except InputError as error:
        assert "stops before it" in str(error)  # noqa: PT017
    assert ledger.charged_rounds == made == sum(ledger.spent.values())
    assert ledger.epsilon <= budget
    more = dict(ledger.spent)
    refused = costs[made // 3 % len(costs)]
    more[refused] = more.get(refused, 0) + 1
    assert epsilon(more, 1e-5) > budget
    assert opened(tmp_path, budget).charged_rounds == made


def test_charged_before_it_is_made(tmp_path: Path) -> None:
    """When a round is being computed, it stands in the file already."""
    ledger, seen = opened(tmp_path), []

    def looking() -> Iterator[Round]:
        for round in rounds():
            seen.append(opened(tmp_path).charged_rounds)
            yield round

    made = charge_rounds(looking(), ledger, Independent(KEY, 10.0, 8, 8))
    for _ in range(3):
        round = next(made)
        assert round.clients == ()
    assert seen == [1, 2, 3]


def test_a_round_made_again_is_charged_once(tmp_path: Path) -> None:
    mechanism = Independent(KEY, 10.0, 8, 8)
    first = charge_rounds(rounds(), opened(tmp_path), mechanism)
    for _ in range(5):
        next(first)
    again = opened(tmp_path)
    replayed = charge_rounds(rounds(), again, mechanism, done=2)
    for expected in (5, 5, 5, 6):
        next(replayed)
        assert again.charged_rounds == expected
    assert again.spent == {Gaussian(10.0): 6}


def test_a_pass_is_charged_at_its_first_round(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    made = charge_rounds(rounds(), ledger, TreeAggregation(KEY, 10.0, 2, 8))
    spent = [next(made) and sum(ledger.spent.values()) for _ in range(9)]
    assert spent == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert ledger.charged_rounds == 9


def test_no_noise_costs_everything(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stops before it"):
        opened(tmp_path, 1e6).charge(0, Gaussian(0.0))


# ---- what happens to the file ---------------------------------------------------------------------------------------


def written(tmp_path: Path, number: int = 5) -> bytes:
    ledger = opened(tmp_path)
    for n in range(number):
        ledger.charge(n, COST)
    return (tmp_path / "ledger.jsonl").read_bytes()


def test_every_torn_end_is_cut_to_whole_lines(tmp_path: Path) -> None:
    """At every byte: the whole lines before it count, none after; and it is gone on with."""
    data = written(tmp_path, 3)
    for size in range(data.index(b"\n") + 1, len(data)):
        (tmp_path / "ledger.jsonl").write_bytes(data[:size])
        ledger = opened(tmp_path)
        assert ledger.charged_rounds == data[:size].count(b"\n") - 1
        if size % 16 == 0:
            ledger.charge(ledger.charged_rounds, COST)
            assert opened(tmp_path).charged_rounds == ledger.charged_rounds


def test_every_altered_byte_is_found(tmp_path: Path) -> None:
    """Every byte before the last line's end, changed by one bit: refused, or (in the first line's figures) of another
    plan; never read as something else."""
    data = written(tmp_path, 3)
    for place in range(len(data) - 1):
        altered = bytearray(data)
        altered[place] ^= 1
        (tmp_path / "ledger.jsonl").write_bytes(bytes(altered))
        with pytest.raises(InputError, match=r"ledger.jsonl"):
            opened(tmp_path)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_a_line_left_out_is_found(tmp_path: Path, gone: int) -> None:
    lines = written(tmp_path).splitlines(keepends=True)
    del lines[gone]
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=f"line {gone + 1} is not as it was written"):
        opened(tmp_path)


def test_lines_taken_off_the_end_are_missed_by_the_run(tmp_path: Path) -> None:
    """The ledger alone cannot know; the run's checkpoint does: it goes on from a round that the ledger has not seen."""
    lines = written(tmp_path).splitlines(keepends=True)
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines[:3]))
    made = charge_rounds(rounds(), opened(tmp_path), Independent(KEY, 10.0, 8, 8), done=5)
    with pytest.raises(InputError, match="lines are missing"):
        next(made)


def test_another_plan_is_refused(tmp_path: Path) -> None:
    opened(tmp_path, key="a").charge(0, COST)
    with pytest.raises(InputError, match="key='a', not 'b'"):
        opened(tmp_path, key="b")
    with pytest.raises(InputError, match=r"epsilon=4\.0, not 5\.0"):
        opened(tmp_path, 5.0)


def test_lines_are_json(tmp_path: Path) -> None:
    first, second = (json.loads(line.split(b"\t")[0]) for line in written(tmp_path, 1).splitlines())
    assert first == {"epsilon": 4.0, "delta": 1e-5, "before": ""}
    assert second["round"] == 0
    assert second["cost"] == {"noise_multiplier": 10.0, "rate": 1.0}


# ---- really killed --------------------------------------------------------------------------------------------------

RELEASING = """
import os, sys
from pathlib import Path
from seedbed.privacy.differential import Gaussian, Ledger
folder = Path(sys.argv[1])
ledger = Ledger(folder / "ledger.jsonl", epsilon=1e9, delta=1e-5, rounds=10**9)
released = open(folder / "released", "a")
for n in range(ledger.charged_rounds, 10**9):
    ledger.charge(n, Gaussian(10.0))
    released.write(f"{n}\\n")
    released.flush()
    os.fsync(released.fileno())
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_has_counted_what_was_released(tmp_path: Path) -> None:
    """Six times, each going on where the last was killed: charged ≥ released, by one a kill at most."""
    rng = np.random.default_rng(0)
    for kill in range(1, 7):
        process = subprocess.Popen([sys.executable, "-c", RELEASING, str(tmp_path)])
        released, deadline = tmp_path / "released", time.monotonic() + 120
        before = released.read_bytes().count(b"\n") if released.exists() else 0
        while time.monotonic() < deadline and (
            not released.exists() or released.read_bytes().count(b"\n") < before + int(rng.integers(1, 8))
        ):
            time.sleep(float(rng.uniform(0, 0.004)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        count_released = released.read_bytes().count(b"\n")
        ledger = Ledger(tmp_path / "ledger.jsonl", epsilon=1e9, delta=1e-5)
        assert count_released <= ledger.charged_rounds <= count_released + kill
        assert count_released > before


SPENT = '{"run": "x", "spent": [[{"noise_multiplier": %s, "rate": %s}, %s]]}'


@pytest.mark.parametrize(
    "line",
    ["5", "[]", "{}", '{"run": "x"}', '{"run": "x", "spent": 5}', '{"run": "x", "spent": [[{"a": 1}, 5]]}']
    + [SPENT % odd for odd in ((4.0, 1.0, -5), (4.0, 1.0, 0.5), (-4.0, 1.0, 5), ("NaN", 1.0, 5), ("Infinity", 1.0, 5))]
    + [SPENT % (4.0, '"a"', 5), "[" * 100_000],
)
def test_a_joint_ledger_that_holds_something_else(line: str, tmp_path: Path) -> None:
    """Less than nothing would take off what other runs have spent."""
    ledger = JointLedger(tmp_path, "f" * 32)
    ledger.charge("first", {Gaussian(4.0): 10}, 1e-5)
    good = ledger.path.read_text()
    ledger.path.write_text(good + line + "\n")
    with pytest.raises(InputError, match=r"is not as it was written .*privacy.joint_ledger"):
        ledger.charge("second", {Gaussian(4.0): 10}, 1e-5)
    ledger.path.write_text(good)
    assert ledger.charge("second", {Gaussian(4.0): 10}, 1e-5).epsilon == epsilon({Gaussian(4.0): 20}, 1e-5)


@pytest.mark.parametrize("line", [b"5", b"[]", b"{}", b'{"round": 0}', b"\xff", b"[" * 100_000])
def test_releases_that_hold_something_else(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "releases.jsonl").write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"releases.jsonl is not as it was written"):
        Releases(tmp_path / "releases.jsonl")
