"""Noise is a function of what it hides: two releases that differ in anything have noise of their own."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import seedbed as sb
from seedbed import InputError, tree
from seedbed.privacy.differential import Banded, Gaussian, Independent, TreeAggregation, epsilon, new_key, with_privacy
from seedbed.privacy.differential.accountant import Skellam
from seedbed.privacy.differential.binding import digest_of
from seedbed.privacy.differential.joint_ledger import JointLedger
from seedbed.privacy.differential.noise import Noise

from .parrots import KEY, parrots, summed

LIKE = {"w": torch.zeros(2000, dtype=torch.float64)}
ONE = {"w": torch.ones(2000, dtype=torch.float64) / 50}


def adding(number: float) -> Callable[[float], float]:
    return lambda x: x + number


def test_a_digest_differs_wherever_a_value_does() -> None:
    """Numbers, types, shapes, order of keys (not), closures, partials, code."""
    values: list[Any] = [
        1, 1.0, True, "1", b"1", None, (), [], {}, {"a": 1}, {"a": 2}, {"b": 1}, (1, 2), (2, 1), ((1,), 2), (1, (2,)),
        torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.float32), np.zeros(2), torch.tensor([0.0, 1e-30]),
        adding(1), adding(2), functools.partial(adding, 1), functools.partial(adding, 2), abs, max, int,
        sb.sgd(lr=0.1), sb.sgd(lr=0.2), lambda x: x + 1, lambda x: x + 2,
    ]  # fmt: skip
    assert len({digest_of(value) for value in values}) == len(values)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of(adding(1)) == digest_of(adding(1))


def test_a_value_that_holds_itself_has_a_digest() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert digest_of(loop) != digest_of([1])


PRINTED = """
import seedbed as sb
from seedbed.privacy.differential.binding import digest_of
from tests.agreement.bench import by_hand
print(digest_of(sb.fedavg(by_hand().loss, local=sb.sgd(lr=0.1)), {"b", "a"}).hex())
"""


def test_another_process_has_the_same_digest() -> None:
    """Whatever its seed of hashing: a resumed run must draw the same noise."""
    said = {
        subprocess.run(
            [sys.executable, "-c", PRINTED], env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def released(make: Any, *, lr: float = 0.1, clip: float = 1.0, context: bytes | None = None, moved: float = 0.0) -> Any:
    """Server's step of the first round, and its noise alone, for an algorithm that holds a learning rate."""
    plain = parrots(LIKE)
    inner = plain.client

    def client(sent: Any, kept: Any, task: Any) -> Any:
        message, kept = inner(sent, kept, task)
        return message._replace(value=tree.scale(lr, message.value)), kept

    algorithm = with_privacy(sb.Algorithm(plain.init, client, plain.server), make, clip=clip, context=context)
    state = algorithm.init(tree.map(lambda x: x + moved, LIKE))
    after = algorithm.server(state, summed(algorithm, state, [(ONE, 1.0)]))
    clipped = lr * ONE["w"] * min(1.0, clip / (lr * float(ONE["w"].norm())))
    return (after.params["w"] - moved - clipped / make.expected) / clip


@pytest.mark.parametrize("kind", [Independent, TreeAggregation, Banded])
@pytest.mark.parametrize("change", [{"lr": 0.2}, {"clip": 0.5}], ids=["learning rate", "clip"])
@pytest.mark.parametrize("context", [None, bytes(32)], ids=["by its functions", "by a context"])
def test_another_setting_has_other_noise(kind: Any, change: dict[str, float], context: bytes | None) -> None:
    """A context stands for all settings: with the same one only the clip, which `private` sees, still tells."""
    make = kind(KEY, 1.0, 2, 8)
    a, again = (released(make, context=context) for _ in range(2))
    b = released(make, context=context, **change)  # type: ignore[arg-type]
    assert torch.equal(a, again)
    if context is None or "clip" in change:
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.12
    assert abs(np.corrcoef(a, released(make, context=bytes([1] * 32), **change))[0, 1]) < 0.12  # type: ignore[arg-type]


def test_another_state_has_other_noise() -> None:
    """With a context fresh noise is bound to the state before the round, to its last bit."""
    make = Independent(KEY, 1.0, 2, 8)
    a, b = (released(make, context=bytes(32), moved=x) for x in (0.0, 1e-300))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.12


def test_a_bound_key_is_another_key() -> None:
    assert KEY.bound(b"a").fingerprint != KEY.bound(b"b").fingerprint != KEY.fingerprint
    assert KEY.bound(b"a").fingerprint == Noise(bytes(range(32))).bound(b"a").fingerprint


# ---- over runs --------------------------------------------------------------------------------------------------


def test_runs_on_the_same_data_add_up(tmp_path: Path) -> None:
    """Composed by the accountant; a run that is charged again counts once; other data have a ledger of their own."""
    ledger, one = JointLedger(tmp_path, "f" * 64), {Gaussian(4.0): 10}
    first = ledger.charge("a", one, 1e-5)
    assert (first.runs, first.epsilon) == (1, epsilon(one, 1e-5))
    assert ledger.charge("a", one, 1e-5) == first
    second = JointLedger(tmp_path, "f" * 64).charge("b", {Gaussian(4.0): 10, Gaussian(5.0): 3}, 1e-5)
    assert second.epsilon == epsilon({Gaussian(4.0): 20, Gaussian(5.0): 3}, 1e-5)
    assert "1 earlier private runs" in str(second)
    assert JointLedger(tmp_path, "e" * 64).charge("a", one, 1e-5).runs == 1


def test_a_torn_line_counts_for_nothing_and_an_altered_file_is_refused(tmp_path: Path) -> None:
    ledger = JointLedger(tmp_path, "f" * 64)
    ledger.charge("a", {Gaussian(4.0): 10}, 1e-5)
    whole = ledger.path.read_text()
    ledger.path.write_text(whole + whole[:20])
    assert ledger.charge("b", {Gaussian(4.0): 1}, 1e-5).runs == 2
    assert ledger.charge("b", {Gaussian(4.0): 1}, 1e-5).runs == 2
    ledger.path.write_text("{}x\n")
    with pytest.raises(InputError, match="not as it was written"):
        ledger.charge("c", {Gaussian(4.0): 1}, 1e-5)


def test_unlike_kinds_of_noise_are_accounted_together() -> None:
    """Rényi's bound: above each of them, below their sum."""
    a, b = {Gaussian(4.0): 10}, {Skellam(1e8, 2000.0, 100): 5}
    apart = [epsilon(a, 1e-5), epsilon(b, 1e-5)]
    assert max(apart) < epsilon({**a, **b}, 1e-5) < sum(apart)
    many = {Gaussian(2.0 + i / 10, 0.1): 10 for i in range(12)}
    assert (
        epsilon({Gaussian(3.1, 0.1): 120}, 1e-5) < epsilon(many, 1e-5) < 1.3 * epsilon({Gaussian(2.0, 0.1): 120}, 1e-5)
    )


def test_new_keys_differ() -> None:
    assert new_key() != new_key()
