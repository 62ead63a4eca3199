"""What tests of several rooms share."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def float64() -> Iterator[None]:
    """Inside, tensors are in double precision and computed by one thread: the models of tests are tiny."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def joint_ledgers_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Private runs of tests are counted in a folder of their own, not in the user's."""
    before = os.environ.get("XDG_DATA_HOME")
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data-home"))
    yield
    if before is None:
        del os.environ["XDG_DATA_HOME"]
    else:
        os.environ["XDG_DATA_HOME"] = before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests may take an hour; the others have the limit of pyproject.toml."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))
