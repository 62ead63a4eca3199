"""What a round over Flower costs: rounds of ours beside empty ones by Flower's own programs, at the same time.

Two federations of two nodes each run at once on this machine, both over TLS with registered keys. Flower's is empty: a
ServerApp that sends an empty message to each node and waits for the answers (looking for them as often as ours does),
and a ClientApp that returns one. Ours trains: the same messages with a model in them, local steps, checks, seals, sums,
and a journal flushed to disk; with ten and a hundred times the local steps, too.

Band: a round of ours takes at most 1.15 times an empty one, by the medians.

    python benchmarks/federation.py
    python benchmarks/federation.py --rounds 40
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from figures import Figure, arguments, progress, report
from rich.progress import Progress

from seedbed.deployment.flower import certificates
from seedbed.deployment.flower.app_bundle import write_app_bundle
from seedbed.deployment.flower.flower_processes import Child, command

MEMBERS = ("a", "b")
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
BAND = 1.15
SETTINGS = {"10 local steps": 10, "100 local steps": 100, "1,000 local steps": 1000}  # of a message
EMPTY = """
import os, time
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.query()
def query(message, context):
    return Message(RecordDict(), reply_to=message)


@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.25)
    with open(os.environ["ROUNDS"], "a", buffering=1) as file:
        while True:
            print(time.time(), file=file)
            asked = list(grid.push_messages([Message(RecordDict(), node, "query") for node in nodes]))
            while asked:
                there = {reply.metadata.reply_to_message_id for reply in grid.pull_messages(asked)}
                asked = [number for number in asked if number not in there]
                time.sleep(0.25)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def empty(folder: Path) -> Iterator[Path]:
    """Flower's own federation; the file that it writes the beginning of each round to."""
    app, port, rounds = folder / "app", free_port(), folder / "rounds"
    write_app_bundle(app, "empty", EMPTY)
    certificates.make_authority(folder, "empty")
    certificates.make_certificate(folder, ["localhost", "127.0.0.1"])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": str(folder / "home"), "ROUNDS": str(rounds)}
    (folder / "home").mkdir()
    where = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
    (folder / "home" / "config.toml").write_text(f'{where}root-certificates = "{folder / certificates.CA}"\n')
    own = [
        "--ssl-ca-certfile",
        certificates.CA,
        "--ssl-certfile",
        certificates.CERTIFICATE,
        "--ssl-keyfile",
        certificates.KEY,
    ]
    own = [word if word.startswith("--") else str(folder / word) for word in own]
    with ExitStack() as stack:

        def started(words: list[str], name: str) -> None:
            stack.callback(Child(words, env, folder / f"{name}.log").stop)

        started([command("flower-superlink"), *own, "--enable-supernode-auth", "--host", "127.0.0.1", "--port",
                 str(port), "--disable-runtime-dependency-installation"], "superlink")  # fmt: skip
        time.sleep(8)
        for member in MEMBERS:
            (folder / member).mkdir()
            (folder / f"{member}.pub").write_bytes(certificates.make_node_key(folder / member))
            told = [command("flwr"), "supernode", "register", str(folder / f"{member}.pub"), "here"]
            subprocess.run(told, env=env, check=True, capture_output=True)
            started([command("flower-supernode"), "--root-certificates", str(folder / certificates.CA), "--superlink",
                     f"localhost:{port}", "--auth-supernode-private-key", str(folder / member / certificates.NODE_KEY),
                     "--port", str(free_port())], member)  # fmt: skip
        subprocess.run([command("flwr"), "run", str(app), "here"], env=env, check=True, capture_output=True)
        yield rounds


@contextmanager
def ours(folder: Path, *, steps: int, rounds: int) -> Iterator[Path]:
    """Our federation of a small net on made-up rows; its server's log."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for member in MEMBERS:
        np.savez(folder / f"{member}.npz", x=rng.normal(size=(200, 20)).astype(np.float32), y=rng.integers(0, 2, 200))
    seedbed, directory = [sys.executable, "-m", "seedbed"], folder / "federation"
    words = ["federation", "init", str(directory), "--nodes", *MEMBERS, "--like", str(folder / "a.npz")]
    words += ["--algorithm", "fedavg", "--rounds", str(rounds), "--port", str(free_port())]
    subprocess.run([*seedbed, *words, "--set", f"task.steps={steps}"], check=True, capture_output=True)
    commands = [["serve", str(directory), "--listen", "127.0.0.1"]]
    commands += [["join", str(directory / "nodes" / m), "--data", str(folder / f"{m}.npz")] for m in MEMBERS]
    with ExitStack() as stack:
        for number, words in enumerate(commands):
            stack.callback(Child([*seedbed, *words], os.environ, folder / f"{number}.log").stop)
        yield directory / "server" / "run" / "log.jsonl"


def begun(log: Path) -> list[float]:
    """When each of our rounds ended, which is when the next begins."""
    if not log.exists():
        return []
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [datetime.fromisoformat(e["time"]).timestamp() for e in events if e["event"] == "COMMITTED"]


def lengths(times: list[float], since: float = 0.0) -> list[float]:
    return [b - a for a, b in pairwise(times) if a >= since]


def measured(beside: Path, log: Path, rounds: int, bar: Progress, name: str) -> tuple[list[float], list[float]]:
    """The lengths of our rounds, and of the empty ones of the same time."""
    row = bar.add_task(name, total=rounds)
    while len(times := begun(log)) < rounds:
        bar.update(row, completed=len(times))
        time.sleep(1)
    bar.update(row, completed=rounds)
    return lengths(times), lengths([float(line) for line in beside.read_text().split()], times[0])


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=20, help="of ours, in each setting")
    settings = parser.parse_args()
    began, figures = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder, empty(Path(folder) / "empty") as beside, progress() as bar:
        for name, steps in SETTINGS.items():
            with ours(Path(folder) / str(len(figures)), steps=steps, rounds=settings.rounds) as log:
                mine, theirs = measured(beside, log, settings.rounds, bar, name)
            a, b = statistics.median(mine), statistics.median(theirs)
            said = f"{a:.2f} s, empty {b:.2f} s ({len(mine)} and {len(theirs)} rounds)"
            figures.append(Figure(f"ours / empty: {name}", a / b, published=said, at_most=None if figures else BAND))
    return report("a round over Flower, two nodes", figures, settings=settings, began=began)


if __name__ == "__main__":
    sys.exit(main())
