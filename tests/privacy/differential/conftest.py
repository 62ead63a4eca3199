"""Everything in this room is computed in double precision."""

import pytest


@pytest.fixture(autouse=True)
def in_double_precision(float64: None) -> None:
    """See the fixture float64."""
