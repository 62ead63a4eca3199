"""From a settings file to folders of peers, and what is refused before anything is written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seedbed.cli.commands import app
from seedbed.deployment.peers_folder import (
    choose_peer,
    init_peers,
    join_peers,
    metrics_of,
    peer_contents,
    peer_log_line,
)
from seedbed.errors import InputError

from .ports import free_ports


@pytest.fixture
def sample(tmp_path: Path) -> str:
    rows = [f"{i},{i % 7},{'ill' if i % 3 else 'well'}" for i in range(40)]
    path = tmp_path / "sample.csv"
    path.write_text("\n".join(["age,dose,outcome", *rows]) + "\n")
    return str(path)


def given(**schedule: Any) -> dict[str, Any]:
    return {"rounds": 3, "reader": {"target": "outcome"}, "schedule": schedule}


def test_init_makes_a_folder_for_each_peer(sample: str, tmp_path: Path) -> None:
    """With a secret of its own, that only its owner may read; settings and addresses are the same for all."""
    words = ["peers", "init", str(tmp_path / "heart"), "--peers", "a=10.0.0.1:7100,b=10.0.0.2:7100",
             "--peers", "c=10.0.0.3:7100", "--like", sample, "--rounds", "3", "--topology", "complete",
             "--set", "reader.target=outcome"]  # fmt: skip
    said = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "heart/peers/b" in said.output.replace("\n", "")
    folders = choose_peer(tmp_path / "heart", {})
    assert [folder.name for folder in folders] == ["a", "b", "c"]
    assert len({(folder / "secret.key").read_bytes() for folder in folders}) == 3
    for name in ("agreement.json", "circle.json"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1
    agreed = json.loads((folders[0] / "agreement.json").read_text())["settings"]
    assert (agreed["algorithm"], agreed["schedule"]["order"]) == ("dpsgd", "combine_then_adapt")
    assert agreed["schedule"]["topology"] == "complete"
    assert all((folder / "secret.key").stat().st_mode & 0o077 == 0 for folder in folders)
    with pytest.raises(InputError, match="has no model yet"):
        peer_contents(folders[0])


def test_under_torchrun_each_process_is_the_peer_of_its_rank(sample: str, tmp_path: Path) -> None:
    init_peers(tmp_path / "heart", ["z", "a"], sample, given())
    assert [p.name for p in choose_peer(tmp_path / "heart", {"RANK": "1", "WORLD_SIZE": "2"})] == ["a"]
    with pytest.raises(InputError, match="torchrun started 3 processes for 2 peers"):
        choose_peer(tmp_path / "heart", {"RANK": "1", "WORLD_SIZE": "3"})


@pytest.mark.slow
def test_torchrun_starts_them(sample: str, tmp_path: Path) -> None:
    """Each rank is its peer; all come to the end, and agree on what they have done."""
    peers = [f"{name}=127.0.0.1:{port}" for name, port in zip("abc", free_ports(3), strict=True)]
    init_peers(tmp_path / "heart", peers, sample, given())
    for name in "abc":
        shutil.copyfile(sample, tmp_path / f"{name}.csv")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "-m", "seedbed"]
    words += ["peers", "run", str(tmp_path / "heart"), "--data", str(tmp_path / "{peer}.csv")]
    said = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("all rounds are done") == 3
    for folder in choose_peer(tmp_path / "heart", {}):
        assert [line["peers"] for line in metrics_of(folder)] == [["a", "b", "c"]] * 3


@pytest.mark.parametrize(
    ("peers", "settings", "words"),
    [
        (["a", "b=10.0.0.1:7100"], given(), "a has no address, but others have"),
        (["a=x:1", "b=x:1"], given(), "the same address"),
        (["a=x", "b=y"], given(), "is not the address"),
        (["a", "a"], given(), "is listed twice"),
        (["a", "b"], given(link_failure=0.1), r"schedule\.link_failure=0.1 does not work with a real federation"),
        (["a", "b"], given(topology="directed_ring"), "links of one direction"),
        (["a", "b"], given() | {"algorithm": "fedasync"}, "fedasync does not work with peers"),
    ],
)
def test_what_cannot_be_followed(
    peers: list[str], settings: dict[str, Any], words: str, sample: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        init_peers(tmp_path / "heart", peers, sample, settings)
    assert [path.name for path in tmp_path.iterdir()] == ["sample.csv"]


def test_folders_that_are_none(sample: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a peer's folder"):
        join_peers(tmp_path, Path(sample), said=str)
    with pytest.raises(InputError, match="has no peers"):
        choose_peer(tmp_path)
    with pytest.raises(InputError, match="is not empty"):
        init_peers(tmp_path, ["a", "b"], sample, given())


def test_what_people_are_told() -> None:
    told = [
        peer_log_line({"event": "waiting", "round": 4, "peers": ["b", "c"]}),
        peer_log_line({"event": "silent", "round": 4, "peer": "b", "seconds": 60.0}),
        peer_log_line({"event": "closed", "round": 5, "peers": ["c"], "info": {"loss": 0.25}}),
        peer_log_line({"event": "message refused", "why": "the MAC is wrong"}),
    ]
    assert told == [
        "round 5: waiting for b, c",
        "round 5: b was silent for 60 s: continuing without it",
        "round 5: with c (loss 0.25)",
        "message refused: the MAC is wrong",
    ]
