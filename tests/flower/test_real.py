"""Real Flower on loopback, server and nodes in this process: as in process, with one port open and nothing else."""

import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, StopRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient

from seedbed.deployment.federation.node import Node
from seedbed.deployment.federation.transport import Address, InProcess
from seedbed.deployment.flower import certificates
from seedbed.deployment.flower.join import join_federation
from seedbed.deployment.flower.serve import serve_federation
from seedbed.deployment.server_folder import open_node, open_server
from seedbed.errors import InputError

from .hospitals import NAMES, federation

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening() -> set[int]:
    """The TCP ports that this process listens on."""
    inodes = set()
    for place in Path("/proc/self/fd").iterdir():
        try:
            inodes.add(os.readlink(place))
        except OSError:
            continue
    rows = [row.split() for t in ("tcp", "tcp6") for row in Path(f"/proc/net/{t}").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def refusal(call: Callable[[], object]) -> int:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        call()
    return refused.value.response.status_code


def test_a_federation_over_flower_is_as_in_process_and_opens_one_port(tmp_path: Path) -> None:
    """A stranger gets 403 from every call of Flower's control and runtime API, while the rounds go on; nothing that
    the server ships is fetched; no process is started, so that no token stands on a command line."""
    port = free_port()
    directory, files, _ = federation(tmp_path, port=port, federation={"deadline": 30, "patience": 1})
    shutil.copytree(directory, tmp_path / "copy")
    copy = tmp_path / "copy" / "nodes"
    nodes: dict[Address, Node] = {i: open_node(copy / name, files[name]) for i, name in enumerate(NAMES)}
    twin = open_server(tmp_path / "copy", InProcess(nodes))
    list(twin.rounds())
    twin.close()

    before, opened, lines = listening(), set[int](), list[str]()
    started, refused = children(), list[int]()
    problems: list[BaseException] = []

    def member(name: str) -> None:
        try:
            join_federation(directory / "nodes" / name, files[name], said=lambda _: None)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=member, args=(name,), daemon=True) for name in NAMES]

    def look(line: str) -> None:
        lines.append(line)
        if line.startswith("the port is open"):
            for thread in threads:
                thread.start()
        if line.startswith("round 2: waiting") and not refused:
            opened.update(listening() - before)
            started.update(children() - started)
            refused.extend(strangers(directory, port))

    try:
        serve_federation(directory, listen="127.0.0.1", port=port, said=look)
    finally:
        assert not problems
    for thread in threads:
        thread.join()
    assert opened == {port}
    assert not started - children()
    assert refused == [403] * 4
    results = [(tmp_path / place / "server" / "run" / "model.safetensors").read_bytes() for place in ("fed", "copy")]
    assert results[0] == results[1]
    log = (directory / "server" / "flower" / "superlink.log").read_text()
    assert "Fleet.ActivateNode" in log
    assert "Fleet.GetFab" not in log
    assert "Fleet.GetRun" not in log


def strangers(directory: Path, port: int) -> list[int]:
    """What strangers are answered."""
    where = f"localhost:{port}", False, (directory / "server" / certificates.CA).read_bytes()
    with ControlHttpClient.from_server_address(*where, []) as control:
        answers = [
            refusal(lambda: control.ListRuns(ListRunsRequest())),
            refusal(lambda: control.ListNodes(ListNodesRequest())),
            refusal(lambda: control.StopRun(StopRunRequest(run_id=1))),
        ]
    with RuntimeHttpClient.from_server_address(*where, []) as runtime:
        return [*answers, refusal(lambda: runtime.AcquireTask(AcquireTaskRequest()))]


def test_a_second_server_on_a_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    directory, _, _ = federation(tmp_path)
    held = open_server(directory, InProcess({}))
    try:
        before = {p: p.read_bytes() for p in (directory / "server" / "run").iterdir() if p.is_file()}
        with pytest.raises(InputError, match="held by another server"):
            serve_federation(directory, listen="127.0.0.1", port=free_port(), said=lambda _: None)
        assert before == {p: p.read_bytes() for p in (directory / "server" / "run").iterdir() if p.is_file()}
    finally:
        held.close()


def test_an_address_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seedbed.deployment.flower.serve.LEFT", 0.0)
    directory, _, _ = federation(tmp_path)
    other = socket.create_server(("127.0.0.1", 0))
    with other, pytest.raises(InputError, match=r"Address already in use.*another --port"):
        serve_federation(directory, listen="127.0.0.1", port=other.getsockname()[1], said=lambda _: None)
    with pytest.raises(InputError, match="cannot listen on"):
        serve_federation(directory, listen="203.0.113.1", port=free_port(), said=lambda _: None)


@pytest.mark.slow
def test_a_key_that_is_not_registered_is_not_let_in_and_one_of_another_authority_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seedbed.deployment.flower.join.RETRY_DELAY", 0.05)
    monkeypatch.setattr("seedbed.deployment.flower.join.KNOCKS", 3)
    port = free_port()
    directory, files, _ = federation(tmp_path, port=port, rounds=1, federation={"deadline": 30, "patience": 2})
    (tmp_path / "away").mkdir()
    away = tmp_path / "away" / "chur.pub"
    public = directory / "server" / "public" / "chur.pub"
    lines: list[str] = []
    threads = [
        threading.Thread(
            target=join_federation,
            args=(directory / "nodes" / name, files[name]),
            kwargs={"said": lambda _: None},
            daemon=True,
        )
        for name in NAMES
    ]

    def look(line: str) -> None:
        lines.append(line)
        if line.startswith("the port is open"):
            public.rename(away)
            with pytest.raises(InputError, match="does not admit this node: its key is not registered"):
                join_federation(directory / "nodes" / "chur", files["chur"], said=lines.append)
            certificates.make_authority(tmp_path / "away", "another")
            own = directory / "nodes" / "chur" / certificates.CA
            text = own.read_bytes()
            shutil.copyfile(tmp_path / "away" / certificates.CA, own)
            with pytest.raises(InputError, match="is not the one that this node trusts"):
                join_federation(directory / "nodes" / "chur", files["chur"], said=lines.append)
            own.write_bytes(text)
            away.rename(public)  # and the key that was put back is let in
            for thread in threads:
                thread.start()

    serve_federation(directory, listen="127.0.0.1", port=port, said=look)
    for thread in threads:
        thread.join()
    assert any("unknown key" in line for line in lines)
    assert any("this key is not registered with this federation" in line for line in lines)
