"""Really killing peers: processes over real sockets that are sent SIGKILL at random instants, and some started again.

Run as a program of its own, so that it is free to fork: python killing.py KIND RUNS SEED.
It prints a JSON line for each run.
"""

import faulthandler
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from peers.bench import LEARNING, NAMES, apart, carried, chances, made, peer, simulated, states, terms
from peers.ports import free_ports
from peers.storms import storm, taking_what_comes

from seedbed import tree
from seedbed.deployment import peers_folder
from seedbed.deployment.peers.address_book import AddressBook
from seedbed.deployment.peers.network import PeerNetwork
from seedbed.deployment.peers.peer_loop import run_peer
from seedbed.deployment.peers.peer_policy import PeerPolicy
from seedbed.privacy.secure.keys import public_of
from seedbed.rounds import Round
from seedbed.rounds.mixing import second_eigenvalue
from seedbed.serialization import fill_template, tensors_from_bytes, trees_to_bytes, write_atomically

PEERS, MEMORY = 4, Path("/dev/shm")
LONGEST = 100.0  # seconds of a process's life, after which it says where it hangs
SECRETS = [bytes([i + 1]) * 32 for i in range(len(NAMES))]


def circle(count: int) -> AddressBook:
    return AddressBook(
        [f"127.0.0.1:{port}" for port in free_ports(count)], [public_of(secret) for secret in SECRETS[:count]]
    )


def work(name: str, own: int, settled: PeerPolicy, met: AddressBook, folder: Path, pause: float = 0.0) -> None:
    """One peer's whole life; each round's state and company stay in its folder."""
    one = peer(name, own, settled, folder)
    network = PeerNetwork(met, own, settled.contacts(own), SECRETS[own])
    for round in run_peer(one, network):
        write_atomically(folder / NAMES[own] / f"round-{round.number}", trees_to_bytes({"state": round.state}))
        time.sleep(pause)
    network.close()


def took(name: str, own: int, settled: PeerPolicy, folder: Path) -> list[Round]:
    """The rounds that a peer has closed, by its metrics; where it died before its state was written here, the start."""
    start, found = made(name)[2], []
    for line in (folder / NAMES[own] / "metrics.jsonl").read_text().split("\n")[:-1]:
        said = json.loads(line)
        path = folder / NAMES[own] / f"round-{said['round']}"
        state = (
            fill_template(start, tensors_from_bytes(path.read_bytes(), path.name), "state") if path.exists() else start
        )
        found.append(Round(said["round"], state, [NAMES.index(peer) for peer in said["peers"]], {}))
    return found


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def wait_for(path: Path) -> None:
    begin = time.monotonic()
    while not path.exists():
        assert time.monotonic() < begin + LONGEST, f"{path} never came"
        time.sleep(0.01)


def finish(pids: Mapping[int, int]) -> list[int]:
    """Who came to a good end."""
    return [i for i, pid in pids.items() if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0]


def undisturbed(folder: Path, seed: int) -> dict[str, Any]:
    """All of them to the end, and how far they are from the simulation."""
    name, settled = "dpsgd", terms(PEERS, order="combine_then_adapt", deadline=30.0, again=0.2)
    met, begin = circle(PEERS), time.monotonic()
    pids = {i: forked(lambda i=i: work(name, i, settled, met, folder)) for i in range(PEERS)}  # type: ignore[misc]
    ended, seconds = finish(pids), time.monotonic() - begin
    want = simulated(name, settled)
    rounds = {i: took(name, i, settled, folder) for i in range(PEERS)}
    error = max(apart(rounds[i][t].state, states(want[t])[i]) for i in range(PEERS) for t in range(settled.rounds))
    return {"ended": ended, "error": error, "seconds": seconds}


def agreed(folder: Path, seed: int) -> dict[str, Any]:
    """From a settings file and tables, as the commands do: to the end, and then each peer once more."""
    for name in ("sample", *NAMES[:3]):
        write_table(folder / f"{name}.csv", chances(seed, ord(name[0])))
    peers = [f"{name}=127.0.0.1:{port}" for name, port in zip(NAMES, free_ports(3), strict=False)]
    given = {"rounds": 4, "reader": {"target": "outcome"}}
    agreement = peers_folder.init_peers(folder / "heart", peers, str(folder / "sample.csv"), given)
    folders = peers_folder.choose_peer(folder / "heart", {})

    def be(one: Path, said: Callable[[str], object] = str) -> None:
        peers_folder.join_peers(one, folder / f"{one.name}.csv", said=said, deadline=20.0)

    ended = [finish({i: forked(partial(be, one)) for i, one in enumerate(folders)}) for _ in range(2)]
    states_ = [peers_folder.peer_contents(one) for one in folders]
    rounds = [[line["round"] for line in peers_folder.metrics_of(one)] for one in folders]
    models = [tensors_from_bytes((one / "run" / "model.safetensors").read_bytes(), one.name) for one in folders]
    fits = all(torch.equal(model[f"params.{n}"], p) for model, (_, sent, _) in zip(models, states_, strict=True)
               for n, p in sent.items())  # fmt: skip
    order = agreement.settings.schedule.order
    return {"ended": ended, "rounds": rounds, "fits": fits, "order": order}


def write_table(path: Path, rng: np.random.Generator) -> None:
    rows = [(age, dose) for age, dose in rng.normal(size=(40, 2))]
    lines = [f"{age:.3f},{dose:.3f},{'ill' if age + dose > 0 else 'well'}" for age, dose in rows]
    path.write_text("\n".join(["age,dose,outcome", *lines]) + "\n")


def killed(folder: Path, seed: int, *, again: bool) -> dict[str, Any]:
    """One of four peers is killed at a random instant after they have parted; with `again` it is started again when
    the others have gone on without it.

    Returns:
        error: how far the others (and who came back) are from the simulation with the exchanges that there were.
        shrinks: the others' spread by which factor a round, once the dead one is gone; λ_2 of their three-peer matrix.
    """
    rng, name = chances(seed, 7), "learn, then mix"
    count = LEARNING + (48 if again else 28)
    settled = terms(PEERS, rounds=count, order="combine_then_adapt", deadline=1.0, again=0.1, patience=60.0)
    met, victim = circle(PEERS), int(rng.integers(PEERS))
    start = lambda i: forked(lambda: work(name, i, settled, met, folder, 0.02))  # noqa: E731
    pids = {i: start(i) for i in range(PEERS)}
    wait_for(folder / NAMES[victim] / f"round-{LEARNING + 1 + int(rng.integers(3))}")
    time.sleep(float(rng.uniform(0, 0.2)))
    os.kill(pids[victim], signal.SIGKILL)
    os.waitpid(pids.pop(victim), 0)
    at = len(took(name, victim, settled, folder))
    if again:
        wait_for(folder / NAMES[(victim + 1) % PEERS] / f"round-{at + 5}")
        pids[victim] = start(victim)
    ended = finish(pids)
    rounds = {i: took(name, i, settled, folder) for i in range(PEERS)}
    logs = "".join((folder / NAMES[i] / "log.jsonl").read_text() for i in range(PEERS))
    found: dict[str, Any] = {"ended": ended, "killed_in": at, "made_up": logs.count('"made up for"')}
    if found["made_up"]:  # counted at the two ends in different rounds, which no simulation does
        return {**found, "missed": settled.rounds - len(rounds[victim]), "back": victim in ended, "error": None}
    mixes = carried(settled, rounds, None if again else victim)
    want = states(simulated(name, settled, mixes)[-1])
    found["error"] = max(apart(rounds[i][-1].state, want[i]) for i in ended)
    if again:
        return {**found, "missed": settled.rounds - len(rounds[victim]), "back": victim in ended}
    others = [i for i in range(PEERS) if i != victim]
    alone = [t for t in range(settled.rounds) if all(victim not in rounds[i][t].clients for i in others)]
    spreads = [spread([rounds[i][t].state.params for i in others]) for t in alone]
    lambda2 = second_eigenvalue(mixes[settled.rounds - 1].matrix[others][:, others])
    steps = [b / a for a, b in pairwise(spreads) if a > 1e-9]  # below that rounding is heard
    return {**found, "lambda2": lambda2, "worst": max(steps), "shrinks": steps[-1], "rounds_alone": len(alone)}


def spread(models: list[Mapping[str, Tensor]]) -> float:
    """√(Σ_i ‖x_i − x̄‖²) in double precision."""
    stacked = tree.map(torch.Tensor.double, tree.stack(models))
    return float(tree.squared_norm(tree.map(lambda x: x - x.mean(0), stacked)).sqrt())


def stormed(folder: Path, seed: int) -> dict[str, Any]:
    """No processes: peers and a bad network on a clock of their own."""
    return storm(seed, folder)._asdict()


def stormed_taking_what_comes(folder: Path, seed: int) -> dict[str, Any]:
    with taking_what_comes():
        return storm(seed, folder)._asdict()


KINDS: Mapping[str, Callable[[Path, int], dict[str, Any]]] = {
    "undisturbed": undisturbed,
    "killed": partial(killed, again=False),
    "again": partial(killed, again=True),
    "storm": stormed,
    "careless": stormed_taking_what_comes,
    "agreed": agreed,
}


def main(kinds: str, runs: int = 1, seed: int = 0) -> None:
    for kind in kinds.split(","):
        torch.set_default_dtype(torch.float32 if kind in ("undisturbed", "agreed") else torch.float64)
        for number in range(seed, seed + runs):
            with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
                print(json.dumps(KINDS[kind](Path(folder), number)), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], *map(int, sys.argv[2:]))
