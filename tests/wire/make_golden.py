"""Writes the frames of this protocol version that later versions must go on understanding: run once for each."""

from pathlib import Path

import torch

from seedbed.deployment.wire import PROTOCOL, Action, Letter, pack_tensors, seal_frames

GOLDEN = Path(__file__).parent / "golden"
KEY = bytes(range(32))
RUN, SCHEMA = b"r" * 32, b"s" * 32


def tensors() -> dict[str, torch.Tensor]:
    """Numbers of several types that every machine has the same."""
    return {
        "w": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 8,
        "n": torch.tensor(7, dtype=torch.int64),
        "half": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
        "none": torch.zeros(0, 4, dtype=torch.float64),
        "yes": torch.tensor([True, False]),
    }


def letters() -> dict[str, Letter]:
    """One of each action."""
    texts = {Action.NOTED: b"", Action.COUNTED: bytes(32), Action.HELD: b"", Action.REFUSAL: b"late",
             Action.HELLO: b"{}", Action.FAILED: b"InputError"}  # fmt: skip
    return {
        a.name.lower(): Letter(RUN, 3, 1, 2, a, SCHEMA, texts[a] if a in texts else pack_tensors(tensors()))
        for a in Action
    }


def main() -> None:
    folder = GOLDEN / str(PROTOCOL)
    folder.mkdir(parents=True)
    for name, letter in letters().items():
        (folder / f"{name}.frame").write_bytes(b"".join(seal_frames(letter, KEY)))


if __name__ == "__main__":
    main()
