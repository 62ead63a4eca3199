"""The gate in front of Flower's server: only ten API calls, only from registered keys, with bodies of limited size.

Flower serves nodes, its control API and its runtime API on one port, and reads a body before it checks the signature.
This ASGI application wraps it. It decides by a request's headers, and reads the body only after that.
"""

import asyncio
import json
import logging
import time
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any

from seedbed.deployment.flower.key_roster import Caller, KeyRoster, verifies

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_SMALL_BODY = 64 << 10  # bytes of a body that is not a letter
PUSH, ANNOUNCE = "/v1/fleet/push-object", "/v1/fleet/push-messages"
LIMITS: Mapping[str, int] = {  # allowed calls and bytes of their bodies; registering and unregistering are not allowed
    **dict.fromkeys(
        (
            *("/v1/fleet/activate-node", "/v1/fleet/deactivate-node", "/v1/fleet/send-node-heartbeat"),
            *("/v1/fleet/pull-messages", "/v1/fleet/pull-object", "/v1/fleet/confirm-message-received"),
            *("/v1/fleet/get-run", "/v1/fleet/get-fab"),
        ),
        MAX_SMALL_BODY,
    ),
    ANNOUNCE: MAX_SMALL_BODY // 8,  # enough for some hundred object ids
    PUSH: MAX_SMALL_BODY,  # plus one letter
}
COSTS = {ANNOUNCE: 10}  # counts as this many calls: Flower remembers each object id for a while
KEY, STAMP, SIGNATURE = b"flwr-public-key", b"flwr-timestamp", b"flwr-signature"
OLD, AHEAD = 305.0, 5.0  # allowed clock difference in seconds, as in Flower
BODY, PACE = 30.0, 50_000  # time for a body: 30 s, plus 1 s per 50 kB
UNKNOWN, REFUSED = 2004, 4010  # error codes that Flower's nodes print
log = logging.getLogger("seedbed.gate")


class Refusal(Exception):
    """A request is refused; holds the HTTP status, the reason and Flower's error code."""

    def __init__(self, status: int, why: str, code: int = REFUSED):
        super().__init__(why)
        self.status, self.code = status, code


class Gate:
    """Passes a registered node's calls to Flower's application.

    Args:
        app: Flower's application.
        roster: the registered keys.
        letter: bytes of the largest message that a node sends.
        remark: called with a line for people when a registered node is refused, or an unknown key connects.
    """

    def __init__(self, app: AsgiApp, roster: KeyRoster, letter: int, remark: Callable[[str], object] = log.info):
        self._app, self._roster, self._letter, self._remark = app, roster, letter, remark

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # uvicorn closes the connection
        try:
            caller, size = self._admit(scope)
            async with caller.turn(COSTS.get(scope["path"], 1)):
                body = await _read(receive, size)
                await self._app(scope, _replay(body, receive), send)
        except Refusal as refusal:
            await _refuse(send, refusal)

    def _admit(self, scope: Scope) -> tuple[Caller, int]:
        """The calling node, and the size of its body in bytes.

        Raises:
            Refusal: the call is not admitted.
        """
        path = scope["raw_path"].decode("latin-1")
        if scope["method"] != "POST" or path not in LIMITS or scope["query_string"]:
            raise Refusal(403, "this port serves only nodes of this federation")
        headers = _unique_headers(scope["headers"])
        caller = self._identify(headers)
        if connection := scope.get("state", {}).get("connection"):
            connection.prove(caller)
        return caller, self._size(path, headers, caller)

    def _identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        caller = self._roster.find(headers.get(KEY, b""))
        if caller is None:
            self._roster.now_and_then("an unknown key tried to connect: it is in no .pub file of this federation",
                                      self._remark)  # fmt: skip
            raise Refusal(401, "this key is not registered with this federation", UNKNOWN)
        stamp = headers.get(STAMP, b"")
        try:
            age = time.time() - datetime.fromisoformat(stamp.decode("ascii")).timestamp()
            signature = b64decode(headers.get(SIGNATURE, b""), validate=True)
        except (ValueError, NotBase64) as error:
            raise Refusal(401, "the signed time stamp is malformed") from error
        if not -AHEAD < age < OLD:
            why = f"{abs(age):.0f} s {'behind' if age > 0 else 'ahead of'} the server's"
            self._roster.now_and_then(f"{caller.name} is refused: its clock is {why}", self._remark)
            raise Refusal(401, f"the clock of this machine is {why}: correct it")
        if not verifies(caller.key, signature, stamp):
            raise Refusal(401, "the signature is wrong")
        return caller

    def _size(self, path: str, headers: Mapping[bytes, bytes], caller: Caller) -> int:
        length, limit = headers.get(b"content-length", b""), LIMITS[path] + (self._letter if path == PUSH else 0)
        if b"transfer-encoding" in headers or b"content-encoding" in headers or not length.isdigit():
            raise Refusal(411, "a body needs a Content-Length, and no encoding")
        size = int(length[:20])
        if size > limit:
            raise Refusal(413, f"a body of {size} bytes: at most {limit} are accepted")
        if path == PUSH and not caller.spends(size, limit):
            raise Refusal(429, "more bytes were sent than the requested letters have")
        return size


def _unique_headers(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """
    Raises:
        Refusal: a header occurs twice, so that two parsers could choose differently.
    """
    unique = dict(headers)
    if len(unique) != len(headers):
        raise Refusal(400, "a header occurs twice")
    return unique


async def _read(receive: Receive, size: int) -> bytes:
    """Read a request's body.

    Raises:
        Refusal: it has another size than stated, or arrives too slowly.
    """
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(BODY + size / PACE):
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if message["type"] == "http.disconnect" or len(body) > size:
                    raise Refusal(400, "the size of the body differs from its Content-Length")
    except TimeoutError as error:
        raise Refusal(408, "the body arrived too slowly") from error
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` function that returns a body which was read already."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> MutableMapping[str, Any]:
        return pending.pop() if pending else await receive()

    return replay


async def _refuse(send: Send, refusal: Refusal) -> None:
    """Answer without reading the body, and close the connection."""
    body = json.dumps({"code": refusal.code, "detail": str(refusal)}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
