"""What the tests of data share: a check of refusals, and the place of the real data."""

import os
from pathlib import Path

import pytest

from seedbed.errors import InputError

BESIDE = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def refused():
    """Checks that a call is refused in one line that holds all these words."""

    def check(words, make):
        with pytest.raises(InputError) as error:
            make()
        message = str(error.value)
        assert all(word in message for word in words), message
        assert "\n" not in message

    return check


@pytest.fixture
def real():
    """The root of a real data set, or a skip that says what is missing."""

    def root_of(name):
        root = Path(os.environ.get("SEEDBED_DATA") or BESIDE)
        if not (root / name).is_dir():
            pytest.skip(f"no real data: {root / name} is missing (set SEEDBED_DATA to where it lies)")
        return root

    return root_of
