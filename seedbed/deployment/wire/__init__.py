"""The wire format between server, nodes and peers: authenticated frames that carry safetensors. Never pickle.

Read `frames` first (what the MAC covers, and what is checked before data are stored), then `payload` (tensors that must
match the agreed schema).
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
