"""docs/algorithms.md says what the code does."""

from seedbed.algorithms.catalogue import CATALOGUE

from .loading import ROOT, loaded


def test_the_algorithms_page_is_that_of_the_code() -> None:
    found = (ROOT / "docs" / "algorithms.md").read_text()
    made = loaded(ROOT / "docs" / "generate_algorithms.py").page()
    assert found == made, "docs/algorithms.md is out of date: run .venv/bin/python docs/generate_algorithms.py"
    assert " at 0x" not in found
    assert all(found.count(f"`{name}`") >= 3 for name in CATALOGUE)
