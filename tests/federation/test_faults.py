"""A transport that loses, doubles, delays, mixes up, cuts and alters frames: slower, and the same model.

Two hundred seeds: scripts/prove faulty_transport.
"""

from pathlib import Path

import pytest

from .storms import weathered


@pytest.mark.parametrize("seed", range(4))
def test_the_model_of_those_accepted(seed: int, disk: Path) -> None:
    """DW 5: whoever is accepted, the model is that of a simulation in which the same clients answer; no altered frame
    is taken, and no letter is counted twice. Everybody must answer, so that it is also that of no faults at all."""
    storm = weathered("scaffold", disk, seed, quorum=None)
    assert storm.corrupt == 0
    assert storm.doubled == 0
    assert storm.equal
    assert storm.whole
    assert min(storm.happened.values()) > 0


@pytest.mark.parametrize("seed", range(4, 7))
def test_the_model_of_a_quorum(seed: int, disk: Path) -> None:
    """The same with a deadline that leaves some behind."""
    storm = weathered("scaffold", disk, seed, quorum=2, deadline=25.0)
    assert (storm.corrupt, storm.doubled, storm.equal) == (0, 0, True)
    assert not storm.whole


def test_letters_in_parts(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of half a KiB: each letter is several, and each of them may be lost or altered."""
    monkeypatch.setattr("seedbed.deployment.wire.frames.FRAME_CHUNK", 512)
    storm = weathered("fedavg", disk, 0, p=0.1, quorum=None, rounds=2)
    assert (storm.corrupt, storm.doubled, storm.equal, storm.whole) == (0, 0, True, True)
