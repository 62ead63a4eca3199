"""Members that come, go, and come back while the server runs: keys, cohorts, and what the journal says."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seedbed.cli.commands import app
from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.transport import InProcess
from seedbed.deployment.flower.init import add_member, remove_member, renew_member
from seedbed.deployment.member_roster import MemberRoster
from seedbed.deployment.server_folder import FederationFolder, open_node, open_server
from seedbed.deployment.status import FederationStatus
from seedbed.errors import InputError

from .hospitals import NAMES, federation


def opened(directory: Path, files: dict[str, Path]) -> dict[int, Node]:
    return {i: open_node(directory / "nodes" / name, files[name]) for i, name in enumerate(NAMES)}


def test_members_come_and_go_while_the_server_runs(tmp_path: Path) -> None:
    """Round 1 with three; then a fourth; then without the first, whose node is not heard any more."""
    directory, files, _ = federation(tmp_path, rounds=4)
    transport = InProcess(opened(directory, files))
    server = open_server(directory, transport)
    rounds = server.rounds()
    cohorts = [list(next(rounds).clients)]
    folder = add_member(directory, "zug")
    transport.nodes[3] = open_node(folder, files["bern"])
    cohorts.append(list(next(rounds).clients))
    remove_member(directory, "basel")
    cohorts.append(list(next(rounds).clients))
    server.close()
    again = open_server(directory, InProcess(transport.nodes))  # a restart knows them too
    cohorts.append(list(next(iter(again.rounds())).clients))
    again.close()
    assert cohorts == [[0, 1, 2], [0, 1, 2, 3], [1, 2, 3], [1, 2, 3]]
    said = [json.loads(line) for line in (directory / "server" / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["clients"] for e in said if e["event"] == "MEMBERS"] == [[0, 1, 2, 3], [1, 2, 3]]
    assert {m.name: m.state for m in FederationStatus.of(directory).members}["basel"] == "removed"


def test_a_removed_member_is_not_waited_for(tmp_path: Path) -> None:
    """It leaves in the middle of a round, dead: the round closes long before its deadline."""
    directory, files, _ = federation(tmp_path, rounds=1, federation={"quorum": 2, "deadline": 1e6, "again": 10})
    nodes = opened(directory, files)
    del nodes[0]
    transport = InProcess(nodes)
    send, calls = transport.send, []

    def leaving(address: object, frames: list[bytes], *, urgent: bool = True) -> None:
        if not calls and urgent:
            calls.append(remove_member(directory, "basel"))
        send(address, frames, urgent=urgent)

    transport.send = leaving  # type: ignore[method-assign, assignment]
    server = open_server(directory, transport)
    assert [list(r.clients) for r in server.rounds()] == [[1, 2]]
    server.close()
    assert transport.now() < 100


def test_a_member_that_lost_its_folder_comes_back_with_new_keys(tmp_path: Path) -> None:
    """The old key is refused from then on, and the new node is the same client."""
    directory, files, _ = federation(tmp_path, rounds=3, algorithm="scaffold")
    transport = InProcess(opened(directory, files))
    server = open_server(directory, transport)
    rounds = server.rounds()
    next(rounds)
    lost = shutil.move(directory / "nodes" / "bern", tmp_path / "lost")
    transport.nodes[1] = open_node(renew_member(directory, "bern"), files["bern"])
    transport._greeted.discard(1)  # a new process says hello
    assert list(next(rounds).clients) == [0, 1, 2]
    transport.nodes[1] = open_node(Path(lost), files["bern"])
    transport._greeted.discard(1)
    assert list(next(rounds).clients) == [0, 2]
    server.close()
    assert "MAC of a frame" in (Path(lost) / "run" / "log.jsonl").read_text()


def test_a_removed_member_that_is_added_again_has_its_number(tmp_path: Path) -> None:
    directory, files, _ = federation(tmp_path)
    remove_member(directory, "bern")
    assert not (directory / "server" / "public" / "bern.pub").exists()
    shutil.rmtree(directory / "nodes" / "bern")
    folder = add_member(directory, "bern")
    assert FederationFolder.read(folder).number is None  # its place in the agreement
    assert open_node(folder, files["bern"]).client == 1
    assert (directory / "server" / "public" / "bern.pub").exists()


def test_what_cannot_be(tmp_path: Path) -> None:
    directory, _, _ = federation(tmp_path)
    for call, name, why in (
        (add_member, "bern", "is a member already"),
        (add_member, "../x", "is not a valid member name"),
        (remove_member, "zug", "'zug' is not a member"),
        (renew_member, "zug", "'zug' is not a member"),
    ):
        with pytest.raises(InputError, match=why):
            call(directory, name)
    remove_member(directory, "bern")
    with pytest.raises(InputError, match="at least two members"):
        remove_member(directory, "basel")
    (directory / "nodes" / "chur" / "run").mkdir()
    with pytest.raises(InputError, match="move the folder away"):
        renew_member(directory, "chur")
    for more in ("../../zug", "basel", "", 5, ["zug"]):  # names of files, each once
        table = json.dumps({"names": [*NAMES, more], "removed": []})
        for text in ("{}", "[" * 100_000, table):
            (directory / "server" / "roster.json").write_text(text)
            with pytest.raises(InputError, match=r"roster\.json is damaged"):
                MemberRoster.read(directory / "server", NAMES)


def test_the_commands(tmp_path: Path) -> None:
    directory, _, _ = federation(tmp_path)
    for words in (["add", "zug"], ["remove", "basel"], ["renew-key", "zug"]):
        done = CliRunner().invoke(app, ["federation", "member", words[0], str(directory), *words[1:]])
        assert done.exit_code == 0, done.output
    assert MemberRoster.read(directory / "server", NAMES).present == {1: "bern", 2: "chur", 3: "zug"}
    assert (directory / "nodes" / "zug").stat().st_mode & 0o777 == 0o700
