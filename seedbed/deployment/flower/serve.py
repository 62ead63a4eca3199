"""`seedbed serve`: the federation's server and Flower's server behind the gate, in one process."""

import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from seedbed.deployment.agreement import Agreement
from seedbed.deployment.flower import certificates
from seedbed.deployment.flower.addresses import join_address, parse_address, plain_host
from seedbed.deployment.flower.flower_transport import FlowerTransport
from seedbed.deployment.flower.init import PUBLIC
from seedbed.deployment.flower.signals import ending_by_signal
from seedbed.deployment.flower.superlink import SuperLink
from seedbed.deployment.log_lines import LogReader
from seedbed.deployment.server_folder import HELD_FILE, SERVER, UNCAPPED, FederationFolder, open_server
from seedbed.deployment.wire.frames import FRAME_CHUNK, MAX_FRAME
from seedbed.errors import InputError
from seedbed.locks import hold_lock

LEFT = 15.0  # seconds for which the system may keep a killed server's port
SERVE_POLL = 0.5  # seconds between polls
FLOWER, LOG = "flower", "superlink.log"  # the folder of Flower's own files, and its log
OVERHEAD = 64 << 10  # bytes that Flower adds to a message, at most


def serve_federation(
    directory: Path, *, listen: str = "0.0.0.0", port: int | None = None, said: Callable[[str], object] = print
) -> None:
    """Start or resume a federation, until all rounds are done and the members have the model.

    Args:
        directory: the federation's folder.
        listen: the address to listen on.
        port: the port to listen on; None: the one that members know.
        said: called with lines for people.
    Raises:
        InputError: the folder is not a federation's; another server has it open; the certificate has expired; the port
            is in use; or as for `Server.rounds`.
    """
    folder = directory / SERVER
    agreement, place = Agreement.read(folder), FederationFolder.read(folder)
    with hold_lock(folder / HELD_FILE, "server"), ending_by_signal():
        _serve(directory, agreement, place, listen, port, said)


def _serve(
    directory: Path,
    agreement: Agreement,
    place: FederationFolder,
    listen: str,
    port: int | None,
    said: Callable[[str], object],
) -> None:
    folder = directory / SERVER
    if agreement.cap is None:
        said(UNCAPPED)
    if certificates.expiry(folder) < datetime.now(UTC):
        raise InputError(
            f"the server's certificate expired on {certificates.expiry(folder):%d %B %Y}: `seedbed federation renew "
            f"{directory}` makes a new one; members need no change"
        )
    listen, port = plain_host(listen), port or parse_address(place.server)[1]
    said(f"{agreement.name}: {agreement.settings.algorithm} with {', '.join(agreement.members)} on port {port}")
    link = SuperLink(folder / PUBLIC, letter_bytes(agreement.plan.message.limit), folder / FLOWER / LOG, said)
    server = open_server(directory, FlowerTransport(link.grid))  # locks the folder
    try:
        with follow_log(directory, said), open_port(link, folder, listen, port):
            said("the port is open; members are admitted by their keys")
            for _ in server.rounds():
                pass
    finally:
        server.close()


def letter_bytes(payload: int) -> int:
    """The largest size in bytes of a letter with such a payload, as Flower carries it."""
    return (payload // FRAME_CHUNK + 1) * MAX_FRAME + OVERHEAD


@contextmanager
def open_port(link: SuperLink, folder: Path, listen: str, port: int) -> Iterator[None]:
    """Open the port, with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / certificates.CERTIFICATE, folder / certificates.KEY)
    with bind_socket(listen, port) as listening:
        link.open(listening, context)
        try:
            yield
        finally:
            link.close()


@contextmanager
def follow_log(directory: Path, said: Callable[[str], object]) -> Iterator[None]:
    """Meanwhile call `said` with the server's new log lines."""
    log_reader, over = LogReader(directory), threading.Event()

    def follow() -> None:
        while not over.wait(SERVE_POLL):
            log_reader.tell(said)
        log_reader.tell(said)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def bind_socket(listen: str, port: int) -> socket.socket:
    """A listening socket. Waits up to `LEFT` seconds if a killed server still occupies the port.

    Raises:
        InputError: the port is in use, or the address does not belong to this machine.
    """
    family, end = socket.AF_INET6 if ":" in listen else socket.AF_INET, time.monotonic() + LEFT
    while True:
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((listen, port))
            listening.listen(1024)
            return listening
        except OSError as error:
            listening.close()
            if time.monotonic() > end or error.errno != errno.EADDRINUSE:
                raise InputError(
                    f"cannot listen on {join_address(listen, port)} ({error.strerror}): give another --port"
                ) from error
        time.sleep(SERVE_POLL)
