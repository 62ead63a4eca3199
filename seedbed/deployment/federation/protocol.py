"""What the server and every node agree on before work starts. Each side builds it from the same settings."""

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

CAP = 1.0  # of a client's weight: all clients weigh the same


class MessageSchema:
    """A tree that others must be like: the same nesting, names, types and shapes."""

    def __init__(self, template: Tree):
        self._template = template
        self._forms = tensor_schemas(tree.named_leaves(template))
        self.limit = payload_size(self._forms)  # bytes of a payload, at most

    def pack(self, like: Tree) -> bytes:
        """
        Raises:
            Refused: the tree is not like the template.
        """
        if (
            tree.structure_of(like) != tree.structure_of(self._template)
            or tensor_schemas(tree.named_leaves(like)) != self._forms
        ):
            raise FrameRefused("its form is not the one that was agreed on")
        return pack_tensors(tree.named_leaves(like))

    def unpack(self, payload: bytes) -> Tree:
        """
        Raises:
            Refused: the payload is not that of a tree like the template.
        """
        tensors = unpack_tensors(payload, self._forms)
        return tree.with_leaves(self._template, [tensors[name] for name in self._forms])

    @property
    def text(self) -> str:
        return (tree.structure_of(self._template) + repr(sorted(self._forms.items()))).replace(
            "TensorSchema(", "Form("
        )  # as the first version called it: it is agreed on


@dataclass(frozen=True)
class FederationProtocol:
    """What is computed, and what travels.

    Args:
        name: the run's. Letters of another run are refused.
        algorithm: any but those whose clients send unlike messages or that choose their own cohorts.
        start: `algorithm.init(params)`.
        example: a task of the form that clients have, of made-up numbers: what messages look like is learned from it.
        settings: what the algorithm was built from, as JSON can say it. Functions cannot be compared, this can.
        cap: largest weight of a message. A client cuts its own weight to the cap; the server refuses a larger one, so
            that no client dictates the model by its weight. None: any weight.
    Raises:
        InputError: it is one of those algorithms.
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
            raise InputError("clients of different architectures send unlike messages: that runs in simulation alone")
        if self.algorithm.cohort is not None:
            raise InputError(
                "this algorithm chooses its own cohorts, as what it promises of privacy is accounted for; a real "
                "federation, where some do not answer, would void that: it runs in simulation alone"
            )

    @cached_property
    def run(self) -> bytes:
        """[32]  the name, as frames have it."""
        return hashlib.sha256(self.name.encode()).digest()

    @cached_property
    def work(self) -> MessageSchema:
        """What a node is sent: the model, and the digest of its letter that was counted last (zeros: none)."""
        return MessageSchema({"sent": self.sent, "counted": torch.zeros(32, dtype=torch.uint8)})

    @cached_property
    def message(self) -> MessageSchema:
        """What a node answers."""
        return MessageSchema(as_tree(self._first[0]))

    @cached_property
    def kept(self) -> Tree:
        """What a client keeps, by its form."""
        return self._first[1]

    @property
    def largest_weight(self) -> float | None:
        """The cap, as the numbers of a message hold it."""
        return None if self.cap is None else max(self.cap, float(torch.tensor(self.cap, dtype=torch.float32)))

    @cached_property
    def schema(self) -> Schema:
        """What the gate lets through."""
        return schema_of(MessageBatch([0], tree.stack([self._first[0]])))

    @cached_property
    def parts(self) -> dict[str, str]:
        """What must be equal on both sides, each as a hash."""
        said = {
            "protocol": str(PROTOCOL),
            "settings": json.dumps(self.settings, sort_keys=True, allow_nan=False),
            "what is sent": self.work.text,
            "what is answered": self.message.text,
            **({} if self.cap is None else {"cap": repr(float(self.cap))}),
        }
        return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in said.items()}

    @cached_property
    def fingerprint(self) -> bytes:
        """[32]  of all parts."""
        return hashlib.sha256(json.dumps(self.parts).encode()).digest()

    @cached_property
    def sent(self) -> Tree:
        """What a client is sent, by its form."""
        return self.algorithm.send(self.start, 0)

    @cached_property
    def _first(self) -> tuple[Message, Tree]:
        with torch.no_grad():
            return self.algorithm.client(self.sent, self.algorithm.remember(self.sent), self.example)


def cap_weights(algorithm: Algorithm, cap: float | None) -> Algorithm:
    """The algorithm, with each client's weight cut to min(weight, cap)."""
    if cap is None:
        return algorithm
    if not cap > 0:
        raise InputError(f"cap={cap} gives no client a weight: choose a number above 0")

    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        message, after = algorithm.client(sent, kept, task)
        return message._replace(weight=message.weight.clamp(max=cap)), after

    return replace(algorithm, client=client)


def refuse_weak(keys: Mapping[ClientId, bytes]) -> None:
    """Keys that would let somebody speak in another's name."""
    for client, key in keys.items():
        if len(key) != 32:
            raise InputError(f"client {client}'s key has {len(key)} bytes: give 32 random ones (secrets.token_bytes)")
    if len(set(keys.values())) < len(keys):
        raise InputError("two clients have the same key, so that each could speak for the other: give each its own")


def as_tree(message: Message) -> dict[str, Tree]:
    return {"value": message.value, "weight": message.weight, "info": dict(message.info)}


def as_message(parts: Mapping[str, Tree]) -> Message:
    return Message(parts["value"], parts["weight"], parts["info"])


def digest_tensor(digest: str | None) -> torch.Tensor:
    """A digest in hexadecimal as numbers [32]; None: zeros."""
    return torch.tensor(list(bytes.fromhex(digest)) if digest else [0] * 32, dtype=torch.uint8)
