"""Really killing a server and nodes: processes that are sent SIGKILL at random instants and started again.

Run as a program of its own, so that it is free to fork: python killing.py server|node KILLS SEED EACH -> one JSON line.
EACH: kills of one run.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from federation.bench import node, serve

from seedbed import randomness
from seedbed.deployment.federation.local_transport import LocalTransport, run_local_node

WHO, ROUNDS, NAME = (0, 1, 2), 5, "scaffold"
COMPARED = ("model.safetensors", "metrics.jsonl")
MEMORY = Path("/dev/shm")


class Federation:
    """A server's and three nodes' processes around one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.nodes = {client: self.start_node(client) for client in WHO}
        self.server = 0

    def start_node(self, client: int) -> int:
        return forked(lambda: run_local_node(node(NAME, client, self.folder), self.folder / "socket", pause=0.01))

    def start_server(self) -> None:
        def work() -> None:
            transport = LocalTransport(self.folder / "socket")
            list(serve(NAME, self.folder, transport, rounds=ROUNDS, clients=WHO, again=0.5).rounds())

        self.server = forked(work)

    def finish(self) -> bool:
        """Wait for the server's own end; whether it was a good one."""
        _, status = os.waitpid(self.server, 0)
        for client in WHO:
            slay(self.nodes[client])
        return os.waitstatus_to_exitcode(status) == 0

    def files(self) -> dict[str, bytes]:
        found = {name: self.folder / "server" / name for name in COMPARED}
        found |= {f"node {c}": self.folder / f"node-{c}" / "memory.safetensors" for c in WHO}
        return {name: path.read_bytes() for name, path in found.items()}

    def ledger(self) -> list[str]:
        """Digests of the letters that models hold."""
        lines = (self.folder / "server" / "journal.log").read_bytes().splitlines()
        records = [json.loads(line.split(b" ", 3)[3]) for line in lines]
        accepted = {(r["round"], r["client"]): r["letter"] for r in records if r["state"] == "ACCEPTED"}
        made = [r for r in records if r["state"] == "AGGREGATED"]
        return [accepted[r["round"], c] for r in made for c in r["clients"]]


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def slay(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def undisturbed(folder: Path) -> tuple[dict[str, bytes], float]:
    """Its files, and how long it takes."""
    federation, start = Federation(folder), time.monotonic()
    federation.start_server()
    assert federation.finish()
    return federation.files(), time.monotonic() - start


def kill_server(folder: Path, delays: list[float]) -> Federation:
    """Killed after each of these seconds and started again by the same call, and then left alone."""
    federation = Federation(folder)
    for delay in delays:
        federation.start_server()
        time.sleep(delay)
        slay(federation.server)
    federation.start_server()
    assert federation.finish()
    return federation


def kill_nodes(folder: Path, delays: list[float], victims: list[int]) -> Federation:
    """Nodes killed, one after each delay, and started again."""
    federation = Federation(folder)
    federation.start_server()
    for delay, client in zip(delays, victims, strict=True):
        time.sleep(delay)
        slay(federation.nodes[client])
        federation.nodes[client] = federation.start_node(client)
    assert federation.finish()
    return federation


def main(what: str, kills: int, seed: int, each: int) -> int:
    rng = randomness.generator(seed, "kills")
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        want, seconds = undisturbed(Path(folder) / "whole")
        same_files, records, done = 0, [], 0
        for number in range(-(-kills // each)):
            out, count = Path(folder) / f"{number}", min(each, kills - done)
            delays = [float(d) for d in rng.uniform(0, seconds, count)]
            if what == "server":
                federation = kill_server(out, delays)
            else:
                federation = kill_nodes(out, [d / count for d in delays], [int(c) for c in rng.choice(WHO, count)])
            ledger = federation.ledger()
            good = federation.files() == want and len(set(ledger)) == len(ledger) == ROUNDS * len(WHO)
            same_files, done = same_files + good * count, done + count
            records.append((federation.folder / "server" / "log.jsonl").read_text().count('"event": "open"'))
        print(json.dumps({"kills": done, "same": same_files, "seconds": round(seconds, 2), "starts": sum(records)}))
    return 0 if same_files == done else 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
