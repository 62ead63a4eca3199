"""`seedbed join`: a member's node and its connection to the server."""

import time
from collections.abc import Callable
from pathlib import Path

from seedbed.deployment.federation.node import REFUSED, Node
from seedbed.deployment.federation.server import OTHER_RUN, OTHERWISE
from seedbed.deployment.flower.certificates import CA, NODE_KEY
from seedbed.deployment.flower.fleet import LOST, Fleet, reason_of
from seedbed.deployment.flower.gate import UNKNOWN
from seedbed.deployment.flower.signals import ending_by_signal
from seedbed.deployment.log_lines import LOG, FileTail, node_log_line
from seedbed.deployment.server_folder import HELD_FILE, NODE, RUN, FederationFolder, open_node
from seedbed.errors import InputError
from seedbed.locks import hold_lock

RETRY_DELAY = 5.0  # seconds before the next connection attempt
KNOCKS = 24  # attempts after which a node that is not admitted gives up
UNTRUSTED, OTHER_NAME = "CERTIFICATE_VERIFY_FAILED", "certificate is not valid for"  # in error texts of TLS


def join_federation(
    folder: Path, data: Path, *, client: str | None = None, said: Callable[[str], object] = print
) -> None:
    """Take part in a federation until all rounds are done. Started again, it continues.

    Args:
        folder: the member's folder from the coordinator.
        data: a file or folder with the agreed structure.
        client: the client whose rows to use, if the data have several.
        said: called with lines for people.
    Raises:
        InputError: the data do not have the agreed structure; a key is missing or unknown to the server; the server is
            not the trusted one; another process runs this node; the disk is full.
    """
    folder = folder.resolve()
    place = FederationFolder.read(folder)
    with hold_lock(folder / HELD_FILE, "node"), ending_by_signal():
        tail = FileTail(folder / RUN / LOG)
        node = open_node(folder, data, client=client)
        said(f"{place.member}: {data} is ready; waiting for the server at {place.server}")
        _keep_connecting(folder, place, node, tail, said)


def _keep_connecting(
    folder: Path, place: FederationFolder, node: Node, tail: FileTail, said: Callable[[str], object]
) -> None:
    """Connect, and reconnect after errors, until all rounds are done."""
    refusals_in_a_row, before = 0, ""
    while True:
        try:
            with Fleet(place.server, folder / CA, folder / NODE_KEY, node) as fleet:
                refusals_in_a_row, before = 0, ""
                fleet.run(lambda: _is_over(tail, said))
                return
        except LOST as error:
            code, why = reason_of(error)
        if OTHER_NAME in why:
            raise InputError(
                f"the server's certificate is not valid for the address {place.server} ({why}): write the one "
                f"given to `federation init --host` into {folder / NODE}"
            )
        if UNTRUSTED in why:
            raise InputError(f"the server at {place.server} is not the one that this node trusts: {why}")
        refusals_in_a_row = refusals_in_a_row + 1 if code == UNKNOWN else 0
        if refusals_in_a_row == KNOCKS:
            raise InputError(
                f"{place.server} does not admit this node: its key is not registered there, or another process "
                f"uses it; copy the folder from the coordinator again, or stop the other process"
            )
        if why != before:
            said(f"{place.server}: {why}; trying again")
        before = why
        time.sleep(RETRY_DELAY)


def _is_over(tail: FileTail, said: Callable[[str], object]) -> bool:
    """Report the node's new log events; returns whether all rounds are done.

    Raises:
        InputError: the server refuses this node.
    """
    over = False
    for record in tail.records():
        if record["event"] == REFUSED and record["why"].startswith((OTHER_RUN, OTHERWISE)):
            raise InputError(f"the server refuses this node: {record['why']}")
        if line := node_log_line(record):
            said(line)
        over = over or record["event"] == "finished"
    return over
