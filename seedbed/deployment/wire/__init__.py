"""What travels between a federation's server and its nodes: sealed frames around safetensors. Never pickle.

Read `frames` first (what is sealed, and what is checked before a byte is kept), then `payload` (tensors that must be as
agreed).
"""

from seedbed.deployment.wire.frames import CHUNK, HEAD, PROTOCOL, Action, Assembler, Letter, Refused, seal
from seedbed.deployment.wire.payload import Form, forms, pack, unpack

__all__ = [
    "CHUNK",
    "HEAD",
    "PROTOCOL",
    "Action",
    "Assembler",
    "Form",
    "Letter",
    "Refused",
    "forms",
    "pack",
    "seal",
    "unpack",
]
