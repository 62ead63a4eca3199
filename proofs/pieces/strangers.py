"""What a stranger to a federation, and another user of its machine, can try: each move says whether it succeeded.

Every move is bounded in count and time, and is for servers on this machine only.
"""

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, StopRunRequest, UnregisterNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

SIZE = 400 << 20  # bytes of a body
GROWTH = 5 << 20  # bytes that the server may grow by
SLOW = 300  # connections
REFUSED = (httpx.HTTPError, OSError)
OTHER_USER = 65534
# Run as another user, by the standard library alone: tokens on command lines, doors on loopback, secrets in folders.
LOOKING = """
import re, ssl, sys, urllib.request, urllib.error
from pathlib import Path
found = []
for process in sys.argv[3].split(","):
    try:
        words = Path("/proc", process, "cmdline").read_bytes().split(bytes(1))
    except OSError:
        continue
    found += ["a token on a command line" for word in words if word == b"--token"]
def listening():
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        yield from (int(row.split()[1].rpartition(":")[2], 16) for row in rows if row.split()[3] == "0A")
trust = ssl._create_unverified_context()
doors = {int(p) for p in sys.argv[2].split(",") if p} & set(listening())
for port in doors:
    for call in ("control/list-runs", "runtime/acquire-task"):
        for scheme in ("http", "https"):
            request = urllib.request.Request(f"{scheme}://127.0.0.1:{port}/v1/{call}", b"", method="POST",
                                             headers={"content-type": "application/protobuf"})
            try:
                with urllib.request.urlopen(request, timeout=5, context=trust if scheme == "https" else None):
                    found.append(f"{call} is open")
            except (OSError, ValueError, urllib.error.URLError):
                pass
try:
    for path in Path(sys.argv[1]).rglob("*.key"):
        path.read_bytes()
        found.append(f"{path.name} can be read")
except OSError:
    pass
print("; ".join(sorted(set(found))))
"""


class Target(NamedTuple):
    """A server on this machine.

    Attributes:
        process: whose memory is measured.
        folder: of the federation.
        ports: on loopback, of this server's processes.
    """

    port: int
    authority: Path
    process: int
    folder: Path

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"


def unregister(target: Target) -> bool:
    """Throw every node out, by the control API."""
    with _control(target) as client:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
        for node in nodes:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
    return bool(nodes)


def stop(target: Target) -> bool:
    """End every run, by the control API."""
    with _control(target) as client:
        runs = [run for run, about in client.ListRuns(ListRunsRequest()).run_dict.items() if not about.finished_at]
        return any(client.StopRun(StopRunRequest(run_id=run)).success for run in runs)


def take_token(target: Target) -> bool:
    """Take the token of the server half's task by the runtime API, and end the task with it."""
    with RuntimeHttpClient.from_server_address(target.address, False, str(target.authority), []) as client:
        token = client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"])).token
    if not token:
        return False
    words = [RuntimeTokenHttpInterceptor(token=token)]
    with RuntimeHttpClient.from_server_address(target.address, False, str(target.authority), words) as client:
        client.PushTaskOutput(PushTaskOutputRequest(sub_status="failed", details="a stranger's"))
    return True


def large_body(target: Target) -> bool:
    """400 MB without a key: whether the server grew by them."""
    before, most, piece, sent = resident(target.process), 0, bytes(1 << 20), 0
    words = ["host: localhost", "content-type: application/protobuf", f"content-length: {SIZE}", "", ""]
    head = "\r\n".join(["POST /v1/fleet/push-object HTTP/1.1", *words]).encode()
    with suppress(OSError), _connected(target) as peer:
        peer.sendall(head)
        while sent < SIZE:
            peer.sendall(piece)
            sent += len(piece)
            most = max(most, resident(target.process) - before)
        peer.setblocking(False)
        for _ in range(50):  # it may still be reading
            most = max(most, resident(target.process) - before)
            time.sleep(0.1)
    print(f"    of a body of {SIZE >> 20} MB {sent >> 20} MB were taken; the server grew by {most / 2**20:.1f} MB")
    return most >= GROWTH


def slow_connections(target: Target, seconds: float) -> int:
    """300 connections that begin a request and do not end it, opened again when they are closed; how many in all."""
    end, opened = time.monotonic() + seconds, 0
    with ExitStack() as stack:
        peers: list[socket.socket | None] = [None] * SLOW
        while time.monotonic() < end:
            for number, peer in enumerate(peers):
                if peer is None or _is_ended(peer):
                    with suppress(OSError):
                        peers[number] = stack.enter_context(_connected(target, 2.0))
                        opened += 1
                        peers[number].sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nx: ")  # type: ignore[union-attr]
            time.sleep(0.2)
    return opened


def look_around(target: Target, processes: set[int]) -> str:
    """As another user of this machine: what was found of these processes."""
    lists = [",".join(map(str, numbers)) for numbers in (ports_of(processes), processes)]
    program = ["/usr/bin/python3", "-I", "-c", LOOKING, str(target.folder), *lists]
    if os.getuid() != 0:
        print("    another user: NOT TRIED (that needs root, to become another)")
        return ""
    done = subprocess.run(program, user=OTHER_USER, group=OTHER_USER, extra_groups=[], capture_output=True, text=True,
                          cwd="/", timeout=120, check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"looking around as another user failed: {done.stderr.strip()}")
    return done.stdout.strip()


def tried(move: Callable[[Target], bool], target: Target) -> bool:
    """Whether the move succeeded; one that is refused did not."""
    try:
        return move(target)
    except REFUSED as error:
        print(f"    {move.__name__}: {type(error).__name__}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
        return False


def resident(process: int) -> int:
    """Bytes of memory of a process."""
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ports_of(processes: set[int]) -> list[int]:
    """On which these processes listen."""
    inodes = set()
    for process in processes:
        with suppress(OSError):
            for place in Path(f"/proc/{process}/fd").iterdir():
                inodes.add(os.readlink(place).removeprefix("socket:[").removesuffix("]"))
    rows = [row.split() for t in ("tcp", "tcp6") for row in Path(f"/proc/net/{t}").read_text().splitlines()[1:]]
    return sorted({int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes})


def family(process: int) -> set[int]:
    """A process and all that it started."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _control(target: Target) -> Any:
    return ControlHttpClient.from_server_address(target.address, False, str(target.authority), [])


def _connected(target: Target, patience: float = 10.0) -> socket.socket:
    trusted = ssl.create_default_context(cafile=str(target.authority))
    plain = socket.create_connection(("127.0.0.1", target.port), patience)
    try:
        return trusted.wrap_socket(plain, server_hostname="localhost")
    except OSError:
        plain.close()
        raise


def _is_ended(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
