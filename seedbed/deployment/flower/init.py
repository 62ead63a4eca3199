"""`seedbed federation init`: create the folder of a new federation, with keys for its server and each member."""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from string import Template
from typing import Any

from seedbed.deployment.agreement import Agreement, refuse_names
from seedbed.deployment.flower import certificates
from seedbed.deployment.flower.addresses import join_address, parse_address, plain_host
from seedbed.deployment.member_roster import MemberRoster
from seedbed.deployment.server_folder import NODES, RUN, SECRET, SECRETS, SERVER, FederationFolder
from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.serialization import atomic_folder, require_empty_folder, write_atomically

SERVER_PORT = 8443
LOCALS = ("localhost", "127.0.0.1", "::1")  # addresses for the server's own machine
PUBLIC = "public"  # the folder of the nodes' public keys
TEXTS = Path(__file__).with_name("texts")


def init_federation(
    directory: Path, members: Sequence[str], like: str, given: Mapping[str, Any], *, host: str, port: int = SERVER_PORT
) -> Agreement:
    """Create a federation's folder.

    Args:
        directory: a new or empty folder.
        members, like, given: see `Agreement.make`.
        host: the server's name or address, as nodes reach it.
        port: the server's port.
    Raises:
        InputError: the folder is not empty, the host is invalid, or as for `Agreement.make`. Then nothing is left.
    """
    host = plain_host(host)
    require_empty_folder(directory, "a new federation")
    agreement = Agreement.make(f"{directory.name}-{secrets.token_hex(4)}", members, like, given)
    with atomic_folder(directory) as temporary:
        _write(temporary, agreement, host, port)
    return agreement


def _write(directory: Path, agreement: Agreement, host: str, port: int) -> None:
    server = directory / SERVER
    for folder in (server, server / SECRETS, server / PUBLIC):
        folder.mkdir(parents=True, mode=0o700)
    agreement.write(server)
    FederationFolder("server", join_address(host, port)).write(server)
    certificates.make_authority(server, agreement.name)
    certificates.make_certificate(server, _names(host))
    words = _words(agreement, host, port)
    for member in agreement.members:
        folder = directory / NODES / member
        _write_node(folder, FederationFolder(member, words["place"]), agreement, server, words)
    _write_text(directory / "README.md", "coordinator.md", words)
    _write_text(directory / "proxy.conf", "proxy.conf", words)


def _write_node(
    folder: Path, place: FederationFolder, agreement: Agreement, server: Path, words: Mapping[str, str]
) -> None:
    member = place.member
    folder.mkdir(parents=True, exist_ok=True)  # exists if `atomic_folder` made it
    folder.chmod(0o700)
    agreement.write(folder)
    place.write(folder)
    shutil.copyfile(server / certificates.CA, folder / certificates.CA)
    write_atomically(server / PUBLIC / f"{member}.pub", certificates.make_node_key(folder) + b"\n")
    certificates.make_secret(folder / SECRET, server / SECRETS / f"{member}.key")
    columns = ", ".join(str(column["name"]) for column in agreement.encoding.get("columns", ()))
    target = agreement.encoding.get("target", {}).get("column", "")
    form = f"a table (CSV or Parquet) with the columns {columns} and {target}" if columns else "data like the sample"
    _write_text(folder / "README.md", "node.md", {**words, "member": member, "form": form})


def _write_text(path: Path, text: str, words: Mapping[str, str]) -> None:
    write_atomically(path, Template((TEXTS / text).read_text()).substitute(words).encode())


def add_member(directory: Path, name: str) -> Path:
    """Create a member's folder and admit it. A running server follows within seconds, and asks it from the next round.

    A removed member comes back under its old number, with new keys.

    Returns:
        The member's folder.
    Raises:
        InputError: it is a member already, its name is invalid, or its folder exists.
    """
    agreement, roster = _read(directory)
    refuse_names([name])
    new_roster = roster.with_member(name)
    folder = directory / NODES / name
    require_empty_folder(folder, f"the member {name}")
    _make_member(directory, agreement, name, new_roster.number(name))
    new_roster.write(directory / SERVER)
    return folder


def remove_member(directory: Path, name: str) -> None:
    """Remove a member: its keys are refused at once, and the current round continues without it.

    Raises:
        InputError: it is not a member, or only two are left.
    """
    _, roster = _read(directory)
    server = directory / SERVER
    roster.without(name).write(server)
    for path in (server / PUBLIC / f"{name}.pub", server / SECRETS / f"{name}.key"):
        path.unlink(missing_ok=True)


def renew_member(directory: Path, name: str) -> Path:
    """Give a member that lost its keys a new folder with new keys; the old keys are refused.

    The node's kept state is lost with the old folder, unless the member copies its run/ into the new one.

    Returns:
        The new folder.
    Raises:
        InputError: it is not a member, or its old folder still contains the node's state.
    """
    agreement, roster = _read(directory)
    number, folder = roster.number(name), directory / NODES / name
    if (folder / RUN).exists():
        raise InputError(f"{folder} contains the node's state (run/): move the folder away first")
    shutil.rmtree(folder, ignore_errors=True)
    _make_member(directory, agreement, name, number)
    return folder


def _read(directory: Path) -> tuple[Agreement, MemberRoster]:
    agreement = Agreement.read(directory / SERVER)
    return agreement, MemberRoster.read(directory / SERVER, agreement.members)


def _make_member(directory: Path, agreement: Agreement, name: str, number: ClientId) -> None:
    server = directory / SERVER
    place = FederationFolder(name, FederationFolder.read(server).server, None if name in agreement.members else number)
    with atomic_folder(directory / NODES / name) as temporary:
        _write_node(temporary, place, agreement, server, _words(agreement, *parse_address(place.server)))


def renew_certificate(directory: Path, valid: timedelta) -> datetime:
    """Create a new server certificate.

    Returns:
        Its expiry date.
    Raises:
        InputError: the folder is not a federation's.
    """
    server = directory / SERVER
    host, _ = parse_address(FederationFolder.read(server).server)
    certificates.make_certificate(server, _names(host), valid=valid)
    return certificates.expiry(server)


def _words(agreement: Agreement, host: str, port: int) -> dict[str, str]:
    """Values for the text templates."""
    members = " ".join(agreement.members)
    return {
        "name": agreement.name,
        "host": host,
        "port": str(port),
        "place": join_address(host, port),
        "members": members,
    }


def _names(host: str) -> list[str]:
    """All names of the server: for members, and for its own machine."""
    return [host, *(name for name in LOCALS if name != host)]
