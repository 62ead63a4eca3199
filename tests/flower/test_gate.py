"""The gate on a real socket: what is refused is refused before its body is read, and slow strangers shut nobody out."""

import asyncio
import gc
import json
import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from seedbed.deployment.flower import certificates, listener
from seedbed.deployment.flower.gate import ANNOUNCE, LIMITS, PUSH, Gate, Receive, Scope, Send
from seedbed.deployment.flower.key_roster import BURST, KeyRoster
from seedbed.deployment.flower.listener import Listener
from seedbed.errors import InputError

LETTER = 1 << 20
PULL = "/v1/fleet/pull-messages"


class Site:
    """A gate in front of an application that says how many bytes it was given."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.registered: list[bytes] = []
        self.remarks: list[str] = []
        self.answered = 0
        self.roster = KeyRoster(folder, self.registered.append)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        gate = Gate(self._app, self.roster, LETTER, self.remarks.append)
        self._task = self._loop.create_task(Listener(gate, None).run(self._listening))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        self.answered += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": len(body).to_bytes(4, "little")})

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            self._loop.run_until_complete(asyncio.sleep(0))
        finally:
            self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._listening.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def member(folder: Path, name: str) -> ec.EllipticCurvePrivateKey:
    """A registered node's private key."""
    own = folder / f"of-{name}"
    own.mkdir()
    (folder / f"{name}.pub").write_bytes(certificates.make_node_key(own))
    key = serialization.load_ssh_private_key((own / certificates.NODE_KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def signed(key: ec.EllipticCurvePrivateKey, *, ahead: float = 0.0) -> list[str]:
    """The heads by which Flower's nodes say who they are."""
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    stamp = (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat()
    signature = b64encode(key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))).decode()
    public = b64encode(key.public_key().public_bytes(*form)).decode()
    return [f"flwr-public-key: {public}", f"flwr-timestamp: {stamp}", f"flwr-signature: {signature}"]


def head(target: str, heads: list[str], method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "host: x", *heads, "", ""]).encode()


def ask(site: Site, target: str, heads: list[str], body: bytes = b"", method: str = "POST") -> tuple[int, bytes]:
    """A request's status, and the answer's body. Its own body is sent once the server wants it."""
    with socket.create_connection(("127.0.0.1", site.port), 10) as peer:
        peer.sendall(head(target, ["connection: close", "expect: 100-continue", *heads], method))
        whole = b""
        while piece := peer.recv(1 << 16):
            whole += piece
            if whole.startswith(b"HTTP/1.1 100"):
                whole = whole.partition(b"\r\n\r\n")[2]
                peer.sendall(body)
    first, _, rest = whole.partition(b"\r\n\r\n")
    return int(first.split()[1]), rest


def again(peer: socket.socket, key: ec.EllipticCurvePrivateKey) -> None:
    """A request by a connection that stays."""
    peer.sendall(head(PULL, [*signed(key), *sized(0)]))
    whole = b""
    while not whole.endswith(b"\r\n\r\n" + bytes(4)):
        whole += peer.recv(1 << 16)


def sized(size: int) -> list[str]:
    return [f"content-length: {size}"]


def test_ten_calls_are_let_through_and_no_other(site: Site) -> None:
    key = member(site.folder, "basel")
    assert len(LIMITS) == 10
    assert all(path.startswith("/v1/fleet/") and "register" not in path for path in LIMITS)
    for path in LIMITS:
        assert ask(site, path, [*signed(key), *sized(3)], b"abc") == (200, (3).to_bytes(4, "little"))
    closed = [
        *("/v1/fleet/unregister-node", "/v1/fleet/register-node", "/v1/control/list-runs", "/v1/control/stop-run"),
        *("/v1/runtime/acquire-task", "/v1/runtime/push-task-output", "/health", "/docs", "/openapi.json", "/"),
        *(f"{PULL}/", f"{PULL}?x=1", f"/{PULL}", "/v1/fleet/../fleet/pull-messages", "/v1/fleet/%70ull-messages"),
        *("/v1/fleet/pull-messages/../../control/stop-run", f"http://x{PULL}", "/V1/FLEET/PULL-MESSAGES"),
    ]
    assert {ask(site, path, [*signed(key), *sized(0)])[0] for path in closed} == {403}
    assert {ask(site, PULL, signed(key), method=m)[0] for m in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE")} == {403}
    assert site.answered == 10


def test_a_node_is_known_by_its_key_and_its_signature(site: Site) -> None:
    key, other = member(site.folder, "basel"), ec.generate_private_key(ec.SECP384R1())
    mine, theirs = signed(key), signed(other)
    for heads, status, why in (
        ([], 401, "not registered"),
        (theirs, 401, "not registered"),
        ([mine[0], *theirs[1:]], 401, "signature is wrong"),
        ([mine[0], mine[1], "flwr-signature: ???"], 401, "malformed"),
        ([mine[0], "flwr-timestamp: never", mine[2]], 401, "malformed"),
        (signed(key, ahead=10), 401, "clock of this machine is 10 s ahead of"),
        (signed(key, ahead=-400), 401, "clock of this machine is 400 s behind"),
        ([*mine, mine[0]], 400, "twice"),
        (mine, 200, ""),
    ):
        got, answer = ask(site, PULL, [*heads, *sized(0)])
        assert (got, why in answer.decode("latin-1")) == (status, True), (heads, answer)
    assert any("basel is refused: its clock is 10 s ahead of" in line for line in site.remarks)
    assert sum("unknown key" in line for line in site.remarks) == 1  # once a minute
    code = json.loads(ask(site, PULL, [*theirs, *sized(0)])[1])["code"]
    assert code == 2004  # what Flower's nodes print, and `seedbed join` looks for


def test_a_body_is_bounded_and_its_length_said(site: Site) -> None:
    key = member(site.folder, "basel")
    small = LIMITS[PULL]
    for path, heads, body, status in (
        (PULL, sized(small), b"x" * small, 200),
        (PULL, sized(small + 1), b"", 413),
        (PULL, sized(10**15), b"", 413),
        (PULL, sized(10**30), b"", 400),
        (PULL, ["content-length: -1"], b"", 400),
        (PULL, ["transfer-encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n", 411),
        (PULL, [*sized(5), "transfer-encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n", 411),
        (PULL, [*sized(5), "content-encoding: gzip"], b"hello", 411),
        (PULL, [], b"", 411),
        (ANNOUNCE, sized(LIMITS[ANNOUNCE] + 1), b"", 413),
        (PUSH, sized(LIMITS[PUSH] + LETTER), b"x" * (LIMITS[PUSH] + LETTER), 200),
        (PUSH, sized(LIMITS[PUSH] + LETTER + 1), b"", 413),
    ):
        assert ask(site, path, [*signed(key), *heads], body)[0] == status, (path, heads)


def test_a_key_stores_two_letters_for_each_answer_that_is_taken(site: Site) -> None:
    key, size = member(site.folder, "basel"), LETTER

    def push() -> int:
        return ask(site, PUSH, [*signed(key), *sized(size)], bytes(size))[0]

    assert [push() for _ in range(4)] == [200, 200, 429, 429]
    site.roster.find_key(site.registered[0]).settle()  # type: ignore[union-attr]
    assert push() == 200


def test_400_megabytes_without_a_key_are_not_read(site: Site) -> None:
    """Nor kept: what this process holds grows by less than 5 MB."""
    member(site.folder, "basel")
    size, piece = 400 << 20, bytes(1 << 20)
    ask(site, PUSH, sized(1))
    before, sent = _resident(), 0
    with socket.create_connection(("127.0.0.1", site.port), 10) as peer:
        peer.sendall(f"POST {PUSH} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode())
        try:
            while sent < size:
                sent += peer.send(piece)
        except OSError:
            pass
    assert sent < size
    assert _resident() - before < 5 << 20
    assert site.answered == 0


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_300_slow_connections_are_ended_and_shut_nobody_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD", 1.0)
    key = member(site.folder, "basel")
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", site.port), 10)) for _ in range(300)]
        for peer in slow:
            peer.send(b"POST ")
        assert ask(site, PULL, [*signed(key), *sized(0)])[0] == 200
        for peer in slow:
            peer.settimeout(10)
            assert _ended(peer)
    assert ask(site, PULL, [*signed(key), *sized(0)])[0] == 200


def _ended(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except ConnectionError:
        return True


def test_nothing_is_kept_of_a_connection_that_has_ended(site: Site) -> None:
    """With TLS each has a buffer of 256 kB: a circle of references would keep thousands until they are collected."""
    key = member(site.folder, "basel")
    gc.collect()
    before = _alive(listener.Protocol)  # those that other tests of this process hold
    gc.disable()
    try:
        for heads in ([], signed(key), [*signed(key), "transfer-encoding: chunked"]):
            ask(site, PULL, [*heads, *sized(0)])
        socket.create_connection(("127.0.0.1", site.port), 10).close()
        end = time.monotonic() + 10
        while (held := [one for one in _alive(listener.Protocol) if one not in before]) and time.monotonic() < end:
            del held[:]
            time.sleep(0.05)
        assert not held
    finally:
        gc.enable()


def _alive(kind: type) -> list[object]:
    return [thing for thing in gc.get_objects() if type(thing) is kind]


def test_one_key_holds_sixteen_connections(site: Site) -> None:
    key = member(site.folder, "basel")
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", site.port), 10)) for _ in range(20)]
        for peer in held:
            again(peer, key)
        assert [_ended(peer) for peer in held[:4]] == [True] * 4
        again(held[4], key)


def test_a_key_that_calls_without_pause_is_slowed_down_and_others_are_not(site: Site) -> None:
    flood, honest = member(site.folder, "basel"), member(site.folder, "bern")
    caller = site.roster.find(signed(flood)[0].removeprefix("flwr-public-key: ").encode())
    assert caller is not None

    async def turns(number: int) -> float:
        begun = asyncio.get_running_loop().time()
        for _ in range(number):
            async with caller.turn(1):
                pass
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(turns(BURST)) < 1
    assert asyncio.run(turns(20)) > 0.3  # 40 a second from then on
    begun = time.monotonic()
    assert ask(site, PULL, [*signed(honest), *sized(0)])[0] == 200
    assert time.monotonic() - begun < 5


def test_a_key_that_leaves_the_folder_is_shut_out_at_once_and_let_in_when_it_is_back(site: Site) -> None:
    key = member(site.folder, "basel")
    public = site.folder / "basel.pub"

    def status() -> int:
        return ask(site, PULL, [*signed(key), *sized(0)])[0]

    text = public.read_bytes()
    for _ in range(3):
        assert status() == 200
        public.unlink()
        assert status() == 401
        public.write_bytes(text)
    other = member(site.folder, "bern")
    assert ask(site, PULL, [*signed(other), *sized(0)])[0] == 200
    assert len(set(site.registered)) == 2


def test_a_file_that_holds_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "basel.pub").write_text("ssh-rsa nothing")
    with pytest.raises(InputError, match=r"basel\.pub is not an elliptic-curve public key"):
        KeyRoster(tmp_path, lambda _: None)
