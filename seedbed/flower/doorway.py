"""Where the node half listens for what Flower starts: a socket in a folder that only its owner can enter."""

import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from seedbed.federation.node import Node, talk
from seedbed.flower.executor import receive_all, send_all

PATIENCE = 60.0  # seconds for a letter that has begun


class Doorway:
    """Answers letters until it is closed, one after another."""

    def __init__(self, node: Node):
        self._node = node
        self._folder = tempfile.TemporaryDirectory(prefix="seedbed-")  # short: a socket's path has 107 bytes at most
        self.path = Path(self._folder.name) / "node"
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(self.path))
        self._listening.listen()
        self.answered = 0  # letters, and questions who is here
        self.failed: BaseException | None = None  # why it answers no more
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        self._folder.cleanup()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            with peer, suppress(OSError):
                peer.settimeout(PATIENCE)
                frames = receive_all(peer)
                try:
                    answers = talk(self._node, frames) if frames else self._node.hello()
                except BaseException as why:  # the disk is full, say: the command ends with this reason
                    self.failed = why
                    return
                self.answered += 1
                send_all(peer, answers)
