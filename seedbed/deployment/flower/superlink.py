"""Flower's server within this process: nodes reach it through the gate, the federation's server calls it directly.

Flower's own `flower-superlink` serves its control and runtime API to everyone that reaches its port, and passes a run's
token to a process on its command line. Here neither API is on any port, so there is no token to steal and no run to
stop. Flower's state is in memory and rebuilt from the folder of keys at each start; only the journal is persistent.
"""

import asyncio
import hashlib
import logging
import logging.handlers
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flwr.cli.build import build_fab_from_files
from flwr.cli.config_utils import get_fab_metadata
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.date import now
from flwr.supercore.fab import Fab
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.superlink.servicer.runtime import runtime_handlers

from seedbed.deployment.flower.app_bundle import app_files
from seedbed.deployment.flower.gate import Gate
from seedbed.deployment.flower.key_roster import KeyRoster
from seedbed.deployment.flower.listener import Listener
from seedbed.errors import InputError

SWEEP = 60.0  # seconds between removals of data that will never be fetched
SERVER_HEARTBEAT = 5.0  # seconds between heartbeats of the server's task
LOG_BYTES = 4 << 20  # size of a log file; there are two
MOST_PARTS = 8  # limit on the objects of an answer: a node's has three
PARTS = '"""Neither server nor nodes load this: they run what is installed with Seedbed."""\nserver = client = None\n'


class SuperLink:
    """Serves the nodes whose public keys are in a folder, until it is closed.

    Args:
        public: the folder of .pub files; changes take effect at once.
        letter: bytes of the largest message that a node sends.
        log: the file for Flower's and the gate's log.
        remark: called with a line for people when a node is refused.
    Raises:
        InputError: a file in `public` is not a valid key.
    """

    def __init__(self, public: Path, letter: int, log: Path, remark: Callable[[str], object]):
        _log_to(log)
        app = create_app(_config(), SuperLinkLifespan)
        self._state: Any = app.state.linkstate_factory.state()
        self._roster = KeyRoster(public, self._register)
        self._gate = Gate(app, self._roster, letter, remark)
        self._task = self._start_run()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._serving: asyncio.Task[None] | None = None
        self.failed: BaseException | None = None

    @property
    def grid(self) -> HttpGrid:
        """The grid with which the federation's server sends messages."""
        grid = HttpGrid(token="none")  # its client is replaced: nothing is sent over HTTP
        grid._client = DirectClient(self)  # type: ignore[assignment]
        [run] = self._state.get_run_info(run_ids=[self._task.run_id])
        grid.set_run(run)
        return grid

    def open(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        """Serve nodes on this port."""
        self._loop = asyncio.new_event_loop()
        self._serving = self._loop.create_task(self._serve(listening, context))
        self._thread = threading.Thread(target=self._run, args=(self._loop, self._serving), daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._loop and self._serving and self._thread and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._serving.cancel)
            self._thread.join()

    def call(self, handler: Callable[..., Any], request: Any) -> Any:
        """Run one of Flower's handlers for the federation's server.

        Raises:
            InputError: the port is no longer served.
        """
        if self.failed is not None:
            raise InputError(f"the server's port failed: {self.failed}")
        return handler(request, self._state, self._task)

    def answers(self, request: PullAppMessagesRequest) -> Any:
        """Take at most one answer, plus the errors of messages that will get none.

        Flower would wait for the objects of an answer that its node has only announced, and would drop the answer of a
        node that has left. Here an answer is taken once all its objects have arrived, even if its node has left.
        """
        state = self._state
        with state.lock:
            reply_of = state.message_ins_id_to_message_res_id
            parts = {
                n: _count_parts(state.object_store.store, reply_of[n]) for n in request.message_ids if n in reply_of
            }
            state.delete_messages({n for n, (count, _) in parts.items() if count > MOST_PARTS})
            ready = [n for n, (_, complete) in parts.items() if complete and n in state.message_ins_store][:1]
            others = [n for n in request.message_ids if n not in parts]
            with _online(state, ready):
                return self.call(runtime_handlers.pull_messages, PullAppMessagesRequest(message_ids=[*ready, *others]))

    def settle(self, node: int) -> None:
        """Record that an answer of this node was taken."""
        [info] = self._state.get_node_info(node_ids=[node]) or [None]
        if self._loop and info is not None and (caller := self._roster.find_key(info.public_key)):
            self._loop.call_soon_threadsafe(caller.settle)

    def _register(self, pem: bytes) -> None:
        with suppress(ValueError):  # the key was registered before: its node is still known
            self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, pem, HEARTBEAT_DEFAULT_INTERVAL)

    def _start_run(self) -> Task:
        """Start the only run; its task represents the federation's server."""
        content, _ = build_fab_from_files(app_files("parts", PARTS))
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        self._state.store_fab(fab)
        number = self._state.create_run(
            *get_fab_metadata(content), fab.hash_str, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        [run] = self._state.get_run_info(run_ids=[number])
        self._state.claim_task(run.primary_task_id)
        self._state.activate_task(run.primary_task_id)
        [task] = self._state.get_tasks(task_ids=[run.primary_task_id])
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, number  # the sender in messages
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        server_task: Task = task
        return server_task

    def _run(self, loop: asyncio.AbstractEventLoop, serving: "asyncio.Task[None]") -> None:
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(lambda _, about: logging.getLogger("seedbed.gate").info("%s", about))
        try:
            loop.run_until_complete(serving)
        except asyncio.CancelledError:
            pass
        except BaseException as why:
            self.failed = why
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _serve(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Listener(self._gate, context).run(listening))
            tasks.create_task(self._keep())

    async def _keep(self) -> None:
        """Keep the run alive, and remove unfinished data from Flower's memory."""
        orphans: set[str] = set()
        swept = time.monotonic()
        while True:
            self._state.acknowledge_task_heartbeat(self._task.task_id)
            if time.monotonic() > swept + SWEEP:
                orphans, swept = self._sweep(orphans), time.monotonic()
            await asyncio.sleep(SERVER_HEARTBEAT)

    def _sweep(self, before: set[str]) -> set[str]:
        """Delete objects that belonged to no message at the last sweep and still do not; return the current ones."""
        state = self._state
        for session, about in list(state._object_push_sessions.items()):
            if about.expires_at <= now():
                state._cleanup_push_session(session, cleanup_messages=True)
        for number in before:
            state.object_store.delete(number)
        with state.lock, state.object_store.lock_store:
            messages = {*state.message_ins_store, *state.message_res_store}
            return {n for n, e in state.object_store.store.items() if not e.ref_count and n not in messages}


class DirectClient:
    """The calls that Flower's grid makes, as direct function calls."""

    def __init__(self, link: SuperLink):
        self._link = link

    def GetNodes(self, request: Any) -> Any:
        return self._link.call(runtime_handlers.get_nodes, request)

    def PushMessages(self, request: Any) -> Any:
        return self._link.call(runtime_handlers.push_messages, request)

    def PushObject(self, request: Any) -> Any:
        return self._link.call(runtime_handlers.push_object, request)

    def PullMessages(self, request: Any) -> Any:
        response = self._link.answers(request)
        for message in response.messages_list:
            self._link.settle(message.metadata.src_node_id)
        return response

    def PullObject(self, request: Any) -> Any:
        return self._link.call(runtime_handlers.pull_object, request)

    def ConfirmMessageReceived(self, request: Any) -> Any:
        return self._link.call(runtime_handlers.confirm_message_received, request)

    def close(self) -> None:
        pass


def _count_parts(store: Any, number: str) -> tuple[int, bool]:
    """Count an answer's objects, up to a limit, and tell whether all have arrived.

    An object that occurs twice counts twice: otherwise a few objects could form an endless tree.
    """
    count, complete, pending = 0, True, [number]
    while pending and count <= MOST_PARTS:
        entry = store.get(pending.pop())
        count, complete = count + 1, complete and entry is not None and entry.is_available
        pending += entry.child_object_ids if entry else []
    return count, complete


@contextmanager
def _online(state: Any, messages: list[str]) -> Iterator[None]:
    """Make Flower treat the recipients of these messages as online."""
    numbers = {state.message_ins_store[n].metadata.dst_node_id for n in messages}
    nodes = [(node, node.online_until) for n in numbers if (node := state.nodes.get(n)) is not None]
    for node, _ in nodes:
        node.online_until = float("inf")
    try:
        yield
    finally:
        for node, until in nodes:
            node.online_until = until


def _config() -> SuperLinkLifespanConfig:
    """Settings for the application only: no other port, process or file."""
    return SuperLinkLifespanConfig(
        control_address="", health_server_address=None, host="", port=0, insecure=False, certificates=None,
        superexec_auth_secret=secrets.token_bytes(32), authn_plugin=NoOpControlAuthnPlugin(), event_log_plugin=None,
        fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None, enable_supernode_auth=True,
        fleet_api_type="grpc-rere", fleet_api_address=None, simulation=False, ssl_ca_certfile=None, ssl_certfile=None,
        ssl_keyfile=None, database=FLWR_IN_MEMORY_DB_NAME, isolation="process", runtime_dependency_install=False,
    )  # fmt: skip


def _log_to(path: Path) -> None:
    """Send the log of Flower's server to a file of limited size instead of the screen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("flwr", "uvicorn.error", "seedbed.gate"):
        logger = logging.getLogger(name)
        for earlier in list(logger.handlers):
            logger.removeHandler(earlier)
            earlier.close()
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
