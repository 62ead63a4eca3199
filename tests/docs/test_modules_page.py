"""docs/modules.md says what happens."""

import pytest

from .loading import ROOT, loaded


@pytest.mark.slow
def test_the_modules_page_is_what_happens() -> None:
    found = (ROOT / "docs" / "modules.md").read_text()
    assert found == loaded(ROOT / "docs" / "generate_modules.py").made(), (
        "docs/modules.md is out of date: run .venv/bin/python docs/generate_modules.py"
    )
