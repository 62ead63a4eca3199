"""`seedbed run --secure`: every message goes through the protocol, what the server sees is said, and what cannot be had
together is refused before anything is written."""

import importlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seedbed import tree
from seedbed.engines import OneByOne
from seedbed.experiments.secure_aggregation import SecurePlan
from seedbed.privacy.differential import epsilon
from seedbed.privacy.differential.accountant import Skellam
from seedbed.privacy.secure import PlainSums

from .bench import NET, ONCE, TINY, kept, look_at_few, seedbed

schedule = importlib.import_module("seedbed.rounds.synchronous")  # the package has a function of that name
pytestmark = pytest.mark.usefixtures("few_tunings")
FEDAVG = ("run", "--algorithm", "fedavg", *TINY)
LOSSY = ("--secure", "--set", "secure.dropout=0.35", "--rounds", 6)


def json_of(run: Path, name: str = "result.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Six rounds with a third of the clients lost, and some rounds given up."""
    out = tmp_path_factory.mktemp("secure") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        look_at_few(monkeypatch)
        said = seedbed(*FEDAVG, *LOSSY, "--out", out)
    assert said.code == 0, said.err
    return out, re.sub(r"\s+", " ", said.out)


def test_what_the_server_sees_is_said(lossy: tuple[Path, str]) -> None:
    out, said = lossy
    lost = sum(int(line.get("lost", 0)) for line in metrics_of(out))
    given_up = sum(int(line.get("abandoned", 0)) for line in metrics_of(out))
    for words in (
        "Secure aggregation: of 10 of 10 known clients a round the server sees the weighted mean",
        "Against: a server that follows the protocol and reads all it gets, together with up to 2 of the "
        "10 clients of a round",
        "6 of 9 neighbours unmask. Odds a round that an update is exposed beyond its sum: none; that the sum is given "
        "up while at most 3 are lost: none.",
        f"{lost} messages in {len(metrics_of(out))} rounds; {given_up} rounds were given up",
        "Withheld: losses of single clients, and scores on known clients.",
        "Not covered: what a sum itself tells",
        "A run is a simulation",
    ):
        assert words in said
        assert words in (out / "report.html").read_text()
    result = json_of(out)
    assert (result["secure"]["lost"], result["secure"]["given_up"]) == (lost, given_up)
    assert result["seen"] == {}


def test_rounds_are_given_up_by_name_and_the_run_goes_on(lossy: tuple[Path, str]) -> None:
    """Both kinds are there: sums without those that were lost, and a round that ended without one."""
    whole = [line for line in metrics_of(lossy[0]) if line["stage"] == "fedavg"]
    assert [line["round"] for line in whole] == list(range(1, 7))
    given_up = [line for line in whole if line.get("abandoned")]
    summed = [line for line in whole if line.get("lost") and not line.get("abandoned")]
    assert given_up
    assert summed
    assert all("nothing was revealed" in why for line in given_up for why in line["reasons"].values())
    assert all("loss" in line and len(line["reasons"]) == line["lost"] for line in summed)
    assert not any("loss" in line for line in given_up)


def test_it_is_the_open_sum_bit_for_bit_and_resumes_so(
    lossy: tuple[Path, str], tmp_path: Path, stopping: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the protocol taken away and its arithmetic left (and the same clients lost as the protocol lost), and
    stopped and gone on with: the same model, metrics and result."""
    stopping(4)
    assert seedbed(*FEDAVG, *LOSSY, "--out", tmp_path / "torn").code != 0
    stopping(0)
    assert seedbed("resume", tmp_path / "torn").code == 0
    assert kept(tmp_path / "torn") == kept(lossy[0])
    plain = ("--secure", "--rounds", 4)
    assert seedbed(*FEDAVG, *plain, "--out", tmp_path / "masked").code == 0
    monkeypatch.setattr(SecurePlan, "form", property(lambda self: PlainSums()))
    monkeypatch.setattr(SecurePlan, "_model", lambda self: "")
    assert seedbed(*FEDAVG, *plain, "--out", tmp_path / "open").code == 0
    for name in ("model.safetensors", "metrics.jsonl"):
        assert kept(tmp_path / "open")[name] == kept(tmp_path / "masked")[name]


def test_no_single_message_reaches_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run trains, its rivals and probes too: the schedule is handed one message a round, over seven clients
    or more, and it is nobody's own; of those, each round had seven or more."""
    own, seen = Spied(), Spied()
    inner, gather = OneByOne.ask, schedule.gather

    def asked(self: OneByOne, *arguments: Any) -> Any:
        for group in inner(self, *arguments):
            own.see(group)
            yield group

    def gathered(algorithm: Any, groups: Any, population: int) -> Any:
        for group in groups:
            seen.see(group)
            assert [len(some) >= 7 for some in group.members] == [True]
        return gather(algorithm, groups, population)

    monkeypatch.setattr(OneByOne, "ask", asked)
    monkeypatch.setattr(schedule, "gather", gathered)
    words = ("run", "--algorithm", "reptile", *NET, *ONCE, "--set", "evaluation.curve=false", "--set", "task.epochs=1")
    said = seedbed(*words, "--engine", "one_by_one", "--rounds", 2, "--secure", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert {line["stage"] for line in metrics_of(tmp_path / "run")} >= {"reptile", "fedavg"}
    assert len(seen.messages) == len(metrics_of(tmp_path / "run"))
    assert len(own.messages) >= 7 * len(seen.messages)
    assert not own.messages & seen.messages


class Spied:
    """The messages of groups, as bytes."""

    def __init__(self) -> None:
        self.messages: set[bytes] = set()

    def see(self, group: Any) -> None:
        for place in range(len(group.messages.weight)):
            leaves = tree.leaves(tree.index(group.messages.value, place))
            self.messages.add(b"".join(leaf.numpy().tobytes() for leaf in leaves))


def test_groups_under_a_rule(tmp_path: Path) -> None:
    """Three groups of three or four, their median; one attacker spoils one group."""
    words = ("run", "--algorithm", "per_fedavg", "--set", "test_steps=2", *TINY, "--reduce", "median")
    words += ("--secure", "--set", "secure.groups=3", "--attack", "scaling", "--attackers", "1")
    said = seedbed(*words, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    told = re.sub(r"\s+", " ", said.out)
    assert "dealt afresh into 3 groups of 3 to 4, the server sees each group's weighted mean" in told
    assert "a client hides among 3, not among 10" in told
    assert json_of(tmp_path / "run")["secure"]["groups"] == 3


def test_shares_among_servers(tmp_path: Path) -> None:
    words = (*FEDAVG, "--secure", "--set", "secure.form=shares", "--set", "secure.servers=3")
    said = seedbed(*words, "--set", "secure.dropout=0.3", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert "3 servers that follow the protocol, as long as one of them does not collude" in said.out
    assert "0 rounds were given up" in said.out


@pytest.mark.parametrize("algorithm", ["scaffold", "fed_proto", "per_fedavg", "fednova"])
def test_algorithms_run_without_a_line_of_it(algorithm: str, tmp_path: Path) -> None:
    """Messages of models, pairs, and of clients that all count the same."""
    words = ("run", "--algorithm", algorithm, *TINY, "--rounds", 2, "--secure", "--set", "secure.malicious=true")
    said = seedbed(*words, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert "A server" not in said.out
    assert "deviates from the protocol as it likes" in said.out


# ---- with a budget ----------------------------------------------------------------------------------------------

PRIVATE = (*FEDAVG, "--secure", "--epsilon", 8, "--set", "privacy.clip=0.5", "--set", "secure.dropout=0.1")


def test_distributed_privacy_says_what_it_protects_and_resumes(tmp_path: Path, stopping: Callable[[int], None]) -> None:
    """ε is that of the ledger's releases, by Rényi's bound; the server is among those it holds against; stopped and
    gone on with, the noise is the same; losses stay withheld, and only the network's own numbers are told."""
    said = seedbed(*PRIVATE, "--out", tmp_path / "whole")
    assert said.code == 0, said.err
    told = re.sub(r"\s+", " ", said.out)
    for words in (
        "the server sees the noisy sum over those whose message arrived",
        "Against: everybody, the server too, who sees noisy sums alone, and who takes part.",
        "sized so that 7 of a round's 10 suffice",
        "at least 7 honest ones must be in every sum",
        "whether or not its contribution was in the sums",
    ):
        assert words in told
        assert words.replace("'", "&#x27;") in (tmp_path / "whole" / "report.html").read_text()
    plan, *lines = [
        json.loads(x.split("\t")[0]) for x in (tmp_path / "whole" / "ledger.jsonl").read_text().splitlines()
    ]
    cost = Skellam(**lines[0]["cost"])
    assert len(lines) == 3
    assert plan["honest"] == 7
    spent = epsilon({cost: 3}, plan["delta"])
    assert 8 * (1 - 1e-3) <= spent <= 8
    assert json_of(tmp_path / "whole")["privacy"]["epsilon"] == spent
    assert {key for line in metrics_of(tmp_path / "whole") for key in line} <= {"stage", "round", "lost", "abandoned"}
    assert not (tmp_path / "whole" / "noise.key").exists()
    stopping(2)
    assert seedbed(*PRIVATE, "--out", tmp_path / "torn").code != 0
    key = (tmp_path / "torn" / "noise.key").read_bytes()
    for folder in ("a", "b"):  # twice from the same place: the same noise both times
        shutil.copytree(tmp_path / "torn", tmp_path / folder)
        assert (tmp_path / folder / "noise.key").read_bytes() == key
    stopping(0)
    assert seedbed("resume", tmp_path / "a").code == 0
    assert seedbed("resume", tmp_path / "b").code == 0
    assert kept(tmp_path / "a") == kept(tmp_path / "b")
    assert kept(tmp_path / "a")["model.safetensors"] != kept(tmp_path / "whole")["model.safetensors"]  # another key


# ---- what cannot be had together ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("--secure", "--reduce", "median"), ["the server only sees sums", "Use secure.groups=5"]),
        (("--secure", "--set", "secure.groups=2"), ["the mean gains nothing", "reduce=median"]),
        (("--secure", "--set", "secure.groups=4", "--reduce", "median"), ["sums over 1", "the least is 3", "cohort"]),
        (("--secure", "--set", "cohort=2"), ["2 clients a round", "the least is 3"]),
        (("--secure", "--set", "schedule.name=gossip"), ["schedule.name=gossip", "drop schedule.name"]),
        (("--secure", "--set", "schedule.name=asynchronous"), ["schedule.name=asynchronous", "drop schedule.name"]),
        (("--secure", "--algorithm", "centralised"), ["pools the data of all clients", "Use fedavg"]),
        (("--secure", "--algorithm", "pfedhn"), ["this algorithm's server needs each message"]),
        (("--secure", "--algorithm", "feddf", "--set", "public=0.2"), ["messages of different structure"]),
        (("--secure", "--attack", "alie"), ["attack=alie", "only their sum is seen"]),
        (("--secure", "--attack", "tailored"), ["attack=tailored", "only their sum is seen"]),
        (("--secure", "--set", "gate.norm=3"), ["gate.norm=3", "only their sum is seen", "means of groups"]),
        (("--secure", "--reduce", "fltrust"), ["compares each message with the server's own"]),
        (("--secure", "--set", "secure.threshold=40"), ["threshold=40 of", "neighbours"]),
        (("--secure", "--set", "secure.threshold=2"), ["with 2 colluding", "an update is exposed with odds of 1 in 1"]),
        (("--secure", "--set", "secure.malicious=true", "--set", "secure.lost=0.4"), ["no threshold", "secure.lost"]),
        (("--secure", "--set", "secure.servers=3"), ["secure.servers", "secure.form=shares"]),
        (("--set", "secure.dropout=0.2"), ["Use --secure"]),
        (("--secure", "--epsilon", "4"), ["privacy.clip=0.5"]),
        (
            ("--secure", "--epsilon", "4", "--set", "privacy.mechanism=gaussian"),
            ["knows it", "Use privacy.mechanism=distributed privacy.clip=0.5"],
        ),
        (
            ("--secure", "--epsilon", "4", "--set", "privacy.mechanism=tree"),
            ["spans rounds", "Use privacy.mechanism=distributed"],
        ),
        (
            ("--secure", "--epsilon", "4", "--set", "privacy.mechanism=local"),
            ["by noise of its own", "privacy.mechanism=distributed"],
        ),
        (("--epsilon", "4", "--set", "privacy.mechanism=distributed", "--set", "privacy.clip=1"), ["Use --secure"]),
        (("--secure", "--epsilon", "4", "--set", "secure.bits=30"), ["follows from privacy.clip"]),
    ],
    ids=lambda x: " ".join(x)[-40:] if isinstance(x, tuple) else "",
)
def test_refused_before_anything_is_written(tmp_path: Path, settings: tuple[str, ...], words: list[str]) -> None:
    algorithm = () if "--algorithm" in settings else ("--algorithm", "fedavg")
    said = seedbed("run", *TINY, *algorithm, *settings, "--out", tmp_path / "run")
    for word in words:
        assert word in said.line
    assert not (tmp_path / "run").exists()
