"""The node: one client's data, its kept state, and its answers to letters. Only messages leave it.

The state after a round's work is pending until the server reports that the round's reply was counted. A reply that came
too late, or in a discarded round, has no effect on the kept state.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.sampling import TaskSource
from seedbed.deployment.federation.event_log import EventLog
from seedbed.deployment.federation.protocol import FederationProtocol, as_tree, refuse_weak
from seedbed.deployment.wire import Action, FrameAssembler, FrameRefused, Letter, seal_frames
from seedbed.deployment.wire.frames import TEXT
from seedbed.engines.one_by_one import OneByOne
from seedbed.errors import InputError
from seedbed.federated import ClientId
from seedbed.limits import refuse_links
from seedbed.serialization import fill_template, tensors_from_bytes, trees_to_bytes, write_atomically
from seedbed.tree import Tree

REFUSED = "refused by the server"  # an event of the log
STATE_FILE = "memory.safetensors"
LAST = "last.safetensors"  # the server's payload for the final model
RESTART_NODE = "start the node again: it resumes from its saved state"


@dataclass(frozen=True)
class NodeState:
    """A node's whole state. It changes by one atomic write, so that its parts are always consistent."""

    kept: Tree | None = None  # None: nothing kept yet, or the algorithm keeps nothing
    pending: Tree | None = None  # becomes `kept` once the reply is counted
    round: int = 0  # the last round worked on
    attempt: int = 0
    asked: bytes = b""  # [32]  digest of the work letter
    reply: bytes = b""  # payload of the reply

    @property
    def at(self) -> tuple[int, int]:
        return self.round, self.attempt


class Node:
    """One client of a federation.

    Args:
        plan: the protocol, built from the same settings as on the server.
        client: its number in the federation.
        source: its tasks, under this number: `Sampled(population, sampler, first=client)`.
        key: [32] bytes, shared only with the server.
        folder: for its state; created if missing.
    Raises:
        InputError: the stored state was altered or belongs to another plan or client; the key is too short.
    """

    def __init__(self, plan: FederationProtocol, client: ClientId, source: TaskSource, key: bytes, folder: Path):
        refuse_weak({client: key})
        self.plan, self.client, self.folder = plan, client, folder
        self._engine, self._key = OneByOne(source), key
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder)
        self.log = EventLog(folder / "log.jsonl")
        work = plan.work.limit
        limits = {
            Action.WORK: work, Action.MODEL: work, Action.COUNTED: 32, Action.NOTED: 0, Action.REFUSAL: TEXT
        }  # fmt: skip
        self._assembler = FrameAssembler({client: key}.get, lambda action: limits.get(action, -1))
        self.memory = load_node_state(plan, client, folder)
        self.known = False  # the server has read the last hello, so it need not be repeated

    def hello(self) -> list[bytes]:
        """The frames to send on every new connection, and again while this node is not `known`."""
        self.known = False
        parts = "\n".join(f"{name}={value}" for name, value in self.plan.parts.items())
        return self._seal(Action.HELLO, 0, 0, parts.encode())

    def answer(self, frame: bytes) -> list[bytes]:
        """Answer one frame from the server. The same work gets the same reply bytes, also after a restart."""
        try:
            letter = self._assembler.take(frame)
        except FrameRefused as why:
            self.log("frame refused", why=str(why))
            return []
        if letter is None or (letter.run != self.plan.run and letter.action is not Action.REFUSAL):
            return []
        try:
            return self._read(letter)
        except FrameRefused as why:
            self.log("letter refused", action=letter.action.name, round=letter.round, why=str(why))
            return self._seal(Action.FAILED, letter.round, letter.attempt, str(why).encode()[:TEXT])

    def _read(self, letter: Letter) -> list[bytes]:
        self.known |= letter.action is not Action.REFUSAL
        if letter.action is Action.WORK:
            return self._work(letter)
        if letter.action is Action.MODEL:
            return self._finish(letter)
        if letter.action is Action.COUNTED:
            self._remember(self._settle(letter.payload))
        if letter.action is Action.REFUSAL:
            self.log(REFUSED, round=letter.round, why=letter.note)
        return []

    def _finish(self, letter: Letter) -> list[bytes]:
        """Store the final model's payload, from which this client adapts."""
        self._refuse_other_plan(letter)
        last = self.plan.work.unpack(letter.payload)
        self._remember(self._settle(bytes(last["counted"].tolist())))
        write_atomically(self.folder / LAST, trees_to_bytes({"sent": last["sent"]}), go_on=RESTART_NODE)
        self.log("finished", rounds=letter.round - 1)
        return self._seal(Action.HELD, letter.round, letter.attempt, b"")

    def _refuse_other_plan(self, letter: Letter) -> None:
        if letter.schema != self.plan.fingerprint:
            raise FrameRefused("the server and this node have different settings")

    def _work(self, letter: Letter) -> list[bytes]:
        """Do a round's work exactly once."""
        self._refuse_other_plan(letter)
        memory, at = self.memory, (letter.round, letter.attempt)
        if at < memory.at:
            raise FrameRefused(
                f"this node has worked on round {memory.round} already, and round {letter.round} is older"
            )
        if at == memory.at and letter.digest != memory.asked:
            raise FrameRefused(f"this node has done other work for round {letter.round} already")
        if at > memory.at:
            work = self.plan.work.unpack(letter.payload)
            kept = self._settle(bytes(work["counted"].tolist())).kept
            payload, pending = self._train(work["sent"], kept, letter.round)
            self._remember(NodeState(kept, pending, *at, letter.digest, payload))
            self.log("worked", round=letter.round, attempt=letter.attempt)
        return self._seal(Action.REPLY, *at, self.memory.reply)

    def _train(self, sent: Tree, kept: Tree | None, round: int) -> tuple[bytes, Tree | None]:
        """The reply's payload, and the new kept state. An exception is logged here in full; the server gets its
        type."""
        self._engine.recall({} if kept is None else {self.client: kept})
        try:
            [group] = self._engine.ask(self.plan.algorithm, {self.client: sent}, round - 1)
            payload = self.plan.message.pack(as_tree(tree.index(group.messages, 0)))
        except Exception as error:
            self.log("work failed", round=round, why=f"{type(error).__name__}: {error}")
            raise FrameRefused(f"the work of round {round} failed: {type(error).__name__}") from error
        return payload, self._engine.memory().get(self.client)

    def _settle(self, counted: bytes) -> NodeState:
        """The state after learning which of this client's letters was counted last."""
        memory = self.memory
        if memory.pending is None or self._letter(Action.REPLY, *memory.at, memory.reply).digest != counted:
            return memory
        return replace(memory, kept=memory.pending, pending=None)

    def _letter(self, action: Action, round: int, attempt: int, payload: bytes) -> Letter:
        return Letter(self.plan.run, round, attempt, self.client, action, self.plan.fingerprint, payload)

    def _seal(self, action: Action, round: int, attempt: int, payload: bytes) -> list[bytes]:
        return seal_frames(self._letter(action, round, attempt, payload), self._key)

    # ---- on disk ------------------------------------------------------------------------------------------------

    def _remember(self, memory: NodeState) -> None:
        if memory is self.memory:
            return
        states = {"kept": memory.kept, "pending": memory.pending}
        numbers = {
            "at": torch.tensor([memory.round, memory.attempt, *(states[name] is not None for name in states)]),
            "of": _numbers(_own(self.plan, self.client)),
            "asked": _numbers(memory.asked),
            "reply": _numbers(memory.reply),
        }
        data = trees_to_bytes({name: kept for name, kept in states.items() if kept is not None} | numbers)
        write_atomically(self.folder / STATE_FILE, hashlib.sha256(data).digest() + data, go_on=RESTART_NODE)
        self.memory = memory


def load_node_state(plan: FederationProtocol, client: ClientId, folder: Path) -> NodeState:
    """Load a node's state from its folder.

    Raises:
        InputError: it was altered, or belongs to another plan or client.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return NodeState()
    data = path.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise InputError(f"{path} was altered: restore it, or remove it to discard the client's kept state")
    tensors = tensors_from_bytes(data[32:], str(path))
    if _bytes(tensors["of"]) != _own(plan, client):
        raise InputError(f"{path} belongs to another run, client or plan: give this node its own folder")
    round, attempt, *present = tensors["at"].tolist()
    kept, pending = (
        fill_template(plan.kept, tensors, name) if is_present else None
        for name, is_present in zip(("kept", "pending"), present, strict=True)
    )
    return NodeState(kept, pending, round, attempt, _bytes(tensors["asked"]), _bytes(tensors["reply"]))


def _own(plan: FederationProtocol, client: ClientId) -> bytes:
    """Identifies the run, plan and client of a state."""
    return plan.run + plan.fingerprint + client.to_bytes(4, "little")


def _numbers(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def _bytes(numbers: Tensor) -> bytes:
    return numbers.numpy().tobytes()


def handle_letters(node: Node, frames: Sequence[bytes]) -> list[bytes]:
    """Answers to several frames, for transports that carry whole letters."""
    return [answer for frame in frames for answer in node.answer(frame)]
