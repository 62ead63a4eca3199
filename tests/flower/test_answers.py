"""Answers over real Flower, on a real socket: those of nodes that left count, and no answer stops the others."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest

from seedbed.deployment.flower import flower_transport, superlink
from seedbed.deployment.flower.certificates import CA, NODE_KEY
from seedbed.deployment.flower.fleet import Fleet
from seedbed.deployment.flower.flower_transport import FlowerTransport
from seedbed.deployment.flower.serve import open_port
from seedbed.deployment.flower.superlink import SuperLink

from .hospitals import federation
from .test_real import free_port

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own


class Half:
    """A node half that greets with its name."""

    def __init__(self, name: str):
        self.name, self.greeted = name, False

    def hello(self) -> list[bytes]:
        self.greeted = True
        return [self.name.encode()]

    def answer(self, frame: bytes) -> list[bytes]:
        return [b"answer to " + frame]


class Site:
    """A server's port, its server half's transport, and nodes."""

    def __init__(self, directory: Path, port: int, link: SuperLink):
        self.directory, self.port, self.link = directory, port, link
        self.transport = FlowerTransport(link.grid)

    def node(self, name: str) -> tuple[Half, Fleet]:
        folder, half = self.directory / "nodes" / name, Half(name)
        return half, Fleet(f"localhost:{self.port}", folder / CA, folder / NODE_KEY, half)  # type: ignore[arg-type]

    def hears(self, seconds: float) -> list[bytes]:
        """All frames that come within this time."""
        end, frames = time.monotonic() + seconds, list[bytes]()
        while (left := end - time.monotonic()) > 0:
            if (arrived := self.transport.receive(left)) is not None:
                frames.append(arrived[1])
        return frames

    def greets(self) -> None:
        """Ask the nodes that are there to say hello."""
        self.transport._last_poll = float("-inf")
        self.transport._greet()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port = free_port()
    directory, _, _ = federation(tmp_path, port=port)
    link = SuperLink(directory / "server" / "public", 1 << 20, tmp_path / "log", print)
    with open_port(link, directory / "server", "127.0.0.1", port):
        yield Site(directory, port, link)


def test_the_answer_of_a_node_that_leaves_at_once_counts(site: Site) -> None:
    """Flower drops it: it looks whether a node is there before it looks for the node's answer."""
    half, fleet = site.node("basel")
    with fleet:
        site.greets()
        fleet.run(lambda: half.greeted)
    assert site.hears(1.0) == [b"basel"]


def test_an_answer_that_is_only_announced_holds_up_nobody(site: Site) -> None:
    """Flower waits for the rest of it for three minutes, and reads nothing else meanwhile."""
    half, fleet = site.node("bern")
    _, liar = site.node("basel")
    with liar, fleet:
        site.greets()
        push(liar, b"Message  1\0x", announce_only=True)
        fleet.run(lambda: half.greeted)
        begun = time.monotonic()
        assert site.hears(1.0) == [b"bern"]
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "content",
    [
        b"ConfigRecord  2\0{}",  # no message
        b"Message  1\0x",
        b"RecordDict  0\0",
    ],
)
def test_an_answer_that_is_none_ends_nothing(content: bytes, site: Site) -> None:
    """Each of these raises in Flower's decoder."""
    half, fleet = site.node("bern")
    _, liar = site.node("basel")
    with liar, fleet:
        site.greets()
        push(liar, content)
        assert site.hears(0.5) == []
        fleet.run(lambda: half.greeted)
        assert b"bern" in site.hears(1.0)


def test_a_few_objects_that_are_a_tree_without_end_are_refused() -> None:
    """Forty objects, each twice the child of the next: 2**40 when they are written out."""
    store = {"0": SimpleNamespace(child_object_ids=[], is_available=True)}
    for i in range(1, 40):
        store[str(i)] = SimpleNamespace(child_object_ids=[str(i - 1)] * 2, is_available=True)
    assert superlink._count_parts(store, "39")[0] == superlink.MOST_PARTS + 1
    assert superlink._count_parts(store, "1") == (3, True)
    store["0"].is_available = False
    assert superlink._count_parts(store, "1") == (3, False)
    assert superlink._count_parts(store, "missing") == (1, False)


def test_a_letter_without_an_answer_is_sent_again_after_a_while(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node has fetched and lost it, say: until then the same letter is not sent twice."""
    _, fleet = site.node("basel")
    with fleet:
        site.greets()
        [node] = site.link.grid.get_node_ids()
        clock = [100.0]
        monkeypatch.setattr(site.transport, "now", lambda: clock[0])
        counts = []
        for now in (100.0, 110.0, 100.0 + flower_transport.RESEND_DELAY + 1):
            clock[0] = now
            site.transport.send(node, [b"work"])
            counts.append(len(site.link._state.message_ins_store))
    assert counts == [2, 2, 3]  # one is the request to say hello


def push(fleet: Fleet, content: bytes, *, announce_only: bool = False) -> None:
    """Answer the next message by an object of these bytes."""
    client: Any = fleet._client
    [asked] = client.PullMessages(PullMessagesRequest(node=fleet._node)).messages_list
    number = hashlib.sha256(content).hexdigest()
    head = type(asked)()
    head.CopyFrom(asked)
    about = head.metadata
    about.message_id, about.reply_to_message_id = number, asked.metadata.message_id
    about.src_node_id, about.dst_node_id = asked.metadata.dst_node_id, asked.metadata.src_node_id
    about.created_at, about.ttl = time.time(), asked.metadata.ttl - 10
    tree = ObjectTree(object_id=number)
    request = PushMessagesRequest(node=fleet._node, messages_list=[head], message_object_trees=[tree])
    wanted = client.PushMessages(request)
    assert list(wanted.objects_to_push) == [number]
    if not announce_only:
        sent = {"object_id": number, "object_content": content, "session_id": wanted.session_id}
        assert client.PushObject(PushObjectRequest(node=fleet._node, run_id=about.run_id, **sent)).stored
