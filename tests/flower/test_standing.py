"""How a federation stands, read from its files alone; the same for people, and for Prometheus."""

import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seedbed.cli.commands import app
from seedbed.deployment.federation.transport import InProcess
from seedbed.deployment.log_lines import LogReader, server_log_line
from seedbed.deployment.metrics import MetricsServer, prometheus_text
from seedbed.deployment.server_folder import open_node, open_server
from seedbed.deployment.status import FederationStatus
from seedbed.errors import InputError

from .hospitals import NAMES, federation


def test_standing_follows_the_rounds(tmp_path: Path) -> None:
    directory, files, _ = federation(tmp_path, federation={"quorum": 2, "deadline": 5.0})
    before = FederationStatus.of(directory)
    assert before.title.endswith("round 1 of 3; the server is not running")
    assert [m.state for m in before.members] == ["not there"] * 3

    news, told = LogReader(directory), []
    nodes = {i: open_node(directory / "nodes" / name, files[name]) for i, name in enumerate(NAMES[:2])}
    server = open_server(directory, InProcess(nodes))
    rounds = server.rounds()
    next(rounds)
    during = FederationStatus.of(directory)
    assert during.serving
    assert during.title.endswith("round 2 of 3; the server is running")
    assert [m.round for m in during.members] == [1, 1, 0]
    assert during.members[2].heard is None
    assert all(m.got > 0 and m.sent > m.got / 2 for m in during.members[:2])
    assert during.members[2].got == 0
    list(rounds)
    server.close()
    news.tell(told.append)
    assert "basel is connected" in told
    assert "round 1: waiting for basel, bern, chur (0 of 3 have answered; in 5 s 2 are enough)" in told
    assert told[-1] == "all rounds are done"
    assert news.round == 3

    after = FederationStatus.of(directory)
    assert after.done
    assert not after.serving
    assert [m.state for m in after.members] == ["has the model", "has the model", "not there"]
    assert set(after.numbers) == {"loss"}


def test_half_lines_of_a_full_disk_are_passed_over(tmp_path: Path) -> None:
    """In the log, with the next line added to it, and at the end of metrics.jsonl."""
    directory, files, _ = federation(tmp_path)
    nodes = {i: open_node(directory / "nodes" / name, files[name]) for i, name in enumerate(NAMES)}
    server = open_server(directory, InProcess(nodes))
    next(server.rounds())
    before = FederationStatus.of(directory)
    news, told = LogReader(directory), []
    run = directory / "server" / "run"
    with open(run / "log.jsonl", "a") as log, open(run / "metrics.jsonl", "a") as metrics:
        log.write('{"time": "2026-01-01T00:00:00+00:00", "even')
        metrics.write('{"round": 2, "clients": [0, ')
    server.log("finished", rounds=1)
    server.log("finished", rounds=1)
    news.tell(told.append)
    assert told == ["all rounds are done"]
    assert FederationStatus.of(directory) == before
    server.close()


def test_figures_for_prometheus(tmp_path: Path) -> None:
    directory, _, _ = federation(tmp_path)
    figures = MetricsServer(lambda: FederationStatus.of(directory), 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{figures.port}/metrics") as page:
            assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            lines = page.read().decode().splitlines()
        with pytest.raises(InputError, match="another --metrics"):
            MetricsServer(lambda: FederationStatus.of(directory), figures.port)
    finally:
        figures.close()
    assert "seedbed_rounds 3" in lines
    assert 'seedbed_member_refused_total{member="chur"} 0' in lines
    samples = [line for line in lines if not line.startswith("#")]
    assert all(len(line.split()) == 2 and float(line.split()[1]) >= 0 for line in samples)
    assert prometheus_text(FederationStatus.of(directory)).splitlines() == lines


def test_the_commands_show_it(tmp_path: Path) -> None:
    directory, _, agreement = federation(tmp_path)
    shown = CliRunner().invoke(app, ["federation", "status", str(directory)])
    assert shown.exit_code == 0
    assert f"{agreement.name}: round 1 of 3; the server is not running" in shown.output
    assert all(name in shown.output for name in NAMES)
    renewed = CliRunner().invoke(app, ["federation", "renew", str(directory), "--days", "30"])
    assert "is good until" in renewed.output


def test_names_follow_the_first_as_people_write_them(tmp_path: Path) -> None:
    _, files, _ = federation(tmp_path)
    words = ["federation", "init", str(tmp_path / "new"), "--nodes", "x", "y", "z", "--like", str(files["bern"])]
    made = CliRunner().invoke(app, [*words, "--set", "reader.target=ill"])
    assert made.exit_code == 0, made.output
    assert sorted(p.name for p in (tmp_path / "new" / "nodes").iterdir()) == ["x", "y", "z"]


def test_what_is_not_for_people_is_not_said() -> None:
    assert server_log_line({"event": "traffic", "round": 1}, NAMES) is None
    assert server_log_line({"event": "REFUSED", "round": 2, "client": 1, "why": "not finite"}, NAMES) == (
        "round 2: refused a message of bern: not finite"
    )
