"""docs/settings.md says what the code says."""

from .loading import ROOT, loaded


def test_the_settings_page_is_that_of_the_code() -> None:
    found = (ROOT / "docs" / "settings.md").read_text()
    made = loaded(ROOT / "docs" / "generate_settings.py").page()
    assert found == made, "docs/settings.md is out of date: run .venv/bin/python docs/generate_settings.py"
    assert " at 0x" not in found
