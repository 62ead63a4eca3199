"""What travels between a federation's server and its nodes: sealed frames around safetensors. Never pickle.

Read `frames` first (what is sealed, and what is checked before a byte is kept), then `payload` (tensors that must be as
agreed).
"""

from seedbed.deployment.wire.frames import (
    FRAME_CHUNK,
    FRAME_HEADER,
    PROTOCOL,
    Action,
    FrameAssembler,
    FrameRefused,
    Letter,
    seal_frames,
)
from seedbed.deployment.wire.payload import TensorSchema, pack_tensors, tensor_schemas, unpack_tensors

__all__ = [
    "FRAME_CHUNK",
    "FRAME_HEADER",
    "PROTOCOL",
    "Action",
    "FrameAssembler",
    "FrameRefused",
    "Letter",
    "TensorSchema",
    "pack_tensors",
    "seal_frames",
    "tensor_schemas",
    "unpack_tensors",
]
