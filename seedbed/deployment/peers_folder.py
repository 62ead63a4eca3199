"""Folders of peers, without a server.

DIR/peers/NAME/   for this peer only: agreement.json, circle.json, peer.json, secret.key; later also run/ (state,
                  metrics, log, model)
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seedbed.deployment.agreement import Agreement
from seedbed.deployment.peers import address_book, peer_state
from seedbed.deployment.peers.address_book import AddressBook
from seedbed.deployment.peers.network import PeerNetwork
from seedbed.deployment.peers.output import METRICS, MODEL
from seedbed.deployment.peers.peer import Peer
from seedbed.deployment.peers.peer_loop import run_peer
from seedbed.deployment.peers.peer_policy import PeerPolicy
from seedbed.errors import InputError
from seedbed.experiments.scheduling import check_concurrency
from seedbed.federated import ServerState
from seedbed.limits import from_json
from seedbed.serialization import atomic_folder, require_empty_folder, write_atomically
from seedbed.tree import Tree

PEERS, PEER, RUN = "peers", "peer.json", "run"
FIRST_PEER_PORT = 7100  # of the first peer, if no addresses are given; the others use the following ports
DEADLINE, PATIENCE = 60.0, 600.0


def init_peers(directory: Path, peers: Sequence[str], like: str, given: Mapping[str, Any]) -> Agreement:
    """Create a folder for each peer, with the agreement, the address book and a secret.

    Args:
        directory: a new or empty folder.
        peers: NAME, or NAME=HOST:PORT as the others reach it; without addresses all run on this machine.
        like, given: see `Agreement.make`; the default algorithm is dpsgd.
    Raises:
        InputError: the folder is not empty; a setting is not supported between peers.
    """
    require_empty_folder(directory, "new peers")
    names, addresses = _names_and_addresses(peers)
    agreement = Agreement.make(
        f"{directory.name}-{secrets.token_hex(4)}", names, like, {"algorithm": "dpsgd"} | dict(given), schedule="gossip"
    )
    check_concurrency(agreement.settings, len(names))
    peer_policy_of(agreement)
    AddressBook(addresses, [bytes(32)] * len(names))  # validate the addresses before anything is written
    with atomic_folder(directory) as temporary:
        _write(temporary, agreement, addresses)
    return agreement


def _write(directory: Path, agreement: Agreement, addresses: Sequence[str]) -> None:
    folders = [directory / PEERS / name for name in agreement.members]
    for folder in folders:
        folder.mkdir(parents=True, mode=0o700)
    book = AddressBook(addresses, [address_book.write_peer_secret(folder) for folder in folders])
    for folder, name in zip(folders, agreement.members, strict=True):
        agreement.write(folder)
        book.write(folder)
        write_atomically(folder / PEER, (json.dumps({"peer": name}) + "\n").encode())


def peer_policy_of(agreement: Agreement, deadline: float = DEADLINE, patience: float = PATIENCE) -> PeerPolicy:
    settings = agreement.settings
    asked, rounds = settings.schedule, settings.rounds
    assert rounds is not None  # complete_settings() has filled it in
    return PeerPolicy(
        names=agreement.members,
        rounds=rounds,
        topology=asked.topology,
        density=asked.density,
        seed=settings.seed,
        order=asked.order,
        deadline=deadline,
        again=min(1.0, deadline / 4),
        patience=max(patience, deadline),
    )


def join_peers(
    folder: Path,
    data: Path,
    *,
    said: Callable[[str], object],
    client: str | None = None,
    listen: str | None = None,
    deadline: float = DEADLINE,
    patience: float = PATIENCE,
) -> Path:
    """Run one peer until all rounds are done; if it was killed, the same call resumes.

    Args:
        folder: this peer's folder.
        data: a file or folder with the agreed structure.
        said: called with each log line.
        client: the client whose rows to use, if the data have several.
        listen, deadline, patience: see `PeerNetwork` and `PeerPolicy`.
    Returns:
        The path of the model.
    """
    name, agreement, book = _open(folder)
    own, terms = agreement.number(name), peer_policy_of(agreement, deadline, patience)
    source, _ = agreement.own(name, data, client=client)
    secret = address_book.read_peer_secret(folder, book.keys[own])
    peer = Peer(agreement.plan, terms, own, source, book.pairs(own, secret), folder / RUN, said=said)
    try:
        network = PeerNetwork(book, own, terms.contacts(own), secret, listen, largest=peer.letters.largest)
        try:
            for _ in run_peer(peer, network):
                pass
        finally:
            network.close()
    finally:
        peer.close()
    return folder / RUN / MODEL


def choose_peer(directory: Path, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The folders of the peers that this process runs: under torchrun the one of its rank, otherwise all.

    Raises:
        InputError: the directory has no peers, or torchrun started another number of processes.
    """
    folders = sorted((directory / PEERS).glob(f"*/{PEER}"))
    if not folders:
        raise InputError(f"{directory} has no peers: name a folder that `seedbed peers init` made")
    names = Agreement.read(folders[0].parent).members
    missing = [name for name in names if not (directory / PEERS / name / PEER).exists()]
    if missing:
        raise InputError(f"{directory} has no folder for {', '.join(missing)}: start these peers where their folders "
                         "are, with `seedbed peers join`")  # fmt: skip
    if "RANK" not in environment:
        return [directory / PEERS / name for name in names]
    rank, size = int(environment["RANK"]), int(environment.get("WORLD_SIZE", len(names)))
    if size != len(names):
        raise InputError(f"torchrun started {size} processes for {len(names)} peers: --nproc-per-node {len(names)}")
    return [directory / PEERS / names[rank]]


def run_all_peers(folders: Sequence[Path], data: str, deadline: float, patience: float) -> dict[str, bool]:
    """Run each peer in its own process, which prints its log; returns which peers succeeded."""
    words = [sys.executable, "-m", "seedbed", "peers", "run", str(folders[0].parents[1]), "--data", data]
    words += [f"--deadline={deadline}", f"--patience={patience}"]
    environment = {**os.environ, "WORLD_SIZE": str(len(folders))}
    processes = {
        folder.name: subprocess.Popen(words, env={**environment, "RANK": str(rank)})
        for rank, folder in enumerate(folders)
    }
    try:
        return {name: process.wait() == 0 for name, process in processes.items()}
    except BaseException:
        for process in processes.values():
            process.terminate()
        raise


def peer_contents(folder: Path) -> tuple[Agreement, Tree, Tree | None]:
    """A peer's agreement, its current model as a client would receive it, and its kept state (or None).

    Raises:
        InputError: the peer has not started yet.
    """
    name, agreement, _ = _open(folder)
    own, plan = agreement.number(name), agreement.plan
    owner = peer_state.state_owner(plan, peer_policy_of(agreement), own)
    stored = peer_state.load_peer_state(folder / RUN, plan, owner)
    if stored is None:
        raise InputError(f"{folder} has no model yet: `seedbed peers join {folder} --data FILE` makes one")
    state: ServerState = stored.state
    return agreement, plan.algorithm.send(state, own), stored.kept


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a peer's rounds so far."""
    path = folder / RUN / METRICS
    return [from_json(line) for line in path.read_text("utf-8").split("\n")[:-1]] if path.exists() else []


def _open(folder: Path) -> tuple[str, Agreement, AddressBook]:
    try:
        name = str(from_json((folder / PEER).read_text())["peer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is not a peer's folder ({PEER}: {error}): name one of DIR/{PEERS}/ of `seedbed peers init DIR`"
        ) from error
    return name, Agreement.read(folder), AddressBook.read(folder)


def _names_and_addresses(peers: Sequence[str]) -> tuple[list[str], list[str]]:
    names, addresses = [], []
    for number, peer in enumerate(peers):
        name, sign, address = peer.partition("=")
        names.append(name)
        addresses.append(address if sign else f"127.0.0.1:{FIRST_PEER_PORT + number}")
    without = [peer for peer in peers if "=" not in peer]
    if without and len(without) < len(peers):
        raise InputError(f"{without[0]} has no address, but others have: give all as NAME=HOST:PORT, or none")
    return names, addresses


def peer_log_line(record: Mapping[str, Any]) -> str | None:
    """Format an event of a peer's log; None if it is not meant for people."""
    event, names = record["event"], ", ".join(record.get("peers", ())) or record.get("peer", "")
    begin = f"round {record['round'] + 1}: " if "round" in record else ""
    if event == "open":
        return f"{names} begins with round {record['round'] + 1} of {record['rounds']}; its neighbours: " + ", ".join(
            record["contacts"]
        )
    if event == "closed":
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in record["info"].items())
        return f"round {record['round']}: with {names or 'no other peer'} ({numbers})"
    if event == "catching up":
        return f"{begin}continuing here with the others; {record['missed']} rounds missed"
    texts = {
        "waiting": f"waiting for {names}",
        "silent": f"{names} was silent for {record.get('seconds', 0):g} s: continuing without it",
        "back": f"{names} is back",
        "made up for": f"{names} had counted an exchange that this peer had not: compensated",
        "staying for": f"all rounds are done; staying for {names}",
        "finished": "all rounds are done",
    }
    if event in texts:
        return f"{begin}{texts[event]}"
    return f"{begin}{event}: {record['why']}" if "why" in record else None
