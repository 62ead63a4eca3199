"""Frames: what is sealed comes back, and nothing else is taken, whatever is done to it and however it is sent."""

import hmac
import json
import resource
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from seedbed.deployment.wire import (
    FRAME_CHUNK,
    FRAME_HEADER,
    PROTOCOL,
    Action,
    FrameAssembler,
    FrameRefused,
    Letter,
    pack_tensors,
    seal_frames,
    tensor_schemas,
    unpack_tensors,
)
from seedbed.deployment.wire.frames import MAC, OLDEST
from seedbed.deployment.wire.payload import payload_size

from .make_golden import GOLDEN, KEY, RUN, SCHEMA, letters, tensors

OTHER = bytes(32)
FORMS = tensor_schemas(tensors())
MIB = 1 << 20


def assembler(limit: int = 4 * MIB) -> FrameAssembler:
    return FrameAssembler({2: KEY, 5: OTHER}.get, lambda action: limit)


def reply(payload: bytes, **other: object) -> Letter:
    return Letter(**{"run": RUN, "round": 3, "attempt": 0, "client": 2, "action": Action.REPLY, "schema": SCHEMA,
                     "payload": payload, **other})  # type: ignore[arg-type]  # fmt: skip


def peak() -> int:
    """Bytes of memory that this process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def allocating(most: int) -> Iterator[None]:
    """Python's own allocations inside never reach so many bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def resealed(frame: bytes) -> bytes:
    """With a MAC that is right: what a node that is registered and hostile can send."""
    return frame[:-MAC] + hmac.digest(KEY, frame[:-MAC], "sha256")


# ---- what is sealed comes back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, FRAME_CHUNK - 1, FRAME_CHUNK, FRAME_CHUNK + 1, 3 * FRAME_CHUNK])
def test_any_length_in_any_order_with_copies(length: int) -> None:
    letter = reply(np.random.default_rng(length).bytes(length))
    frames = seal_frames(letter, KEY)
    assert len(frames) == max(1, -(-length // FRAME_CHUNK))
    takes = assembler()
    early = [takes.take(frame) for frame in [*frames[:0:-1], *frames[:0:-1]]]
    assert early == [None] * len(early)
    assert takes.take(frames[0]) == letter
    assert seal_frames(letter, KEY) == frames


def test_parts_of_two_letters_do_not_mix() -> None:
    """A client that begins another letter has given up the one before; two clients do not disturb each other."""
    one, two = (reply(bytes([i]) * (FRAME_CHUNK + 9)) for i in (1, 2))
    theirs = reply(b"x" * (FRAME_CHUNK + 9), client=5)
    (a0, a1), (b0, b1), (c0, c1) = seal_frames(one, KEY), seal_frames(two, KEY), seal_frames(theirs, OTHER)
    takes = assembler()
    assert [takes.take(frame) for frame in (a0, c0, b0, a1, a0)] == [None, None, None, None, one]
    assert [takes.take(frame) for frame in (b1, c1, b0)] == [None, theirs, two]


def test_tensors_come_back_bit_for_bit() -> None:
    found = unpack_tensors(pack_tensors(tensors()), FORMS)
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert len(pack_tensors(tensors())) <= payload_size(FORMS)


# ---- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(OLDEST, PROTOCOL + 1))
def test_golden_frames_are_understood(version: int) -> None:
    """Those of this version, and of the one before where there is one."""
    for name, letter in letters().items():
        frame = (GOLDEN / str(version) / f"{name}.frame").read_bytes()
        assert assembler().take(frame) == letter
        assert version != PROTOCOL or seal_frames(letter, KEY) == [frame]


def test_other_protocols_are_refused_in_a_line() -> None:
    assert PROTOCOL - OLDEST <= 1
    for number, says in ((OLDEST - 1, "older than .* at the other end"), (PROTOCOL + 1, "newer than .* this side")):
        with pytest.raises(FrameRefused, match=says):
            assembler().take(seal_frames(reply(b""), KEY, protocol=number)[0])


# ---- what is altered -------------------------------------------------------------------------------------------------


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A bit flipped, bytes overwritten, cut, glued, moved, or a field of the head made huge."""
    changed = bytearray(data)
    kind, at = rng.integers(6), int(rng.integers(len(data)))
    if kind == 0:
        changed[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        changed[at : at + 8] = rng.bytes(len(changed[at : at + 8]))
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        changed += rng.bytes(int(rng.integers(1, 64)))
    elif kind == 4:
        changed = changed[at:] + changed[:at]
    else:
        spot = int(rng.integers(8, FRAME_HEADER.size - 8))
        changed[spot : spot + 8] = b"\xff" * 8
    return bytes(changed)


def refusals(times: int, attempt: Callable[[np.random.Generator], object]) -> int:
    """How many of so many attempts are refused by name; anything else that is raised fails the test."""
    rng, refused = np.random.default_rng(0), 0
    for _ in range(times):
        try:
            attempt(rng)
        except FrameRefused:
            refused += 1
    return refused


def test_10_000_mutated_frames() -> None:
    """DW 6: none crashes, none is accepted, memory does not grow. A frame that came out as it was is left out."""
    frames = [f for letter in letters().values() for f in seal_frames(letter, KEY)] + seal_frames(
        reply(bytes(FRAME_CHUNK + 99)), KEY
    )[1:]
    takes, before = assembler(), peak()

    def attempt(rng: np.random.Generator) -> None:
        frame = frames[int(rng.integers(len(frames)))]
        while (bad := mutated(frame, rng)) == frame:
            pass
        takes.take(bad)

    assert refusals(10_000, attempt) == 10_000
    assert peak() - before < 32 * MIB


def test_10_000_mutated_payloads_under_a_right_mac() -> None:
    """A hostile node has a key. What it says is refused or has the very form agreed on: no crash, no growth."""
    good, before, accepted = pack_tensors(tensors()), peak(), []

    def attempt(rng: np.random.Generator) -> None:
        letter = assembler().take(seal_frames(reply(mutated(good, rng)), KEY)[0])
        assert letter is not None
        accepted.append(tensor_schemas(unpack_tensors(letter.payload, FORMS)))

    refused = refusals(10_000, attempt)
    assert refused + len(accepted) == 10_000
    assert all(found == FORMS for found in accepted)
    assert peak() - before < 32 * MIB


def test_another_clients_key_and_an_unknown_client() -> None:
    frame = seal_frames(reply(b"x"), OTHER)[0]
    with pytest.raises(FrameRefused, match="MAC of a frame in the name of client 2 is wrong"):
        assembler().take(frame)
    with pytest.raises(FrameRefused, match="client 9 is not registered"):
        assembler().take(seal_frames(reply(b"x", client=9), KEY)[0])


# ---- hostile sizes ---------------------------------------------------------------------------------------------------


def head(**fields: int) -> bytes:
    """A frame's head with these sizes."""
    values = {"client": 2, "part": 0, "parts": 1, "total": 0, **fields}
    return FRAME_HEADER.pack(
        b"SEED", PROTOCOL, Action.REPLY, values["client"], 3, 0, values["part"], values["parts"], values["total"],
        RUN, SCHEMA, bytes(32),
    )  # fmt: skip


@pytest.mark.parametrize("total", [2**62, 2**43, 5 * MIB])
def test_a_frame_that_says_it_is_huge(total: int) -> None:
    """Refused on the head alone, although its MAC is right, before anything of that size is allocated."""
    parts = -(-total // FRAME_CHUNK)
    bad = head(total=total, parts=min(parts, 2**32 - 1)) + bytes(FRAME_CHUNK + MAC)
    sent, takes = resealed(bad), assembler()
    with allocating(MIB), pytest.raises(FrameRefused, match=r"at most 4194304 are accepted|does not fit"):
        takes.take(sent)


def with_header(header: bytes, length: int | None = None, rest: bytes = b"") -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + rest


def described(**entries: object) -> bytes:
    return with_header(json.dumps(entries).encode(), rest=bytes(64))


W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
TWO = tensor_schemas({"w": torch.zeros(2)})
HOSTILE = {
    "a header of 8 TiB": with_header(b"{}", 8 << 40),
    "a header of 2^64 - 1": with_header(b"{}", 2**64 - 1),
    "a million tensors": with_header(b"{" + b",".join(b'"%d":{}' % i for i in range(1_000_000)) + b"}"),
    "a shape of 2^62": described(w={**W, "shape": [2**62]}),
    "a product of 2^124": described(w={**W, "shape": [2**62, 2**62], "data_offsets": [0, 2**62]}),
    "a negative shape": described(w={**W, "shape": [-2]}),
    "offsets backwards": described(w={**W, "data_offsets": [8, 0]}),
    "offsets far away": described(w={**W, "data_offsets": [2**61, 2**61 + 8]}),
    "offsets of truth": described(w={**W, "data_offsets": [False, 8]}),
    "bytes left over": described(w=W),
    "nested without end": with_header(b"[" * 200),
    "a name twice": with_header(b'{"w":1,"w":1}'),
    "metadata": described(w=W, __metadata__={"a": "b"}),
    "a list": with_header(b"[]"),
    "no text": with_header(b"\xff\xfe"),
    "nothing": b"",
    "another type": described(w={**W, "dtype": "F64"}),
    "a field more": described(w={**W, "strides": [1]}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_payload_that_lies_about_sizes(kind: str) -> None:
    with allocating(MIB), pytest.raises(FrameRefused):
        unpack_tensors(HOSTILE[kind], TWO)


def test_what_a_federation_does_not_send() -> None:
    with pytest.raises(FrameRefused, match=r"w has type torch\.complex64, which cannot be sent"):
        tensor_schemas({"w": torch.zeros(2, dtype=torch.complex64)})


def test_golden_files_are_all_read() -> None:
    assert {p.name for p in (GOLDEN / str(PROTOCOL)).iterdir()} == {f"{name}.frame" for name in letters()}
