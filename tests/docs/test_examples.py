"""Every example runs, for a few rounds, and says what adaptation did."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .loading import ROOT, loaded

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def generator_left_alone() -> Iterator[None]:
    """No example moves PyTorch's global generator."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded(path).main(rounds=2)
    said = capsys.readouterr().out
    assert "before" in said
    assert "after" in said
    assert "nan" not in said


def test_the_worked_algorithm_is_the_example() -> None:
    """docs/write_an_algorithm.md and examples/write_an_algorithm.py hold the same function."""
    example = (ROOT / "examples" / "write_an_algorithm.py").read_text()
    page = (ROOT / "docs" / "write_an_algorithm.md").read_text()
    function = example[example.index("def sign_avg") : example.index("def main")].strip()
    assert function in page
