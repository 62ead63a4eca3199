"""The open port: a connection without a registered key has 5 s, and is closed first when there are too many.

A limit on all connections would let slow attackers shut members out; a limit per address would shut out members behind
one proxy. So when there are too many unknown connections, the oldest one of the busiest address is closed.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from seedbed.deployment.flower.gate import Gate
from seedbed.deployment.flower.key_roster import Caller

HEAD = 5.0  # seconds for the TLS handshake and the headers of the first request
UNKNOWN = 256  # limit on connections that have not shown a registered key
EACH = 16  # limit on connections of one key
IDLE = 30  # seconds that a member's connection may be idle
log = logging.getLogger("seedbed.gate")


class Visitor:
    """One connection, from its first packet."""

    def __init__(self, address: str, listener: "Listener"):
        self.address, self._listener = address, listener
        self.protocol: H11Protocol | None = None
        self.greeting: asyncio.Task[Any] | None = None

    def prove(self, caller: Caller) -> None:
        """Record that the connection has shown a registered key."""
        self._listener.know(self, caller)

    def end(self) -> None:
        if self.greeting is not None:
            self.greeting.cancel()
        if self.protocol is not None and self.protocol.transport is not None:
            self.protocol.transport.abort()


class Listener:
    """Accepts connections on a socket and passes requests to the gate.

    Args:
        gate: answers the requests.
        context: TLS; None: no encryption (tests).
    """

    def __init__(self, gate: Gate, context: ssl.SSLContext | None):
        self._config = Config(gate, http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
                              proxy_headers=False, server_header=False, timeout_keep_alive=IDLE)  # fmt: skip
        self._config.load()
        self._state, self._context = ServerState(), context
        self._unknown: dict[Visitor, None] = {}  # oldest first
        self._known: dict[Caller, dict[Visitor, None]] = {}

    async def run(self, listening: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(listening)
                except OSError as error:  # such as no file descriptors left
                    log.warning("cannot accept: %s", error)
                    await asyncio.sleep(0.1)
                    continue
                self._greet(connection, str(address[0]))
        finally:
            for visitor in [*self._unknown, *(v for known in self._known.values() for v in known)]:
                visitor.end()

    def know(self, visitor: Visitor, caller: Caller) -> None:
        """Move a connection from the unknown ones to those of a key."""
        if self._unknown.pop(visitor, visitor) is None:
            known = self._known.setdefault(caller, {})
            known[visitor] = None
            if len(known) > EACH:
                next(iter(known)).end()

    def forget(self, visitor: Visitor) -> None:
        """Drop an ended connection. A TLS connection has a buffer of 256 kB, so no reference may remain."""
        visitor.protocol = visitor.greeting = None
        self._unknown.pop(visitor, None)
        for caller, known in list(self._known.items()):
            known.pop(visitor, None)
            if not known:
                del self._known[caller]

    def _greet(self, connection: socket.socket, address: str) -> None:
        loop, visitor = asyncio.get_running_loop(), Visitor(address, self)
        self._unknown[visitor] = None
        if len(self._unknown) > UNKNOWN:
            self._make_room()
        visitor.greeting = loop.create_task(self._handshake(connection, visitor))
        visitor.greeting.add_done_callback(lambda task: connection.close() if task.cancelled() else None)  # not started
        loop.call_later(HEAD, lambda: visitor.end() if visitor in self._unknown else None)

    async def _handshake(self, connection: socket.socket, visitor: Visitor) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> H11Protocol:
            visitor.protocol = Protocol(self._config, self._state, visitor, self)
            return visitor.protocol

        limits = {"ssl_handshake_timeout": HEAD, "ssl_shutdown_timeout": HEAD} if self._context else {}
        try:
            await loop.connect_accepted_socket(protocol, connection, ssl=self._context, **limits)
        except (OSError, asyncio.CancelledError):
            connection.close()
            self.forget(visitor)

    def _make_room(self) -> None:
        [(busiest, _)] = Counter(v.address for v in self._unknown).most_common(1)
        oldest = next(v for v in self._unknown if v.address == busiest)
        oldest.end()
        self.forget(oldest)


class Protocol(H11Protocol):
    """Links each request to its connection, for the gate and the listener."""

    def __init__(self, config: Config, state: ServerState, visitor: Visitor, listener: Listener):
        super().__init__(config, state, {"connection": visitor})
        self._visitor, self._listener = visitor, listener

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.forget(self._visitor)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
