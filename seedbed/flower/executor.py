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
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

RECORD, FRAMES = "letter", "frames"  # where a message holds its frames
HELLO, LETTER = "query.hello", "train.letter"  # what a node can be asked
SOCKET = "socket"  # the node's setting that says where the node half listens
SIZE = struct.Struct("<I")

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
    """`flwr-clientapp`, with this app as the only one there is."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    put_off(INSIDE, INSTEAD)
    flwr_clientapp()


def put_off(module: str, instead: Mapping[str, Callable[..., Any]]) -> None:
    """Put functions of ours in the place of those by which one of Flower's modules takes code that was sent.

    Raises:
        SystemExit: Flower's insides are not as they were: nothing is run then.
    """
    inside: Any = import_module(module)
    for name in instead:
        if not callable(getattr(inside, name, None)):
            sys.exit(f"seedbed: this version of flwr has no {name} to put off: install flwr>=1.41,<1.43")
    for name, ours in instead.items():
        setattr(inside, name, ours)


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


INSIDE = "flwr.supernode.runtime.run_clientapp"
INSTEAD: Mapping[str, Callable[..., Any]] = {  # of unpacking what was sent, of where that would be, of loading it
    "install_from_fab": lambda *_, **__: None,
    "get_project_dir": lambda *_: Path(),
    "get_load_client_app_fn": lambda **_: lambda *_: app,
}


if __name__ == "__main__":
    main()
