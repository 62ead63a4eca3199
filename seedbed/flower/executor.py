"""All that Flower may run on a node, in place of its own `flwr-clientapp`: whatever the server ships, it is not run.

For every message Flower starts a process, unpacks into it the code that the server sent along, and runs that. Here
the process is this file instead, which ignores the code: it hands the message's frames to the node half over a socket
in the file system, and the answers back. So a node does what its own installation of Seedbed does, and nothing else,
whoever holds the server; and as the node half lives on between messages with torch and data loaded, a message costs no
more than Flower itself does. `python executor.py` imports nothing of Seedbed for that reason.
"""

import socket
import struct
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

RECORD, FRAMES = "letter", "frames"  # where a message holds its frames
HELLO, LETTER = "query.hello", "train.letter"  # what a node can be asked
SOCKET = "socket"  # the node's setting that says where the node half listens
SIZE = struct.Struct("<I")
SOURCES = ("install_from_fab", "get_project_dir", "get_load_client_app_fn")  # whence Flower takes code that was sent

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who is here, and what it thinks was agreed."""
    return _answered(message, context, [])


@app.train("letter")
def letter(message: Message, context: Context) -> Message:
    """A letter from the server half."""
    found = message.content.config_records[RECORD][FRAMES]
    assert isinstance(found, list)
    return _answered(message, context, [frame for frame in found if isinstance(frame, bytes)])


def main() -> None:
    """`flwr-clientapp`, with this app as the only one there is.

    Raises:
        SystemExit: Flower's insides are not as they were: nothing is run then.
    """
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    inside: Any = import_module("flwr.supernode.runtime.run_clientapp")
    missing = [name for name in SOURCES if not callable(getattr(inside, name, None))]
    if missing:
        sys.exit(f"seedbed: this version of flwr has no {missing[0]} to put off: install flwr>=1.41,<1.43")
    inside.install_from_fab = _nothing
    inside.get_project_dir = _nowhere
    inside.get_load_client_app_fn = _this_app
    flwr_clientapp()


def ask(path: Path, frames: Sequence[bytes]) -> list[bytes]:
    """What the node half answers to a letter's frames; to none: who it is.

    Raises:
        OSError: it is not there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as node:
        node.connect(str(path))
        send_all(node, frames)
        return receive_all(node)


def send_all(peer: socket.socket, frames: Sequence[bytes]) -> None:
    """Frames, each behind its size, and 0 for their end."""
    for frame in frames:
        peer.sendall(SIZE.pack(len(frame)) + frame)
    peer.sendall(SIZE.pack(0))


def receive_all(peer: socket.socket) -> list[bytes]:
    """What `send_all` has sent."""
    frames = []
    while size := SIZE.unpack(_exactly(peer, SIZE.size))[0]:
        frames.append(_exactly(peer, size))
    return frames


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise ConnectionError("the other end is gone")
        data += piece
    return bytes(data)


def _answered(message: Message, context: Context, frames: list[bytes]) -> Message:
    answers = ask(Path(str(context.node_config[SOCKET])), frames)
    return Message(RecordDict({RECORD: ConfigRecord({FRAMES: answers})}), reply_to=message)


def _nothing(*_: Any, **__: Any) -> None:
    """Instead of unpacking what was sent."""


def _nowhere(*_: Any, **__: Any) -> Path:
    """Instead of where it would have been unpacked to."""
    return Path()


def _this_app(**_: Any) -> Callable[..., ClientApp]:
    """Instead of loading what was sent."""
    return lambda *_: app


if __name__ == "__main__":
    main()
