"""Four hospitals over Flower: TLS, registered keys, refusals, kills; as simulated, bit for bit (about 15 minutes)

python proofs/hospitals.py                  all parts
python proofs/hospitals.py path kills       some of: path, refusals, kills, node, control, proxy
"""

import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch

import seedbed as sb
from seedbed import tree
from seedbed.data import readers
from seedbed.deployment.agreement import Agreement
from seedbed.deployment.flower import certificates
from seedbed.deployment.flower.app_bundle import write_app_bundle
from seedbed.deployment.flower.flower_processes import Child, command, environment
from seedbed.deployment.server_folder import open_node
from seedbed.errors import InputError
from seedbed.serialization import tensors_from_bytes

SEEDBED = [sys.executable, "-m", "seedbed"]
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"]
PATIENCE = 900.0  # seconds for a federation


def hospitals(folder: Path) -> dict[str, Path]:
    """A CSV file each, of the patients without missing values."""
    source, files = readers.data_root() / "heart_disease", {}
    for name in HOSPITALS:
        path = source / f"processed.{name}.data"
        if not path.exists():
            raise InputError(
                f"{path} is not there: `seedbed data get heart_disease` fetches it; say where by SEEDBED_DATA"
            )
        rows = pd.read_csv(path, header=None, na_values="?")
        table = rows[range(10)].set_axis(COLUMNS, axis=1).assign(ill=(rows[13] > 0).map({True: "yes", False: "no"}))
        files[name] = folder / f"{name}.csv"
        table.dropna().to_csv(files[name], index=False)
    return files


def founded(folder: Path, files: dict[str, Path], *words: str) -> tuple[Path, int]:
    """By the command, on a port that is free."""
    port, directory = free_port(), folder / "federation"
    ran(["federation", "init", str(directory), "--nodes", *files, "--like", str(files["va"]), "--port", str(port),
         "--set", "reader.target=ill", *words])  # fmt: skip
    return directory, port


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ran(words: list[str]) -> str:
    done = subprocess.run([*SEEDBED, *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise RuntimeError(f"seedbed {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Running:
    """A command at work, with what it says in a file."""

    all: ClassVar[list["Running"]] = []

    def __init__(self, words: list[str], log: Path):
        self.log = log
        with open(log, "ab") as file:
            self.process = subprocess.Popen([*SEEDBED, *words], stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        Running.all.append(self)

    def wait(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


def serving(directory: Path) -> Running:
    return Running(["serve", str(directory), "--listen", "127.0.0.1"], directory.parent / "serve.log")


def joining(directory: Path, name: str, data: Path) -> Running:
    return Running(["join", str(directory / "nodes" / name), "--data", str(data)], directory.parent / f"{name}.log")


@contextmanager
def joined(directory: Path, files: dict[str, Path]) -> Iterator[dict[str, Running]]:
    nodes = {name: joining(directory, name, data) for name, data in files.items()}
    try:
        yield nodes
    finally:
        for node in nodes.values():
            if node.process.poll() is None:
                node.process.terminate()
                node.wait(60)


def simulated(folder: Path, files: dict[str, Path], directory: Path) -> tuple[sb.ServerState, sb.ServerState]:
    """All rows in one table, by the ordinary reader and rounds: in whole numbers as a server adds, and in floats."""
    agreement = Agreement.read(directory / "server")
    whole = pd.concat([pd.read_csv(path).assign(hospital=name) for name, path in files.items()])
    whole.to_csv(folder / "all.csv", index=False)
    population = readers.read(str(folder / "all.csv"), target="ill", client="hospital", standardise="own")
    seed = agreement.settings.seed
    train, _ = population.hold_out(agreement.settings.hold_out, seed=seed)
    source = sb.Sampled(train, agreement.sampler, seed=seed)
    states = []
    for reduce in (agreement.terms.reduce(agreement.algorithm), agreement.algorithm.reduce):
        algorithm = replace(agreement.algorithm, reduce=reduce)
        schedule = sb.synchronous(algorithm, sb.OneByOne(source), algorithm.init(agreement.model.params), seed=seed)
        states.append([next(schedule) for _ in range(agreement.settings.rounds or 0)][-1].state)
    return states[0], states[1]


def trained(directory: Path) -> dict[str, torch.Tensor]:
    path = directory / "server" / "run" / "model.safetensors"
    return {n.removeprefix("params."): v for n, v in tensors_from_bytes(path.read_bytes(), str(path)).items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


# ---- the parts ------------------------------------------------------------------------------------------------------


def path(folder: Path) -> bool:
    """The guide's path: 15 rounds of FedAvg and of Per-FedAvg, then every member adapts."""
    good = True
    for name in ("fedavg", "per_fedavg"):
        here = folder / name
        here.mkdir()
        files, begun = hospitals(here), time.monotonic()
        directory, _ = founded(here, files, "--algorithm", name, "--rounds", "15")
        with joined(directory, files) as nodes:
            codes = [serving(directory).wait(), *(node.wait() for node in nodes.values())]
        took = time.monotonic() - begun
        whole, floats = simulated(here, files, directory)
        ours = trained(directory)
        off = max(float((ours[n] - v).abs().max()) for n, v in floats.params.items())
        scores = []
        for member, data in files.items():
            own = here / f"{member}.safetensors"
            said = ran(["adapt", str(directory / "nodes" / member), "--support", str(data), "--query", str(data),
                        "--out", str(own)])  # fmt: skip
            scores.append(f"{member} {said.rsplit(maxsplit=1)[-1]}")
        equal = same(ours, dict(whole.params))
        print(f"path: {name}, 15 rounds in {took:.0f} s: as simulated {'bit for bit' if equal else 'NOT'}, "
              f"{off:.1e} off sums in floats; own models right on their rows: {', '.join(scores)}")  # fmt: skip
        good &= equal and off <= 1e-6 and not any(codes)
    return good


def refusals(folder: Path) -> bool:
    """An unregistered key, an expired certificate, a plaintext client, a node of another run."""
    files = hospitals(folder)
    directory, port = founded(folder, files, "--rounds", "2", "--set", "federation.deadline=20")
    (folder / "other").mkdir()
    other, _ = founded(folder / "other", files, "--rounds", "2", "--set", "seed=1")
    refused = {}
    log, public = directory / "server" / "flower" / "superlink.log", directory / "server" / "public" / "va.pub"
    text = public.read_bytes()
    public.unlink()
    server = serving(directory)
    quiet = environment(folder / "plain")
    words = ["--insecure", "--superlink", f"localhost:{port}", "--port", "0", "--max-retries", "1"]
    done = subprocess.run([command("flower-supernode"), *words], env=quiet, capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    refused["a plaintext client"] = done.returncode != 0 and "Activated" not in log.read_text()
    stranger = joining(directory, "va", files["va"])
    refused["an unregistered key"] = stranger.wait(240) == 2 and "Activated" not in log.read_text()
    print("  unregistered:", stranger.said.strip().splitlines()[-1])
    server.process.terminate()
    server.wait(60)
    public.write_bytes(text)
    certificates.make_certificate(directory / "server", ["localhost", "127.0.0.1"], valid=timedelta(days=-1))
    ends = ran_out(["serve", str(directory)])
    print("  expired, the server:", ends)
    with expired(directory, port) as link:
        node = joining(directory, "va", files["va"])
        time.sleep(25)
        refused["an expired certificate"] = "expired" in ends and "Activated" not in link.said
        node.process.terminate()
        node.wait(60)
    print("  expired, a node:", node.said.strip().splitlines()[-1])
    certificates.make_certificate(directory / "server", ["localhost", "127.0.0.1"])
    stray = directory / "nodes" / "va"  # keys of this federation, settings of another
    shutil.copyfile(other / "nodes" / "va" / "agreement.json", stray / "agreement.json")
    server, node = serving(directory), joining(directory, "va", files["va"])
    refused["a node of another run"] = node.wait(120) == 2 and "another run" in node.said
    print("  another run:", node.said.strip().splitlines()[-1])
    server.process.terminate()
    server.wait(60)
    for what, is_so in refused.items():
        print(f"refusals: {what}: {'refused' if is_so else 'NOT REFUSED'}")
    print(f"refusals: {sum(refused.values())} of {len(refused)}")
    return all(refused.values())


def ran_out(words: list[str]) -> str:
    done = subprocess.run([*SEEDBED, *words], capture_output=True, text=True, timeout=120, check=False)
    return done.stderr.strip() if done.returncode == 2 else f"it ended with {done.returncode}"


@contextmanager
def expired(directory: Path, port: int) -> Iterator[Child]:
    """Flower's server behind an expired certificate, which `seedbed serve` would not start."""
    folder = directory / "server"
    home = folder / "expired"
    words = [
        "--ssl-ca-certfile",
        str(folder / certificates.CA),
        "--ssl-certfile",
        str(folder / certificates.CERTIFICATE),
    ]
    words += ["--ssl-keyfile", str(folder / certificates.KEY), "--enable-supernode-auth", "--host", "127.0.0.1"]
    child = Child([command("flower-superlink"), *words, "--port", str(port)], environment(home), home / "log")
    try:
        yield child
    finally:
        child.stop()


def kills(folder: Path, times: int = 4) -> bool:
    """The server, all of its processes, by SIGKILL at random instants; the same command again."""
    files, draw = hospitals(folder), random.Random(0)
    directory, _ = founded(folder, files, "--algorithm", "per_fedavg", "--rounds", "8")
    killed = []
    with joined(directory, files) as nodes:
        for _ in range(times):
            server = serving(directory)
            begun, instant = time.monotonic(), draw.uniform(5, 45)
            while time.monotonic() < begun + instant and server.process.poll() is None:
                time.sleep(0.05)
            if server.process.poll() is None:
                killed.append(kill_all(directory))
                server.wait()
        codes = [serving(directory).wait(), *(node.wait() for node in nodes.values())]
    whole, _ = simulated(folder, files, directory)
    equal = same(trained(directory), dict(whole.params))
    print(f"kills: {len(killed)} times the server's processes ({min(killed, default=0)} to {max(killed, default=0)} of "
          f"them) were killed: the model is {'the same, bit for bit' if equal else 'ANOTHER'}")  # fmt: skip
    return equal and len(killed) >= 3 and not any(codes)


def kill_all(directory: Path) -> int:
    """Every process of the server, at once: those that have its folder in their words or their environment."""
    mark, found = str((directory / "server").resolve()).encode(), []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            try:
                about = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
            except OSError:
                continue
            if mark in about or (b"serve\0" + str(directory).encode()) in about:
                found.append(int(place.name))
    for process in found:
        os.kill(process, signal.SIGKILL)
    return len(found)


def node(folder: Path) -> bool:
    """A member's node by SIGKILL in the middle of a round's work; the same command again."""
    files = hospitals(folder)
    directory, _ = founded(folder, files, "--algorithm", "scaffold", "--rounds", "6")
    with joined(directory, files) as nodes:
        server = serving(directory)
        for round in (2, 4):
            while f"round {round}: done" not in server.said and server.process.poll() is None:
                time.sleep(0.2)
            time.sleep(2)
            nodes["va"].process.kill()
            nodes["va"].wait()
            nodes["va"] = joining(directory, "va", files["va"])
        codes = [server.wait(), *(node.wait() for node in nodes.values())]
    whole, _ = simulated(folder, files, directory)
    kept = open_node(directory / "nodes" / "va", files["va"]).memory.kept
    equal = same(trained(directory), dict(whole.params))
    print(f"node: killed twice, its memory of {len(tree.leaves(kept))} tensors is there; the model is "
          f"{'the same, bit for bit' if equal else 'ANOTHER'}")  # fmt: skip
    return equal and bool(tree.leaves(kept)) and not any(codes)


def control(folder: Path) -> bool:
    """Flower's control API is not to be reached: an app is not taken, a run is not stopped, nothing is run."""
    files, marks = hospitals(folder), folder / "marks"
    directory, port = founded(folder, files, "--rounds", "4")
    marks.mkdir()
    evil = folder / "evil"
    write_app_bundle(evil, "evil", EVIL.replace("MARKS", str(marks)))
    home = folder / "home"
    env = environment(home)
    where = f'[superlink]\ndefault = "federation"\n\n[superlink.federation]\naddress = "127.0.0.1:{port}"\n'
    (home / "config.toml").write_text(f'{where}root-certificates = "{directory / "server" / certificates.CA}"\n')

    def flwr(*words: str) -> int:
        return subprocess.run([command("flwr"), *words], env=env, capture_output=True, check=False).returncode

    server = serving(directory)
    with joined(directory, files) as nodes:
        while "round 1: done" not in server.said and server.process.poll() is None:
            time.sleep(0.5)
        taken = flwr("run", str(evil), "federation") == 0
        for mark in marks.iterdir():  # `flwr run` itself imports what it sends
            mark.unlink()
        stopped = flwr("stop", "1", "federation") == 0
        codes = [server.wait(), *(node.wait() for node in nodes.values())]
    whole, _ = simulated(folder, files, directory)
    equal = not any(codes) and same(trained(directory), dict(whole.params))
    run = sorted(mark.name for mark in marks.iterdir())
    print(f"control: an app handed in was {'TAKEN' if taken else 'not taken'}, {run or 'nothing'} of it ran; a stop "
          f"was {'TAKEN' if stopped else 'not taken'}; the model is {'the same' if equal else 'ANOTHER'}")  # fmt: skip
    return not taken and not run and not stopped and equal


EVIL = """import sys
from pathlib import Path
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

Path("MARKS", Path(sys.argv[0]).name).touch()
client = ClientApp()
server = ServerApp()


@server.main()
def main(grid, context):
    Path("MARKS", "server").touch()
"""


def proxy(folder: Path) -> bool:
    """Members through nginx, by the file that `init` wrote; Flower's control API is not to be reached that way."""
    nginx = shutil.which("nginx")
    if nginx is None:
        print("proxy: nginx is not installed: NOT TRIED")
        return True
    files = hospitals(folder)
    directory, port = founded(folder, files, "--rounds", "2")
    inner = free_port()
    part = (directory / "proxy.conf").read_text()
    for name in (certificates.CA, certificates.CERTIFICATE, certificates.KEY):
        part = part.replace(f"/etc/seedbed/{name}", str(directory / "server" / name))
    whole = folder / "nginx.conf"
    own = f"daemon off; pid {folder}/pid; error_log {folder}/nginx.log; events {{}}"
    whole.write_text(f"{own} http {{ access_log off; {part.replace(':8000', f':{inner}')} }}")
    words = ["serve", str(directory), "--listen", "127.0.0.1", "--port", str(inner)]
    server = Running(words, folder / "serve.log")
    door = subprocess.Popen([nginx, "-c", str(whole)], stdin=subprocess.DEVNULL)
    trusted = ssl.create_default_context(cafile=str(directory / "server" / certificates.CA))
    try:
        with joined(directory, files) as nodes:
            codes = [server.wait(300), *(node.wait() for node in nodes.values())]
        try:
            urllib.request.urlopen(f"https://localhost:{port}/v1/control/list-runs", b"", context=trusted)
            closed = False
        except urllib.error.HTTPError as error:
            closed = error.code == 403
    finally:
        door.terminate()
        door.wait()
        if server.process.poll() is None:
            server.process.terminate()
    whole_model, _ = simulated(folder, files, directory)
    equal = not any(codes) and same(trained(directory), dict(whole_model.params))
    print(f"proxy: the model through nginx is {'the same' if equal else 'ANOTHER'}; the control API is "
          f"{'closed' if closed else 'OPEN'}")  # fmt: skip
    return equal and closed


PARTS: dict[str, Callable[[Path], bool]] = {
    "path": path,
    "refusals": refusals,
    "kills": kills,
    "node": node,
    "control": control,
    "proxy": proxy,
}


def main() -> int:
    good = True
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                good &= PARTS[name](Path(folder))
            finally:
                for running in Running.all:
                    running.process.terminate()
                    running.wait(60)
    print("all of it holds" if good else "it does NOT hold")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
