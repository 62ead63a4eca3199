"""Slow clients from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from .bench import TINY, seedbed

ROUNDS = 6


def run(out: Path, *words: str) -> tuple[list[int], bytes]:
    """How many clients answered in each round, and the model."""
    given = ("--algorithm", "fedavg", *TINY, "--rounds", ROUNDS, "--set", "unseen=3", *words)
    said = seedbed("run", *given, "--out", out)
    assert said.code == 0, said
    records: list[dict[str, Any]] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    answered = [r["clients"] for r in records if r["stage"] == "fedavg"]
    return answered, (out / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("few_tunings")
def test_slow_clients_do_a_part_or_do_not_answer(tmp_path: Path) -> None:
    """With nine in ten slow, dropped clients are missing in nearly every round, partial ones in none; either way
    training is another one, and can be done again."""
    slow = ("--set", "stragglers.fraction=0.9", "--set")
    everyone, plain = run(tmp_path / "plain")
    dropped, without = run(tmp_path / "dropped", *slow, "stragglers.work=dropped")
    partial, some = run(tmp_path / "partial", *slow, "stragglers.work=partial")
    assert len(dropped) == ROUNDS
    assert sum(dropped) < sum(everyone) / 2
    assert partial == everyone
    assert len({plain, without, some}) == 3
    assert run(tmp_path / "again", *slow, "stragglers.work=dropped") == (dropped, without)


@pytest.mark.parametrize("word", ["stragglers.fraction=1.0", "stragglers.fraction=-0.1", "stragglers.work=late"])
def test_what_cannot_be_is_refused(word: str, tmp_path: Path) -> None:
    said = seedbed("run", *TINY, "--set", word, "--out", tmp_path / "r")
    assert word.partition("=")[0] in said.line


def test_dropping_needs_rounds_that_wait(tmp_path: Path) -> None:
    sets = ("stragglers.fraction=0.5", "stragglers.work=dropped", "schedule.name=asynchronous")
    words = [word for one in sets for word in ("--set", one)]
    said = seedbed("run", "--algorithm", "fedbuff", *TINY, *words, "--out", tmp_path / "r")
    assert "stragglers.work=dropped does not work with schedule.name=asynchronous" in said.line
