"""Runs without rounds and without a server: from command to table, stopped and gone on with, adapted, refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seedbed.experiments.launch import start_run
from seedbed.experiments.stages import Show

from .bench import NET, ONCE, PLAIN, TINY, kept, seedbed, table

Stop = Callable[[int], None]
LATE = ("--set", "schedule.name=asynchronous", "--set", "schedule.concurrency=4", "--set", "schedule.buffer=2")
PEERS = ("--set", "schedule.name=gossip", "--set", "schedule.link_failure=0.2", "--set", "schedule.peer_failure=0.2")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def metrics(run: str, stage: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


@pytest.mark.parametrize("engine", ["one_by_one", "vectorised"])
@pytest.mark.parametrize("name", ["ditto", "anil"])
@pytest.mark.parametrize("schedule", [LATE, PEERS], ids=["asynchronous", "gossip"])
def test_stopped_and_gone_on_with_is_never_stopped(
    stopping: Stop, schedule: tuple[str, ...], name: str, engine: str
) -> None:
    """Ctrl-C after the fourth checkpoint of seven, with clients at work, messages computed and not yet received, and
    what clients keep: bit for bit, metrics too."""
    own = ("--set", "test_steps=1")  # nothing to choose, so that no probe comes first
    words = ("run", "--algorithm", name, "--engine", engine, *TINY, "--rounds", 7, *own, *schedule)
    stopping(4)
    assert seedbed(*words, "--out", "r").code == 130
    stopping(0)
    assert len(metrics("r", name)) == 4
    said = seedbed("resume", "r")
    assert said.code == 0, said
    assert seedbed(*words, "--out", "whole").code == 0
    assert kept(Path("r")) == kept(Path("whole"))


@pytest.mark.usefixtures("few_tunings")
@pytest.mark.parametrize("name", ["fedasync", "fedbuff", "dpsgd", "push_sum", "dif_maml"])
def test_what_an_algorithm_s_own_schedule_is(name: str) -> None:
    """Without being told: with the numbers that it is watched by, and from the finished run a client's own model."""
    Path("a.csv").write_text(table())
    Path("new.csv").write_text(table("z", rows=10))
    words = ("run", "--data", "a.csv", "--set", "reader.client=hospital", "--set", "reader.target=label", "--algorithm")
    said = seedbed(*words, name, *TINY, "--out", "r")
    assert said.code == 0, said
    settings = json.loads(Path("r/manifest.json").read_text())["settings"]["schedule"]
    late = name in ("fedasync", "fedbuff")
    assert settings["name"] == ("asynchronous" if late else "gossip")
    for line in metrics("r", name):
        assert ({"time", "staleness"} if late else {"consensus", "lambda2"}) <= line.keys()
        assert line["clients"] == 3 or name != "fedasync"  # as many as a cohort
    drawn = Path("r/report.html").read_text()
    assert ("asynchronous, " if late else "with all peers") in drawn
    assert ("from their mean" in drawn) != late
    assert seedbed("evaluate", "r").code == 0
    said = seedbed("adapt", "r", "--support", "new.csv", "--out", "mine.safetensors")
    assert said.code == 0, said
    assert {f"params.{n}" for n in load_file("mine.safetensors")} == load_file("r/model.safetensors").keys()


@pytest.mark.usefixtures("few_tunings")
@pytest.mark.parametrize("name", ["fedavg", "push_sum"])
def test_the_model_of_a_gossip_run_is_the_mean_of_its_peers(name: str) -> None:
    """For push-sum the mean of the numerators, as the weights' mean is 1."""
    assert seedbed("run", "--algorithm", name, *TINY, *PEERS, "--out", "r").code == 0
    last = load_file(f"r/checkpoints/{name}-000003.safetensors")
    for parameter, value in load_file("r/model.safetensors").items():
        peers = last[f"rest.peers.{parameter}"]
        assert torch.allclose(peers.mean(0), value, atol=1e-6)
        assert not torch.allclose(peers[0], value, atol=1e-6)
    if name == "push_sum":
        assert abs(float(last["rest.peers.extra.w"].mean()) - 1) < 1e-12
        assert float(last["rest.peers.extra.w"].std()) > 0.1


@pytest.mark.usefixtures("few_tunings")
@pytest.mark.parametrize(
    ("name", "schedule", "rounds"),
    [
        ("fedavg", ("schedule.name=gossip",), 4),
        ("fedavg", ("schedule.name=asynchronous", "schedule.buffer=5"), 4),
        ("dpsgd", (), 4),
        ("fedasync", (), 4),
        ("fedprox", (), 4),
    ],
)
def test_the_rival_does_as_much_work_in_synchronous_rounds(name: str, schedule: tuple[str, ...], rounds: int) -> None:
    """Ten known clients, a cohort of ten, four rounds: FedAvg has as many of its own as take in as many replies, also
    where the run's algorithm is FedAvg itself, on another schedule."""
    settings = [*schedule, "cohort=10", "rounds=4", "model.name=linear", "evaluation.episodes=1", "evaluation.shots=1",
                "evaluation.curve=false"]  # fmt: skip
    start_run({"algorithm": name}, settings, None, Path("r"), Show())
    rival = metrics("r", "fedavg-synchronous" if name == "fedavg" else "fedavg")
    assert len(metrics("r", name)) == 4
    assert len(rival) == rounds
    assert all("time" not in line and "consensus" not in line for line in rival)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fedasync schedule.name=synchronous", ["late replies", "none is late", "fedasync runs on asynchronous"]),
        ("fedbuff schedule.name=gossip", ["its own message only", "runs on asynchronous"]),
        ("dpsgd schedule.name=synchronous", ["peers without a server", "runs on gossip"]),
        ("dif_maml schedule.name=asynchronous", ["peers without a server", "runs on gossip"]),
        ("centralised schedule.name=gossip", ["centralised does not work with", "a baseline exchanges nothing"]),
        ("local schedule.name=gossip", ["local does not work with", "a baseline exchanges nothing"]),
        (
            "fedavg schedule.name=gossip schedule.topology=directed_ring",
            ["loses the mean", "Use push_sum", "ring, grid"],
        ),
        ("fedavg schedule.buffer=3", ["schedule.buffer=3", "asynchronous", "drop schedule.buffer"]),
        ("fedavg schedule.name=gossip schedule.spread=2", ["schedule.spread=2", "asynchronous", "gossip"]),
        ("fedbuff schedule.link_failure=0.1", ["schedule.link_failure=0.1", "gossip", "asynchronous"]),
        ("fedbuff schedule.concurrency=11", ["schedule.concurrency=11 of 10 clients", "between 1 and 10"]),
        ("fedbuff schedule.buffer=0", ["schedule.buffer=0", "greater than or equal to 1"]),
        ("fedavg schedule.name=rumour", ["schedule.name='rumour'", "'gossip'"]),
        ("dpsgd schedule.topology=star", ["schedule.topology='star'", "'ring'"]),
        ("dpsgd schedule.peer_failure=1", ["schedule.peer_failure=1", "less than 1"]),
        ("dpsgd schedule.topology=erdos_renyi schedule.density=0.01", ["density=0.01", "did not connect 10 peers"]),
        ("dpsgd schedule.topolgy=ring", ["'schedule.topolgy'", "did you mean 'schedule.topology'"]),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(words: str, said: list[str]) -> None:
    name, *settings = words.split()
    found = seedbed("run", "--algorithm", name, *TINY, *(w for s in settings for w in ("--set", s)), "--out", "out")
    assert all(word in found.line for word in said), found.line
    assert not Path("out").exists()


@pytest.mark.usefixtures("few_tunings")
def test_a_learning_rate_s_schedule_is_still_said_by_its_bare_name() -> None:
    words = ("run", "--algorithm", "fedavgm", *NET, *ONCE, *PLAIN, "--rounds", 1)
    assert seedbed(*words, "--set", "schedule=cosine", "--out", "r").code == 0
    assert json.loads(Path("r/manifest.json").read_text())["settings"]["options"]["schedule"] == "cosine"
