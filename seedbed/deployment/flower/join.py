"""`seedbed join`: a member's node half, and its connection to the server."""

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

RETRY_DELAY = 5.0  # seconds before the server is asked again
KNOCKS = 24  # times after which a node that is not let in gives up
UNTRUSTED, OTHER_NAME = "CERTIFICATE_VERIFY_FAILED", "certificate is not valid for"


def join_federation(
    folder: Path, data: Path, *, client: str | None = None, said: Callable[[str], object] = print
) -> None:
    """Take part in a federation until all rounds are done. Started again, it goes on where it was.

    Args:
        folder: the member's, as the coordinator gave it.
        data: a file or folder of the form agreed on.
        client: whose rows, where it holds several clients'.
        said: called with a line for people now and then.
    Raises:
        InputError: the data are not of that form, a key is missing or not known to the server, the server is another
            than the one that is trusted, another process runs this node, the disk is full.
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
    """Until all rounds are done; a connection that is lost is followed by another."""
    knocks, before = 0, ""
    while True:
        try:
            with Fleet(place.server, folder / CA, folder / NODE_KEY, node) as fleet:
                knocks, before = 0, ""
                fleet.run(lambda: _is_over(tail, said))
                return
        except LOST as error:
            code, why = reason_of(error)
        if OTHER_NAME in why:
            raise InputError(
                f"the server's certificate does not have the address {place.server} ({why}): put the one that "
                f"`federation init --host` was given into {folder / NODE}"
            )
        if UNTRUSTED in why:
            raise InputError(f"the server at {place.server} is not the one that this node trusts: {why}")
        knocks = knocks + 1 if code == UNKNOWN else 0
        if knocks == KNOCKS:
            raise InputError(
                f"{place.server} does not let this node in: its key is not registered there, or another process "
                f"has it; copy the folder from the coordinator again, or stop the other"
            )
        if why != before:
            said(f"{place.server}: {why}; asking again")
        before = why
        time.sleep(RETRY_DELAY)


def _is_over(tail: FileTail, said: Callable[[str], object]) -> bool:
    """Tell what the node half has done since the last time; whether all rounds are done.

    Raises:
        InputError: the server turns this node away.
    """
    over = False
    for record in tail.records():
        if record["event"] == REFUSED and record["why"].startswith((OTHER_RUN, OTHERWISE)):
            raise InputError(f"the server turns this node away: {record['why']}")
        if line := node_log_line(record):
            said(line)
        over = over or record["event"] == "finished"
    return over
