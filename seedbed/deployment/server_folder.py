"""The folders of a federation, and how server and nodes are opened from them.

DIR/
  README.md         for the coordinator
  proxy.conf        for a reverse proxy on the same machine
  server/           agreement.json, certificates and keys, run/ (journal, model, metrics, log), flower/
  nodes/NAME/       for this member only: agreement.json, node.json, ca.crt, node.key, secret.key, README.md; later also
                    run/ (state, the final model, log)
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seedbed.deployment.agreement import Agreement
from seedbed.deployment.federation.node import LAST, Node, load_node_state
from seedbed.deployment.federation.server import Members, Server
from seedbed.deployment.federation.transport import Transport
from seedbed.deployment.flower.addresses import join_address, parse_address
from seedbed.deployment.member_roster import MemberRoster
from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.limits import from_json
from seedbed.serialization import fill_template, tensors_from_bytes, write_atomically
from seedbed.tree import Tree

SERVER, NODES, RUN = "server", "nodes", "run"
SECRETS, SECRET = "secrets", "secret.key"
NODE = "node.json"
HELD_FILE = "held"  # locked by the process that serves or joins, before it does anything else
UNCAPPED = (
    "this federation was made before weights had a cap: members' weights are unlimited, and a round needs an answer "
    "from "
    "every member; a new one (`seedbed federation init`) has a cap and a quorum of two thirds"
)


@dataclass(frozen=True)
class FederationFolder:
    """A node's identity and server, as in node.json.

    Attributes:
        member: its name.
        server: HOST:PORT, as the node reaches it; an IPv6 address in brackets.
        number: of a member that joined later; None: its place in the agreement.
    """

    member: str
    server: str
    number: ClientId | None = None

    def write(self, folder: Path) -> None:
        table = {name: value for name, value in asdict(self).items() if value is not None}
        write_atomically(folder / NODE, (json.dumps(table, indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> "FederationFolder":
        """Read node.json.

        Raises:
            InputError: the folder is not a node's.
        """
        try:
            table: Mapping[str, Any] = from_json((folder / NODE).read_text())
            return cls(
                str(table["member"]),
                join_address(*parse_address(str(table["server"]))),
                _checked_number(table.get("number")),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} is not a node's folder ({NODE}: {error}): name the one that the coordinator gave you"
            ) from error


def open_server(directory: Path, transport: Transport, *, said: Callable[[str], object] | None = None) -> Server:
    """Open the server of a federation's folder, in the state in which it stopped.

    Raises:
        InputError: the folder is not a federation's, or another server has it open.
    """
    folder = directory / SERVER
    agreement = Agreement.read(folder)

    def members() -> Members:
        present = MemberRoster.read(folder, agreement.members).present
        keys = {c: read_node_secret(folder / SECRETS / f"{name}.key") for c, name in present.items()}
        return Members(agreement.terms_for(list(keys)), keys)

    return Server(agreement.plan, agreement.terms, {}, folder / RUN, transport, said=said, members=members)


def open_node(folder: Path, data: Path, *, client: str | None = None) -> Node:
    """Open the node of a member's folder, with its own data.

    Args:
        folder: the member's folder.
        data: a file or folder with the agreed structure.
        client: the client whose rows to use, if the data have several.
    Raises:
        InputError: the folder is not a node's, or the data do not have the agreed structure.
    """
    agreement, place = Agreement.read(folder), FederationFolder.read(folder)
    number = _number(agreement, place)
    source, _ = agreement.own(place.member, data, client=client, number=number)
    return Node(agreement.plan, number, source, read_node_secret(folder / SECRET), folder / RUN)


def node_contents(folder: Path) -> tuple[Agreement, Tree, Tree | None]:
    """A member's agreement, the final model as the server sent it, and its client's kept state (or None).

    Raises:
        InputError: the rounds are not over yet.
    """
    agreement, place = Agreement.read(folder), FederationFolder.read(folder)
    path, plan = folder / RUN / LAST, agreement.plan
    if not path.exists():
        raise InputError(f"{folder} has no model yet: `seedbed join` gets it when all rounds are done")
    sent = fill_template(plan.sent, tensors_from_bytes(path.read_bytes(), str(path)), "sent")
    return agreement, sent, load_node_state(plan, _number(agreement, place), folder / RUN).kept


def _number(agreement: Agreement, place: FederationFolder) -> ClientId:
    return agreement.number(place.member) if place.number is None else place.number


def _checked_number(number: Any) -> int | None:
    if number is not None and not (type(number) is int and 0 <= number < 2**32):
        raise ValueError(f"number {number!r}")
    return number


def read_node_secret(path: Path) -> bytes:
    """Read a node's secret.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror}): copy the whole folder from the coordinator"
        ) from error
