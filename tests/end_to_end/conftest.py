"""What the end-to-end tests share: one thread, small data, Ctrl-C at will, real data."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from seedbed.experiments.run_directory import RunDirectory

from .bench import look_at_few, table

BESIDE = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "wards.csv"
    path.write_text(table())
    return path


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ctrl-C right after so many checkpoints; 0: never again."""
    save, left = RunDirectory.save, [0]

    def saving(run: RunDirectory, *arguments: object) -> None:
        save(run, *arguments)  # type: ignore[arg-type]
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "save", saving)
    return lambda count: left.__setitem__(0, count)


@pytest.fixture
def real() -> Callable[[str], Path]:
    """The folder of a real data set, or a skip that says what is missing."""

    def root_of(name: str) -> Path:
        root = Path(os.environ.get("SEEDBED_DATA") or BESIDE)
        if not (root / name).is_dir():
            pytest.skip(f"no real data: {root / name} is missing (set SEEDBED_DATA to where it lies)")
        return root / name

    return root_of


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Five clients of 20 examples, three classes, as an .npz."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 100)
    x = rng.normal(size=(100, 4)).astype(np.float32) + y[:, None]
    path = tmp_path / "a.npz"
    np.savez(path, x=x, y=y, client=np.repeat(list("abcde"), 20))
    return path


@pytest.fixture
def few_tunings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing how to fine-tune looks at few ways: for tests of something else."""
    look_at_few(monkeypatch)
