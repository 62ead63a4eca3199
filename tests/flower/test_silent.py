"""What would keep a member out in silence is named on both sides within seconds: a real server on real sockets."""

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flwr.supercore.date import now

from seedbed.deployment.flower import certificates, join
from seedbed.deployment.flower.init import init_federation
from seedbed.deployment.flower.join import join_federation
from seedbed.deployment.flower.serve import open_port
from seedbed.deployment.flower.superlink import SuperLink
from seedbed.deployment.server_folder import FederationFolder
from seedbed.errors import InputError

from .hospitals import GIVEN, NAMES, federation, tables
from .test_real import free_port

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own


class Enough(Exception):
    """The line came that a test waits for."""


@contextmanager
def serving(directory: Path, port: int, listen: str = "127.0.0.1") -> Iterator[list[str]]:
    """The server's port; its lines for people."""
    remarks: list[str] = []
    link = SuperLink(directory / "server" / "public", 1 << 20, directory / "log", remarks.append)
    with open_port(link, directory / "server", listen, port):
        yield remarks


def lines_until(words: str, folder: Path, data: Path) -> list[str]:
    """Join until a line with these words is said; all lines."""
    lines: list[str] = []

    def said(line: str) -> None:
        lines.append(line)
        if words in line:
            raise Enough

    with pytest.raises(Enough):
        join_federation(folder, data, said=said)
    return lines


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that is let in ends at its first look for a message; one that is not asks again soon."""

    def let_in(*_: object) -> bool:
        raise Enough

    monkeypatch.setattr(join, "_is_over", let_in)
    monkeypatch.setattr(join, "RETRY_DELAY", 0.05)


@pytest.mark.parametrize(("ahead", "words"), [(10, "10 s ahead of"), (-320, "320 s behind")])
def test_a_clock_that_is_off(ahead: float, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    directory, files, _ = federation(tmp_path, port=port)

    def late() -> datetime:
        return now() + timedelta(seconds=ahead)

    monkeypatch.setattr("flwr.supernode.node_auth_http_interceptor.now", late)
    with serving(directory, port) as remarks:
        lines = lines_until("correct it", directory / "nodes" / "bern", files["bern"])
    assert f"the clock of this machine is {words} the server's: correct it" in lines[-1]
    assert any(line.startswith(f"bern is refused: its clock is {words}") for line in remarks)


def test_a_member_that_joins_before_it_is_registered_is_let_in_once_it_is(tmp_path: Path) -> None:
    port = free_port()
    directory, files, _ = federation(tmp_path, port=port)
    public, lines = directory / "server" / "public" / "chur.pub", list[str]()
    key = public.read_bytes()
    public.unlink()

    def said(line: str) -> None:
        lines.append(line)
        if "not registered" in line:
            public.write_bytes(key)

    with serving(directory, port) as remarks, pytest.raises(Enough):
        join_federation(directory / "nodes" / "chur", files["chur"], said=said)
    assert "this key is not registered with this federation" in lines[-1]
    assert any("unknown key tried to connect" in line for line in remarks)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "connection was cut"),
        (b"", "connection was cut"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "status 502: the answer is not from"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", "the answer is not from a federation's server"),
    ],
)
def test_a_proxy_that_resets_or_answers_itself(answer: bytes | None, words: str, tmp_path: Path) -> None:
    """None: it resets before the handshake; otherwise it ends TLS with the server's own certificate."""
    directory, files, _ = federation(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server" / certificates.CERTIFICATE, directory / "server" / certificates.KEY)

    def handle(peer: socket.socket) -> None:
        if answer is not None:
            peer = context.wrap_socket(peer, server_side=True)
            peer.recv(1 << 16)
            peer.sendall(answer)
        else:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()

    with proxy(handle) as port:
        node = directory / "nodes" / "basel"
        FederationFolder("basel", f"localhost:{port}").write(node)
        assert "trying again" in lines_until(words, node, files["basel"])[-1]


@contextmanager
def proxy(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections are handled so."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer, suppress(OSError):
                    handle(peer)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_server_on_an_ipv6_address(tmp_path: Path) -> None:
    files, port = tables(tmp_path), free_port()
    directory = tmp_path / "fed"
    init_federation(directory, NAMES, str(files["bern"]), GIVEN, host="::1", port=port)
    with serving(directory, port, "::1"):
        assert lines_until("nothing", directory / "nodes" / "bern", files["bern"])[-1].endswith(f"[::1]:{port}")


def test_an_address_that_the_certificate_does_not_have(tmp_path: Path) -> None:
    port = free_port()
    directory, files, _ = federation(tmp_path, port=port)
    node = directory / "nodes" / "bern"
    FederationFolder("bern", f"127.0.0.2:{port}").write(node)
    with serving(directory, port, "127.0.0.2"), pytest.raises(InputError) as refused:
        join_federation(node, files["bern"], said=print)
    assert f"certificate is not valid for the address 127.0.0.2:{port}" in str(refused.value)
    assert json.loads((node / "node.json").read_text())["server"] == f"127.0.0.2:{port}"
    FederationFolder("bern", f"127.0.0.1:{port}").write(node)
    with serving(directory, port, "127.0.0.2"):
        assert "refused" in lines_until("trying again", node, files["bern"])[-1]  # it listens on another address
