"""A federation over Flower under attack by a member, strangers and another local user: as simulated (about 15 minutes)

python proofs/hostile_network.py [--minutes 10]

Three honest members and one that lies train over TLS, while everything below is tried, in turn. Each run must end with
the model of the simulation in which the liar never answers, bit for bit. At the end the strangers' moves are tried on
Flower's own SuperLink: there they have to succeed, or they would show nothing here.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import torch
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from hospitals import SEEDBED, Running, free_port, joined, ran, same, serving, trained
from pieces.strangers import (
    SLOW,
    Target,
    family,
    large_body,
    look_around,
    resident,
    slow_connections,
    stop,
    take_token,
    tried,
    unregister,
)

import seedbed as sb
from seedbed.data import readers
from seedbed.deployment.agreement import Agreement
from seedbed.deployment.flower import certificates
from seedbed.deployment.flower.app_bundle import write_app_bundle
from seedbed.deployment.flower.flower_processes import Child, command, environment
from seedbed.rounds import synchronous

HONEST, LIAR = ("basel", "bern", "chur"), "davos"
ROUNDS, BEFORE = 120, 6  # of a run; of them before anything but the liar is at work
FLOODED = 10  # log lines of a flood in a round, at least
HOARD = 32 << 20  # bytes that the server may grow by, whatever a registered member sends
MOVES = (unregister, stop, take_token, large_body)


def tables(folder: Path) -> dict[str, Path]:
    """A file each: some 50 made-up patients of two numbers."""
    files = {}
    for i, name in enumerate((*HONEST, LIAR)):
        rng, n = np.random.default_rng(i), 40 + 10 * i
        ill = rng.integers(0, 2, n)
        columns = {"age": 50 + 10 * i + 8 * ill + rng.normal(0, 5, n), "pressure": 18 + 2 * ill + rng.normal(0, 1, n)}
        files[name] = folder / f"{name}.csv"
        pd.DataFrame({**columns, "ill": np.where(ill == 1, "yes", "no")}).to_csv(files[name], index=False)
    return files


def simulated(files: dict[str, Path], agreement: Agreement) -> dict[str, torch.Tensor]:
    """The model of a simulation in which the liar never answers."""
    whole = pd.concat([pd.read_csv(path).assign(hospital=name) for name, path in files.items()])
    path = files[LIAR].parent / "all.csv"
    whole.to_csv(path, index=False)
    population = readers.read(str(path), target="ill", client="hospital", standardise="own")
    seed = agreement.settings.seed
    train, _ = population.hold_out(agreement.settings.hold_out, seed=seed)
    algorithm = replace(agreement.algorithm, reduce=agreement.terms.reduce(agreement.algorithm))
    start = algorithm.init(agreement.model.params)
    engine = sb.OneByOne(sb.Sampled(train, agreement.sampler, seed=seed))
    liar = agreement.number(LIAR)
    rounds = synchronous(
        algorithm, engine, start, seed=seed, answering=lambda cohort, *_: [c for c in cohort if c != liar]
    )
    return dict([next(rounds) for _ in range(ROUNDS)][-1].state.params)


class Attack:
    """All moves in turn against one run of a federation, until it ends."""

    def __init__(self, directory: Path, port: int, server: Running):
        self._directory, self._server = directory, server
        process = server.process.pid
        self.target = Target(port, directory / "server" / certificates.CA, process, directory / "server")
        self.succeeded: list[str] = []
        self.counts: dict[str, int] = {}
        self.slow: list[tuple[float, float]] = []  # when slow connections were open
        self.quiet: list[tuple[float, float]] = []  # when only the liar was at work
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> "Attack":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _go_on(self) -> None:
        while self._at_work() and len(committed(self._directory)) < BEFORE:
            time.sleep(0.2)
        for move in self._forever():
            if not self._at_work():
                return
            name = getattr(move, "__name__", "")
            self.counts[name] = self.counts.get(name, 0) + 1
            try:
                if move():
                    self.succeeded.append(name)
            except (OSError, httpx.HTTPError, subprocess.SubprocessError) as error:  # the run has ended, say
                print(f"    {name}: {type(error).__name__}: {error}")

    def _forever(self) -> Iterator:
        while True:
            yield from (self.strangers, self.slow_lorises, self.second_serve, self.other_user, self.hoarder)
            yield from (self.hammer, self.expelled)

    def _at_work(self) -> bool:
        return self._server.process.poll() is None

    def strangers(self) -> bool:
        """Whether any move of a stranger succeeded."""
        done = [move.__name__ for move in MOVES if self._at_work() and tried(move, self.target)]
        self.succeeded += done
        return bool(done)

    def slow_lorises(self) -> bool:
        begun = time.time()
        time.sleep(20)  # no other move: what the machine does beside it changes by the minute
        self.quiet.append((begun, time.time()))
        slow_connections(self.target, 20)
        self.slow.append((self.quiet[-1][1], time.time()))
        return False  # judged by the rounds meanwhile

    def second_serve(self) -> bool:
        """The same command on the same folder, with the port and with another."""
        bad = False
        for more in ([], ["--port", str(free_port())]):
            words = [*SEEDBED, "serve", str(self._directory), "--listen", "127.0.0.1", *more]
            with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as second:
                while second.poll() is None and self._at_work():  # once the first has ended, it may go on itself
                    time.sleep(0.2)
                second.terminate()
                _, why = second.communicate()
            bad |= self._at_work() and not (second.returncode == 2 and "another server" in why)
        return bad

    def other_user(self) -> bool:
        found = look_around(self.target, everyone())
        if found:
            print(f"    another user found: {found}")
        return bool(found)

    def hoarder(self) -> bool:
        """A registered member stores what nobody asked for, throws itself out, and sends what is too large."""
        before = resident(self.target.process)
        with self._member() as client:
            answers = [self._post(client, "push-object", bytes(200 << 10)) for _ in range(200)]
            other = [self._post(client, "unregister-node", b""), self._post(client, "pull-messages", bytes(1 << 20))]
        grown = resident(self.target.process) - before
        print(f"    a member stored {answers.count(200)} of 200 objects; the server grew by {grown / 2**20:.1f} MB")
        return grown > HOARD or 200 in other

    def hammer(self) -> bool:
        """A registered member calls without a pause, by 20 threads, for 15 seconds."""
        end, calls = time.monotonic() + 15, 0

        def call() -> None:
            nonlocal calls
            with self._member() as client:
                while time.monotonic() < end and self._at_work():
                    with suppress(httpx.HTTPError):
                        self._post(client, "activate-node", self._activation)
                    calls += 1

        threads = [threading.Thread(target=call) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"    {calls / 15:.0f} calls a second of a member's were answered")
        return False

    def expelled(self) -> bool:
        """The liar's key leaves the folder and is put back: whether it was let in without it, or not with it."""
        public = self._directory / "server" / "public" / f"{LIAR}.pub"
        away = public.with_suffix(".away")
        os.rename(public, away)
        try:
            with self._member() as client:
                shut_out = self._post(client, "activate-node", self._activation) == 401
        finally:
            os.rename(away, public)
        with self._member() as client:
            let_in = self._post(client, "activate-node", self._activation) not in (0, 401)
        return self._at_work() and not (shut_out and let_in)

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        own = self._directory / "nodes" / LIAR / certificates.NODE_KEY
        key = serialization.load_ssh_private_key(own.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    @cached_property
    def _public(self) -> bytes:
        form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_key().public_bytes(*form)

    @cached_property
    def _activation(self) -> bytes:
        """A call that Flower answers by 401 only for a key that it does not know."""
        request: bytes = ActivateNodeRequest(public_key=self._public, heartbeat_interval=10).SerializeToString()
        return request

    def _member(self) -> httpx.Client:
        return httpx.Client(verify=str(self.target.authority), timeout=30)

    def _post(self, client: httpx.Client, call: str, body: bytes) -> int:
        """A call by the liar's key; its status, or 0 if the connection was closed on it."""
        stamp, key = datetime.now(UTC).isoformat(), self._key
        heads = {
            "flwr-public-key": b64encode(self._public).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": b64encode(key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))).decode(),
            "content-type": "application/protobuf",
        }
        try:
            url = f"https://{self.target.address}/v1/fleet/{call}"
            return client.post(url, content=body, headers=heads).status_code
        except httpx.TransportError:
            return 0


def everyone() -> set[int]:
    """The processes of the server and of the members on this machine."""
    return {p for running in Running.all if running.process.poll() is None for p in family(running.process.pid)}


def events(directory: Path) -> list[dict[str, Any]]:
    """The server's log."""
    log = directory / "server" / "run" / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def committed(directory: Path) -> list[float]:
    """When each round ended."""
    return [datetime.fromisoformat(e["time"]).timestamp() for e in events(directory) if e["event"] == "COMMITTED"]


def pace_of(times: list[float], spans: list[tuple[float, float]]) -> float:
    """Rounds a second within these spans."""
    return sum(1 for t in times for a, b in spans if a < t < b) / max(1e-9, sum(b - a for a, b in spans))


def reading(directory: Path) -> tuple[float, float]:
    """Median seconds from asking to an honest answer that is read: in rounds without a flood, and with one."""
    asked, quiet, flooded, delays, held = 0.0, list[float](), list[float](), list[float](), 0
    for event in events(directory):
        at = datetime.fromisoformat(event["time"]).timestamp()
        if event["event"] == "SELECTED":
            asked, delays, held = at, [], 0
        if event["event"] == "ACCEPTED":
            delays.append(at - asked)
        held += event["event"] == "held"
        if event["event"] == "COMMITTED":
            (flooded if held >= FLOODED else quiet).extend(delays)
    return statistics.median(quiet), statistics.median(flooded) if flooded else 0.0


@contextmanager
def lying(directory: Path, data: Path) -> Iterator[Path]:
    log = directory.parent / f"{LIAR}.log"
    with open(log, "ab") as file:
        words = [sys.executable, str(Path(__file__).parent / "pieces" / "liar.py")]
        child = subprocess.Popen([*words, str(directory / "nodes" / LIAR), str(data)], stdout=file, stderr=file)
    try:
        yield log
    finally:
        child.kill()
        child.wait()


def run(folder: Path) -> tuple[bool, float]:
    """One federation under attack, from its making to its end; whether it held, and seconds under attack."""
    files, directory, port = tables(folder), folder / "federation", free_port()
    ran(["federation", "init", str(directory), "--nodes", *files, "--like", str(files[LIAR]), "--port", str(port),
         "--rounds", str(ROUNDS), "--set", "reader.target=ill", "--set", "model.name=linear",
         "--set", "cohort=3", "--set", "federation.over=1.3",  # asks all four; three answers close a round
         "--set", "federation.patience=100"])  # fmt: skip
    honest = {name: files[name] for name in HONEST}
    server = serving(directory)
    with (
        joined(directory, honest) as nodes,
        lying(directory, files[LIAR]) as log,
        Attack(directory, port, server) as at,
    ):
        codes = [server.wait(1800)]
        while any(node.process.poll() is None for node in nodes.values()):  # a node that missed the last message
            time.sleep(20)
            if any(node.process.poll() is None for node in nodes.values()):
                serving(directory).wait(300)
        codes += [node.wait() for node in nodes.values()]
    agreement = Agreement.read(directory / "server")
    equal = not any(codes) and same(trained(directory), simulated(files, agreement))
    times = committed(directory)
    pace = statistics.median(b - a for a, b in pairwise(times[:BEFORE]))
    slow = pace_of(times, at.slow) / max(1e-9, pace_of(times, at.quiet))
    lies = {m: log.read_text().count(f": {m}\n") for m in ("nan", "weight", "stale", "flood", "garbage", "silence")}
    print(f"{ROUNDS} rounds, {pace:.1f} s each before the attack: the model is "
          f"{'that of the simulation without the liar' if equal else 'ANOTHER'} (exit codes {codes})")  # fmt: skip
    refused = [e["why"] for e in events(directory) if e["event"] in ("REFUSED", "letter refused", "frame refused")]
    print(f"  of what came {len(refused)} letters were refused ({len(set(refused))} reasons)")
    print(f"  lies: {lies}; moves: {at.counts}; succeeded: {', '.join(at.succeeded) or 'none'}")
    print(f"  beside {SLOW} slow connections {100 * slow:.0f} % of the undisturbed rounds")
    quiet, flooded = reading(directory)
    print(f"  an honest answer is read {quiet:.2f} s after it was asked for, in rounds with a flood {flooded:.2f} s")
    good = (
        equal
        and flooded <= 2 * quiet
        and bool(refused)
        and not at.succeeded
        and (slow >= 0.5 or not at.slow)
        and all(lies.values())
    )
    if not good:
        print(server.said[-3000:])
    return good, times[-1] - times[BEFORE - 1] if len(times) > BEFORE else 0.0


# ---- the same moves on Flower's own server ------------------------------------------------------------------------

EMPTY = """
import time
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@server.main()
def main(grid, context):
    time.sleep(600)
"""


def stock(folder: Path) -> bool:
    """Whether each of a stranger's moves succeeds against Flower's own SuperLink, as they have to."""
    files, directory, port = tables(folder), folder / "federation", free_port()
    ran(["federation", "init", str(directory), "--nodes", *files, "--like", str(files[LIAR]), "--port", str(port),
         "--set", "reader.target=ill"])  # fmt: skip
    own, env = directory / "server", environment(folder / "home")
    where = f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
    (folder / "home" / "config.toml").write_text(f'{where}root-certificates = "{own / certificates.CA}"\n')
    write_app_bundle(folder / "app", "empty", EMPTY)
    words = ["--ssl-ca-certfile", str(own / certificates.CA), "--ssl-certfile", str(own / certificates.CERTIFICATE)]
    words += ["--ssl-keyfile", str(own / certificates.KEY), "--enable-supernode-auth", "--host", "127.0.0.1"]
    words += ["--port", str(port), "--disable-runtime-dependency-installation"]
    link = Child([command("flower-superlink"), *words], env, folder / "superlink.log")

    def flwr(*told: str) -> None:
        for _ in range(30):  # until the server is there
            done = subprocess.run([command("flwr"), *told, "here"], env=env, capture_output=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(2)
        raise RuntimeError(f"flwr {' '.join(told)}: {done.stderr.decode()[-500:]}")

    try:
        for name in files:
            flwr("supernode", "register", str(own / "public" / f"{name}.pub"))
        target = Target(port, own / certificates.CA, link.process, own)
        done = {}
        flwr("run", str(folder / "app"))
        end, found = time.monotonic() + 180, ""
        while "token" not in found and time.monotonic() < end:  # until the server half is started
            time.sleep(2)
            found = look_around(target, family(link.process))
        print(f"    another user found: {found}")
        done["other user"] = "list-runs is open" in found and "a token on a command line" in found
        done["stop"] = tried(stop, target)
        done["token"] = any(_started_and_stolen(flwr, folder / "app", target) for _ in range(5))
        done["unregister"] = tried(unregister, target)
        done["400 MB"] = tried(large_body, target)
    finally:
        started = family(link.process)
        link.stop()
        for process in started:  # Flower detaches some of its own
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    print("on Flower's own server: " + ", ".join(f"{m} {'succeeds' if so else 'FAILS'}" for m, so in done.items()))
    return all(done.values())


def _started_and_stolen(flwr, app: Path, target: Target) -> bool:
    """Start a run, and ask for its token before Flower's own process does."""
    stolen, over = threading.Event(), threading.Event()

    def grab() -> None:
        while not over.is_set() and not stolen.is_set():
            with suppress(httpx.HTTPError):
                if take_token(target):
                    stolen.set()

    thread = threading.Thread(target=grab)
    thread.start()
    flwr("run", str(app))
    stolen.wait(5)
    over.set()
    thread.join()
    return stolen.is_set()


def main() -> int:
    asked = argparse.ArgumentParser()
    asked.add_argument("--minutes", type=float, default=10)
    asked.add_argument("--only", choices=["ours", "stock"])
    words = asked.parse_args()
    good, under = True, 0.0
    while words.only != "stock" and good and under < 60 * words.minutes:
        with tempfile.TemporaryDirectory() as folder:
            try:
                held, seconds = run(Path(folder))
            finally:
                for running in Running.all:
                    running.process.terminate()
                    running.wait(60)
        good, under = good and held and seconds > 0, under + seconds
    if words.only != "ours":
        with tempfile.TemporaryDirectory() as folder:
            good &= stock(Path(folder))
    print(f"{under / 60:.1f} minutes under attack: {'the federation held' if good else 'it did NOT hold'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
