"""`seedbed run --epsilon`: what is promised is said, what ε does not cover is withheld, a resumed run is the same."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from seedbed.privacy.differential import Gaussian, epsilon

from .bench import TINY, seedbed, table

PRIVATE = ("--algorithm", "fedavg", *TINY, "--set", "cohort=4")
COMMAND = [sys.executable, "-m", "seedbed"]


def ledger_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line.split("\t")[0]) for line in (run / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("private") / "run"
    said = seedbed("run", *PRIVATE, "--epsilon", "4", "--delta", "1e-4", "--out", out)
    assert said.code == 0, said.err
    return out, re.sub(r"\s+", " ", said.out)


def test_what_is_protected_is_said(run: tuple[Path, str]) -> None:
    out, said = run
    for words in (
        "Protected: the whole data of every known client",
        "ε = 4 at δ = 0.0001",
        "not the server itself",
        "That counts on nobody seeing who takes part",
        "Withheld",
        "Not covered",
        "A client that adapts uses its own data without noise, and its model stays with it.",
    ):
        assert words in said
        assert words in (out / "report.html").read_text()


def test_epsilon_is_that_of_the_ledger(run: tuple[Path, str]) -> None:
    """Ten known writers, four expected of them, three rounds: what the ledger holds costs what result.json says."""
    out, _ = run
    plan, *rounds = ledger_of(out)
    told = json.loads((out / "result.json").read_text())["privacy"]
    assert len(rounds) == 3
    assert {r["cost"]["rate"] for r in rounds} == {0.4}
    spent = epsilon({Gaussian(plan["noise_multiplier"], 0.4): 3}, 1e-4)
    assert told["epsilon"] == pytest.approx(spent)
    assert 4 * (1 - 1e-3) <= spent <= 4
    assert told["epsilon_if_cohorts_are_seen"] > told["epsilon"]
    assert told["takes_part_at_most"] == 3


def test_what_it_does_not_cover_is_withheld(run: tuple[Path, str]) -> None:
    """No loss, no size of a cohort, no scores or names of known clients, no choice made on them; the key is gone."""
    out, _ = run
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert metrics == [{"stage": "fedavg", "round": n} for n in (1, 2, 3)]
    result = json.loads((out / "result.json").read_text())
    assert result["seen"] == {}
    assert {how["text"] for how in result["finetuning"]["adapted"].values()} == {"all layers, 10 steps of lr 0.1"}
    manifest, report = json.loads((out / "manifest.json").read_text()), (out / "report.html").read_text()
    assert manifest["data"]["fingerprint"] not in report
    assert not [name for name in manifest["clients"]["train"] if f"<p>{name}" in report or f", {name}" in report]
    assert not (out / "noise.key").exists()


@pytest.mark.parametrize(
    "settings",
    [
        ("--algorithm", "per_fedavg", "--set", "privacy.mechanism=tree", "--set", "privacy.clip=0.5"),
        ("--algorithm", "scaffold", "--set", "privacy.mechanism=banded", "--set", "privacy.clip=0.5"),
        ("--algorithm", "reptile", "--set", "privacy.mechanism=local", "--set", "privacy.clip=0.5"),
        ("--algorithm", "fedmeta", "--set", "privacy.quantile=0.7"),
    ],
    ids=lambda s: s[1],
)
def test_every_mechanism_runs(tmp_path: Path, settings: tuple[str, ...]) -> None:
    said = seedbed("run", *TINY, "--set", "cohort=4", "--epsilon", "8", *settings, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert "Protected" in said.out
    assert len(ledger_of(tmp_path / "run")) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("--set", "privacy.clip=1"), "Use --epsilon 4"),
        (("--epsilon", "2", "--set", "privacy.mechanism=tree"), "Use privacy.clip=0.5"),
        (("--epsilon", "2", "--delta", "0.5"), "published whole"),
        (("--epsilon", "0"), "privacy.epsilon"),
        (("--epsilon", "2", "--algorithm", "centralised"), "pools the data of all clients"),
    ],
)
def test_what_cannot_be_promised_is_refused(tmp_path: Path, settings: tuple[str, ...], words: str) -> None:
    said = seedbed("run", *PRIVATE, *settings, "--out", tmp_path / "run")
    assert words in said.line
    assert not (tmp_path / "run").exists()


# ---- stopped, and gone on with --------------------------------------------------------------------------------------


def stopped(tmp_path: Path, rounds: int = 3) -> Path:
    """A run killed when its metrics have a few lines, of so many rounds that it cannot be through."""
    out = tmp_path / "run"
    words = [
        *PRIVATE,
        "--set",
        "cohort=10",
        "--epsilon",
        "4",
        "--rounds",
        "60",
        "--set",
        "privacy.clip=0.5",
        "--out",
        out,
    ]
    process = subprocess.Popen(
        [*COMMAND, "run", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= rounds:
            break
        time.sleep(0.001)
    process.kill()
    process.wait()
    return out


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("stopped"))


@pytest.mark.slow
def test_killed_the_ledger_has_counted_and_the_end_is_the_same(tmp_path: Path) -> None:
    """Killed in the middle; a copy of it is killed once more before it is through. Both end in the same model, bit for
    bit (the same noise in rounds computed twice), with as many charges as rounds."""
    out = stopped(tmp_path)
    released = (out / "metrics.jsonl").read_bytes().count(b"\n")
    charges = len(ledger_of_torn(out))
    assert released <= charges <= released + 1
    assert oct((out / "noise.key").stat().st_mode & 0o777) == "0o600"
    again = tmp_path / "again"
    shutil.copytree(out, again)
    process = subprocess.Popen([*COMMAND, "resume", str(again)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(ledger_of_torn(again)) < charges + 10:
        time.sleep(0.001)
    process.kill()
    process.wait()
    for run in (out, again):
        said = seedbed("resume", run)
        assert said.code == 0, said.err
        assert len(ledger_of(run)) == 61
    assert (out / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def ledger_of_torn(run: Path) -> list[bytes]:
    """The charges of a ledger, its last line perhaps in the middle of being written."""
    path = run / "ledger.jsonl"
    return path.read_bytes().split(b"\n")[1:-1] if path.exists() else []


def test_without_its_key_a_run_is_not_gone_on_with(tmp_path: Path) -> None:
    """Other noise on rounds that were released would be averaged with the first."""
    out = stopped(tmp_path)
    key = (out / "noise.key").read_bytes()
    (out / "noise.key").unlink()
    assert "is gone" in seedbed("resume", out).line
    (out / "noise.key").write_bytes(b"00" * 32)
    os.chmod(out / "noise.key", 0o600)
    assert "key=" in seedbed("resume", out).line
    (out / "noise.key").write_bytes(key)
    os.chmod(out / "noise.key", 0o644)
    assert "chmod 600" in seedbed("resume", out).line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"privacy": {"clip": 0.25}}, "privacy.clip was 0.5 when the run began"),
        ({"options": {"local": {"lr": 0.2}}}, "options"),
        ({"seed": 7}, "seed was 0 when the run began"),
    ],
    ids=lambda x: str(x)[:12],
)
def test_settings_of_a_private_run_cannot_be_changed(
    stopped_run: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    """Another clip, learning rate or seed would release again with the same key: refused by name, nothing charged."""
    run = tmp_path / "run"
    shutil.copytree(stopped_run, run)
    manifest = json.loads((run / "manifest.json").read_text())
    for key, value in changes.items():
        old = manifest["settings"][key]
        manifest["settings"][key] = old | value if isinstance(value, dict) else value
    (run / "manifest.json").write_text(json.dumps(manifest))
    before = (run / "ledger.jsonl").read_bytes()
    said = seedbed("resume", run)
    assert said.code == 2
    assert named in said.line
    assert (run / "ledger.jsonl").read_bytes() == before


def test_a_round_that_comes_out_otherwise_is_no_replay(stopped_run: Path, tmp_path: Path) -> None:
    """The first round's digest altered, checkpoints removed: computed again it is another release than was written."""
    run = tmp_path / "run"
    shutil.copytree(stopped_run, run)
    (run / "metrics.jsonl").unlink(missing_ok=True)
    journal = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(line for line in journal if "made_by" in line))
    lines = (run / "releases.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | {"sha256": "0" * 64}
    (run / "releases.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    assert "round 1, recomputed, differs from the release" in seedbed("resume", run).line


def test_an_altered_ledger_stops_the_run(tmp_path: Path) -> None:
    out = stopped(tmp_path)
    lines = (out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (out / "ledger.jsonl").write_bytes(b"".join([lines[0], *lines[2:]]))
    assert "is not as it was written" in seedbed("resume", out).line


def test_other_data_is_judged_by_a_private_start(tmp_path: Path, run: tuple[Path, str]) -> None:
    """`adapt` and `evaluate` use a private run like any other."""
    out, _ = run
    (tmp_path / "clients.csv").write_text(table())
    said = seedbed("evaluate", out, "--set", "evaluation.episodes=1")
    assert said.code == 0, said.err
