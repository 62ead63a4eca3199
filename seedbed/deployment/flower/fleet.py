"""A node's connection to Flower's server: poll for messages, pass them to the node, send its answers.

This is all that a member runs of Flower. Flower's own SuperNode opens a port on the member's machine, starts a process
for each message with a token on the command line, and fetches code from the server. This module does none of that: no
port, no process, and code from the server is not even fetched.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.node_pb2 import Node as NodeNumber
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from seedbed.deployment.federation.node import Node, handle_letters
from seedbed.deployment.flower.flower_transport import FRAMES, HELLO, RECORD, frames_in

SOONEST, LATEST = 0.2, 3.0  # seconds between polls: right after a message, and when idle
NODE_HEARTBEAT = 0.8 * HEARTBEAT_MIN_INTERVAL  # seconds between heartbeats
LOST = (httpx.HTTPError, ObjectPullError, ObjectPushError)  # errors of a lost connection or transfer
FOREIGN = "the answer is not from a federation's server: another program, or a proxy in between"
CUT = "a proxy or firewall in between may be the cause"
HANDSHAKE_ERRORS = ("reset by peer", "EOF", "disconnected")  # error texts of a connection cut during the TLS handshake


class FleetClient(FleetHttpClient):
    """Flower's client; an answer that it cannot decode counts as a connection error."""

    def _unary_unary(self, **call: Any) -> Any:
        try:
            return super()._unary_unary(**call)
        except ValueError as error:
            raise httpx.RemoteProtocolError(FOREIGN) from error


class Fleet:
    """A node's connection, open during the `with` block.

    Args:
        server: HOST:PORT.
        authority: path of the certificate that signs the server's.
        key: path of the node's private key in OpenSSH's format.
        node: answers the messages.
    Raises:
        httpx.HTTPError: the server is unreachable, or does not admit this node; see `reason_of`.
    """

    def __init__(self, server: str, authority: Path, key: Path, node: Node):
        private = serialization.load_ssh_private_key(key.read_bytes(), None)
        public = private.public_key()
        form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        self._half, self._over = node, threading.Event()
        self._client = FleetClient.from_server_address(
            server,
            False,
            authority.read_bytes(),
            [RuntimeVersionHttpInterceptor("SuperNode"), NodeAuthHttpInterceptor(private, public)],  # type: ignore[arg-type]
        )
        self._key = public.public_bytes(*form)
        self._node = NodeNumber()

    def __enter__(self) -> "Fleet":
        request = ActivateNodeRequest(public_key=self._key, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
        try:
            self._node.node_id = self._client.ActivateNode(request).node_id
        except BaseException:
            self._client.close()
            raise
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        with suppress(httpx.HTTPError):
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._client.close()

    def run(self, over: Callable[[], bool]) -> None:
        """Answer messages until `over()` is true; it is checked after each poll.

        Raises:
            httpx.HTTPError: the connection was lost.
        """
        pause = SOONEST
        while not over():
            response = self._client.PullMessages(PullMessagesRequest(node=self._node))
            for proto, shape in zip(response.messages_list, response.message_object_trees, strict=True):
                self._answer(message_from_proto(proto), shape)
                pause = SOONEST
            if not response.messages_list:
                time.sleep(pause)
                pause = min(LATEST, 1.3 * pause)

    def _answer(self, head: Message, shape: ObjectTree) -> None:
        message = self._pull(head, shape)
        kind = message.metadata.message_type
        answers = self._half.hello() if kind == HELLO else handle_letters(self._half, frames_in(message.content))
        self._push(Message(RecordDict({RECORD: ConfigRecord({FRAMES: answers})}), reply_to=message))

    def _pull(self, head: Message, shape: ObjectTree) -> Message:
        """Fetch a message's content."""
        run, number = head.metadata.run_id, head.metadata.message_id
        fetch = make_pull_object_fn_protobuf(self._client.PullObject, self._node, run)
        contents = pull_objects([part.object_id for part in iterate_object_tree(shape)], pull_object_fn=fetch)
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self._node, run_id=run, message_object_id=number)
        )
        message: Any = inflate_object_from_contents(number, contents)
        message.metadata.__dict__["_message_id"] = number
        assert isinstance(message, Message)
        return message

    def _push(self, reply: Message) -> None:
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            parts, shape = get_all_nested_objects(reply), get_object_tree(reply)
            head = message_to_proto(remove_content_from_message(reply))
            request = PushMessagesRequest(node=self._node, messages_list=[head], message_object_trees=[shape],
                                          clientapp_runtime_list=[0.0])  # fmt: skip
            wanted = self._client.PushMessages(request)
            run, session = reply.metadata.run_id, wanted.session_id
            send = make_push_object_fn_protobuf(self._client.PushObject, self._node, run, session)
            push_objects(parts, send, object_ids_to_push=set(wanted.objects_to_push))

    def _beat(self) -> None:
        """Send heartbeats, also while the node works."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
        while not self._over.wait(NODE_HEARTBEAT):
            with suppress(httpx.HTTPError, RuntimeError):  # the next poll reports the error
                self._client.SendNodeHeartbeat(request)


def reason_of(why: Exception) -> tuple[int | None, str]:
    """The server's error code and text; without a code, the network's error text."""
    if isinstance(why, httpx.HTTPStatusError):
        with suppress(httpx.HTTPError):
            if (error := FlowerError.from_json(why.response.text)) is not None:
                return error.code, error.message
        return None, f"status {why.response.status_code}: {FOREIGN}"
    text = str(why) or type(why).__name__
    if isinstance(why, httpx.TimeoutException):
        return None, f"no answer in time ({type(why).__name__})"
    if text != FOREIGN and (not isinstance(why, httpx.ConnectError) or any(word in text for word in HANDSHAKE_ERRORS)):
        return None, f"the connection was cut ({text}): {CUT}"
    return None, text
