"""A folder of peers without a server, and what each makes of its part of it.

DIR/peers/NAME/   what goes to this peer and to nobody else: agreement.json, circle.json, peer.json, secret.key;
                  and there grows run/ (memory, metrics, log, model)
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
FIRST_PEER_PORT = 7100  # of the first peer, where no addresses are given; the others have the next
DEADLINE, PATIENCE = 60.0, 600.0


def init_peers(directory: Path, peers: Sequence[str], like: str, given: Mapping[str, Any]) -> Agreement:
    """Make a folder of peers: for each what it must have, and its secret.

    Args:
        peers: NAME, or NAME=HOST:PORT as the others reach it; without addresses all are on this machine.
        like, given: see `Agreement.make`; the algorithm is dpsgd unless said.
    Raises:
        InputError: the folder is not empty; the settings cannot be followed between peers.
    """
    require_empty_folder(directory, "new peers")
    names, addresses = _named(peers)
    agreement = Agreement.make(
        f"{directory.name}-{secrets.token_hex(4)}", names, like, {"algorithm": "dpsgd"} | dict(given), schedule="gossip"
    )
    check_concurrency(agreement.settings, len(names))
    peer_policy_of(agreement)
    AddressBook(addresses, [bytes(32)] * len(names))  # what is wrong with addresses is said before anything is written
    with atomic_folder(directory) as beside:
        _write(beside, agreement, addresses)
    return agreement


def _write(directory: Path, agreement: Agreement, addresses: Sequence[str]) -> None:
    folders = [directory / PEERS / name for name in agreement.members]
    for folder in folders:
        folder.mkdir(parents=True, mode=0o700)
    met = AddressBook(addresses, [address_book.write_peer_secret(folder) for folder in folders])
    for folder, name in zip(folders, agreement.members, strict=True):
        agreement.write(folder)
        met.write(folder)
        write_atomically(folder / PEER, (json.dumps({"peer": name}) + "\n").encode())


def peer_policy_of(agreement: Agreement, deadline: float = DEADLINE, patience: float = PATIENCE) -> PeerPolicy:
    settings = agreement.settings
    asked, rounds = settings.schedule, settings.rounds
    assert rounds is not None  # complete() has filled it in
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
    """Be one peer until all rounds are done; killed and called again, it goes on. Returns where its model is.

    Args:
        data: a file or folder of the form agreed on.
        said: called with each line of the log.
        client: whose rows, where the data hold several clients'.
        listen, deadline, patience: see `Network` and `Terms`.
    """
    name, agreement, met = _opened(folder)
    own, terms = agreement.number(name), peer_policy_of(agreement, deadline, patience)
    source, _ = agreement.own(name, data, client=client)
    secret = address_book.read_peer_secret(folder, met.keys[own])
    peer = Peer(agreement.plan, terms, own, source, met.pairs(own, secret), folder / RUN, said=said)
    try:
        network = PeerNetwork(met, own, terms.contacts(own), secret, listen, largest=peer.letters.largest)
        try:
            for _ in run_peer(peer, network):
                pass
        finally:
            network.close()
    finally:
        peer.close()
    return folder / RUN / MODEL


def choose_peer(directory: Path, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The folders of the peers that this process is to be: under torchrun the one of its rank, else all.

    Raises:
        InputError: the directory holds no peers, or torchrun started another number of processes.
    """
    folders = sorted((directory / PEERS).glob(f"*/{PEER}"))
    if not folders:
        raise InputError(f"{directory} holds no peers: name a folder that `seedbed peers init` made")
    names = Agreement.read(folders[0].parent).members
    missing = [name for name in names if not (directory / PEERS / name / PEER).exists()]
    if missing:
        raise InputError(f"{directory} holds no folder of {', '.join(missing)}: start those there by themselves with "
                         "`seedbed peers join`")  # fmt: skip
    if "RANK" not in environment:
        return [directory / PEERS / name for name in names]
    rank, size = int(environment["RANK"]), int(environment.get("WORLD_SIZE", len(names)))
    if size != len(names):
        raise InputError(f"torchrun started {size} processes for {len(names)} peers: --nproc-per-node {len(names)}")
    return [directory / PEERS / names[rank]]


def run_all_peers(folders: Sequence[Path], data: str, deadline: float, patience: float) -> dict[str, bool]:
    """Peers of one machine, each in a process of its own that says its lines here: who came to a good end."""
    words = [sys.executable, "-m", "seedbed", "peers", "run", str(folders[0].parents[1]), "--data", data]
    words += [f"--deadline={deadline}", f"--patience={patience}"]
    environment = {**os.environ, "WORLD_SIZE": str(len(folders))}
    started = {
        folder.name: subprocess.Popen(words, env={**environment, "RANK": str(rank)})
        for rank, folder in enumerate(folders)
    }
    try:
        return {name: process.wait() == 0 for name, process in started.items()}
    except BaseException:
        for process in started.values():
            process.terminate()
        raise


def peer_contents(folder: Path) -> tuple[Agreement, Tree, Tree | None]:
    """The agreement; what a client is sent from this peer's model as it is now; what the peer's own has kept, or None.

    Raises:
        InputError: it has not begun yet.
    """
    name, agreement, _ = _opened(folder)
    own, plan = agreement.number(name), agreement.plan
    there = peer_state.load_peer_state(folder / RUN, plan, peer_state.state_owner(plan, peer_policy_of(agreement), own))
    if there is None:
        raise InputError(f"{folder} has no model yet: `seedbed peers join {folder} --data FILE` makes one")
    state: ServerState = there.state
    return agreement, plan.algorithm.send(state, own), there.kept


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """A peer's rounds so far."""
    path = folder / RUN / METRICS
    return [from_json(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def _opened(folder: Path) -> tuple[str, Agreement, AddressBook]:
    try:
        name = str(from_json((folder / PEER).read_text())["peer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is no peer's folder ({PEER}: {error}): name one of DIR/{PEERS}/ of `seedbed peers init DIR`"
        ) from error
    return name, Agreement.read(folder), AddressBook.read(folder)


def _named(peers: Sequence[str]) -> tuple[list[str], list[str]]:
    names, addresses = [], []
    for number, peer in enumerate(peers):
        name, sign, address = peer.partition("=")
        names.append(name)
        addresses.append(address if sign else f"127.0.0.1:{FIRST_PEER_PORT + number}")
    alone = [peer for peer in peers if "=" not in peer]
    if alone and len(alone) < len(peers):
        raise InputError(f"{alone[0]} has no address, but others do: give each as NAME=HOST:PORT, or none")
    return names, addresses


def peer_log_line(record: Mapping[str, Any]) -> str | None:
    """A line about an event of a peer's log; None: it is not for people."""
    event, who = record["event"], ", ".join(record.get("peers", ())) or record.get("peer", "")
    begin = f"round {record['round'] + 1}: " if "round" in record else ""
    if event == "open":
        return f"{who} begins with round {record['round'] + 1} of {record['rounds']}; its neighbours: " + ", ".join(
            record["contacts"]
        )
    if event == "closed":
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in record["info"].items())
        return f"round {record['round']}: with {who or 'nobody'} ({numbers})"
    if event == "catching up":
        return f"{begin}goes on from here, as the others do; {record['missed']} missed"
    said = {
        "waiting": f"waiting for {who}",
        "silent": f"{who} was silent for {record.get('seconds', 0):g} s: going on without",
        "back": f"{who} is back",
        "made up for": f"{who} had counted an exchange that this peer had not: made up for",
        "staying for": f"all rounds are done; staying for {who}",
        "finished": "all rounds are done",
    }
    if event in said:
        return f"{begin}{said[event]}"
    return f"{begin}{event}: {record['why']}" if "why" in record else None
