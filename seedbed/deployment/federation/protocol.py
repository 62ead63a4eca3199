"""The protocol that the server and every node agree on before work starts. Each side builds it from the same
settings."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from seedbed import tree
from seedbed.data.types import Task
from seedbed.deployment.wire import PROTOCOL, FrameRefused, pack_tensors, tensor_schemas, unpack_tensors
from seedbed.deployment.wire.payload import payload_size
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Message, MessageBatch, ServerState
from seedbed.rounds.message_validation import Schema, schema_of
from seedbed.tree import Tree

CAP = 1.0  # default cap on a client's weight: all clients count equally


class MessageSchema:
    """A template for trees: received trees must have the same nesting, names, types and shapes."""

    def __init__(self, template: Tree):
        self._template = template
        self._forms = tensor_schemas(tree.named_leaves(template))
        self.limit = payload_size(self._forms)  # largest payload in bytes

    def pack(self, like: Tree) -> bytes:
        """Serialize a tree.

        Raises:
            FrameRefused: the tree does not match the template.
        """
        if (
            tree.structure_of(like) != tree.structure_of(self._template)
            or tensor_schemas(tree.named_leaves(like)) != self._forms
        ):
            raise FrameRefused("its structure differs from the agreed one")
        return pack_tensors(tree.named_leaves(like))

    def unpack(self, payload: bytes) -> Tree:
        """Deserialize a payload.

        Raises:
            FrameRefused: the payload does not match the template.
        """
        tensors = unpack_tensors(payload, self._forms)
        return tree.with_leaves(self._template, [tensors[name] for name in self._forms])

    @property
    def text(self) -> str:
        return (tree.structure_of(self._template) + repr(sorted(self._forms.items()))).replace(
            "TensorSchema(", "Form("
        )  # the class's first name: this text is part of the agreement and must not change


@dataclass(frozen=True)
class FederationProtocol:
    """What is computed, and what is sent.

    Args:
        name: the run's name. Letters of another run are refused.
        algorithm: any algorithm whose clients send messages of one structure, and that does not choose its cohorts.
        start: `algorithm.init(params)`.
        example: a task with the clients' shapes and made-up numbers; it determines the structure of messages.
        settings: the algorithm's settings as JSON. Both sides compare these, since functions cannot be compared.
        cap: largest weight of a message, above 0. A client cuts its own weight to the cap, and the server refuses a
            larger one, so that no client dominates the model. None: any weight.
    Raises:
        InputError: the algorithm does not qualify, or the cap is not above 0.
    """

    name: str
    algorithm: Algorithm
    start: ServerState
    example: Task
    settings: Mapping[str, Any]
    cap: float | None = CAP

    def __post_init__(self) -> None:
        object.__setattr__(self, "algorithm", cap_weights(self.algorithm, self.cap))
        if self.algorithm.unlike:
            raise InputError(
                "clients with different architectures send messages of different structure: this works only in "
                "simulation"
            )
        if self.algorithm.cohort is not None:
            raise InputError(
                "this algorithm draws its own cohorts, on which its privacy guarantee depends. In a real federation "
                "some "
                "clients do not answer, which would void the guarantee: it works only in simulation"
            )

    @cached_property
    def run(self) -> bytes:
        """[32] bytes: digest of the name, as in frames."""
        return hashlib.sha256(self.name.encode()).digest()

    @cached_property
    def work(self) -> MessageSchema:
        """Schema of the server's payload: the model, and the digest of the client's last counted letter (or zeros)."""
        return MessageSchema({"sent": self.sent, "counted": torch.zeros(32, dtype=torch.uint8)})

    @cached_property
    def message(self) -> MessageSchema:
        """Schema of a node's reply."""
        return MessageSchema(as_tree(self._first[0]))

    @cached_property
    def kept(self) -> Tree:
        """Example of a client's kept state, for its structure."""
        return self._first[1]

    @property
    def largest_weight(self) -> float | None:
        """The cap, rounded as a message's numbers are."""
        return None if self.cap is None else max(self.cap, float(torch.tensor(self.cap, dtype=torch.float32)))

    @cached_property
    def schema(self) -> Schema:
        """The structure that message validation accepts."""
        return schema_of(MessageBatch([0], tree.stack([self._first[0]])))

    @cached_property
    def parts(self) -> dict[str, str]:
        """Everything that must be equal on both sides, as name → hash."""
        parts = {
            "protocol": str(PROTOCOL),
            "settings": json.dumps(self.settings, sort_keys=True, allow_nan=False),
            "what is sent": self.work.text,
            "what is answered": self.message.text,
            **({} if self.cap is None else {"cap": repr(float(self.cap))}),
        }
        return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in parts.items()}

    @cached_property
    def fingerprint(self) -> bytes:
        """[32] bytes: digest of all parts."""
        return hashlib.sha256(json.dumps(self.parts).encode()).digest()

    @cached_property
    def sent(self) -> Tree:
        """Example of the server's message to a client, for its structure."""
        return self.algorithm.send(self.start, 0)

    @cached_property
    def _first(self) -> tuple[Message, Tree]:
        with torch.no_grad():
            return self.algorithm.client(self.sent, self.algorithm.remember(self.sent), self.example)


def cap_weights(algorithm: Algorithm, cap: float | None) -> Algorithm:
    """The algorithm with each client's weight cut to min(weight, cap)."""
    if cap is None:
        return algorithm
    if not cap > 0:
        raise InputError(f"cap={cap} must be above 0")

    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        message, kept_next = algorithm.client(sent, kept, task)
        return message._replace(weight=message.weight.clamp(max=cap)), kept_next

    return replace(algorithm, client=client)


def refuse_weak(keys: Mapping[ClientId, bytes]) -> None:
    """Refuse keys that would allow impersonation: too short, or shared by two clients."""
    for client, key in keys.items():
        if len(key) != 32:
            raise InputError(f"client {client}'s key has {len(key)} bytes: give 32 random ones (secrets.token_bytes)")
    if len(set(keys.values())) < len(keys):
        raise InputError("two clients have the same key and could impersonate each other: give each its own")


def as_tree(message: Message) -> dict[str, Tree]:
    return {"value": message.value, "weight": message.weight, "info": dict(message.info)}


def as_message(parts: Mapping[str, Tree]) -> Message:
    return Message(parts["value"], parts["weight"], parts["info"])


def digest_tensor(digest: str | None) -> torch.Tensor:
    """A hexadecimal digest as numbers [32]; None: zeros."""
    return torch.tensor(list(bytes.fromhex(digest)) if digest else [0] * 32, dtype=torch.uint8)
