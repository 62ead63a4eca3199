"""The law table's distributed column: real processes, joined as torchrun joins them.

Any number of ranks gives the same bits, and what one process gives without ranks, to 1e-10.
"""

import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seedbed import tree
from seedbed.engines import Distributed, OneByOne, Vectorised
from seedbed.engines.exact_sum import LARGEST_TERM, ExactSum
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Message, MessageBatch
from seedbed.serialization import pack_tree, unpack_tree

from .bench import SIZES, TOLERANCE, Past, Row, apart, clients, run
from .ranks import COUNT, FIRST, SOME, found, told
from .rows import ROWS

ROOT = Path(__file__).parents[2]


def ranks(count: int, folder: Path, *words: str) -> list[bytes]:
    """What each of so many ranks has found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    together = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    files = [folder / f"{rank}.bin" for rank in range(count)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.agreement.ranks", str(file), *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **together, "RANK": str(rank)},
        )
        for rank, file in enumerate(files)
    ]
    assert [process.wait(timeout=280) for process in started] == [0] * count
    return [file.read_bytes() for file in files]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What two ranks have found of each algorithm."""
    return ranks(2, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
def test_two_ranks_give_what_one_process_does(pair: list[bytes]) -> None:
    """Every algorithm: both ranks the same bits, and the plain engine's rounds, memories and scores to 1e-10; some also
    with a cohort of one, where the other rank has nobody."""
    assert pair[0] == pair[1]
    got = unpack_tree(pair[0])
    assert list(got) == [str(row) for row in FIRST]
    for row in FIRST:
        [[*pasts, scores]] = got[str(row)]
        plain = run(row, OneByOne(clients(row.items)), count=COUNT)
        few = row in FIRST[::SOME]
        alone = run(row, OneByOne(clients(row.items)), count=1, cohort=1) if few else Past([], [])
        assert apart([*told(plain), *told(alone)], pasts) <= TOLERANCE, row
        assert list(scores) == list(range(len(SIZES)))


def test_two_ranks_give_the_bits_of_one(pair: list[bytes]) -> None:
    """Some algorithms of each kind, scores too; all of them: the slow test below."""
    for row in FIRST[::6]:
        assert apart(unpack_tree(pack_tree(found(row, OneByOne))), unpack_tree(pair[0])[str(row)][0]) == 0, row


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_every_row_on_both_engines(count: int, tmp_path: Path) -> None:
    """All variants. One by one: the bits that a rank alone gives, whatever the number of ranks; stacked: to 1e-10."""
    several = ranks(count, tmp_path, "all")
    assert len(set(several)) == 1
    got = unpack_tree(several[0])
    for row in ROWS:
        for mine, kind in zip(got[str(row)], (OneByOne, Vectorised), strict=True):
            assert apart(unpack_tree(pack_tree(found(row, kind))), mine) <= (0 if kind is OneByOne else TOLERANCE), row


# ---- sums ------------------------------------------------------------------------------------------------------


def test_an_exact_sum_is_the_same_in_any_order_and_parts() -> None:
    """Of numbers from 1e-12 to 1e12, where sums of floats differ; and right to the last digit of double precision."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 70, generator=g) * 10 ** torch.linspace(-12, 12, 70)
    w = torch.rand(300, generator=g)
    whole, parts, order = ExactSum(70), [ExactSum(70), ExactSum(70)], torch.randperm(300, generator=g)
    whole.add([x[:, :30].reshape(300, 5, 6), x[:, 30:]], w)
    for part, some in zip(parts, (order[:7], order[7:]), strict=True):
        for i in some:
            part.add([x[i : i + 1]], w[i : i + 1])
        part.widen()
    assert not torch.equal((w @ x), (w[order] @ x[order]))
    assert torch.equal(whole.grids, parts[0].grids + parts[1].grids)
    right = torch.tensor([math.fsum((w * column).tolist()) for column in x.T])
    assert ((whole.total() - right).abs() <= 1e-15 * right.abs() + 300 * 2.0**-61).all()


def asked(engine: Distributed, algorithm: Algorithm, row: Row) -> list[MessageBatch]:
    return list(engine.ask(algorithm, dict.fromkeys(range(4), algorithm.send(row.start, 0)), 0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 4 * LARGEST_TERM])
def test_what_cannot_be_summed_is_lost_and_the_others_are_not(bad: float) -> None:
    """Client 1 sends one number that is bad: the mean is that of the others, to the bit, and client 1 is named."""
    row, source = FIRST[0], clients(FIRST[0].items)

    def client(sent: Any, kept: Any, task: Any) -> tuple[Message, Any]:
        message, kept = row.algorithm.client(sent, kept, task)
        value = tree.map(lambda x: torch.where(task.examples == SIZES[1], torch.full_like(x, bad), x), message.value)
        return message._replace(value=value), kept

    engine = Distributed(OneByOne(source), source)
    [group] = asked(engine, replace(row.algorithm, client=client), row)
    others = dict.fromkeys((0, 2, 3), row.algorithm.send(row.start, 0))
    [want] = engine.ask(row.algorithm, others, 0)
    assert group.members == [[0, 2, 3]]
    assert apart(group.messages, want.messages) == 0
    assert list(group.lost) == [1]
    assert "not finite" in group.lost[1] or "too large" in group.lost[1]


def test_of_nobody_whose_message_is_sound_no_message_is_left() -> None:
    row, source = FIRST[0], clients(FIRST[0].items)

    def client(sent: Any, kept: Any, task: Any) -> tuple[Message, Any]:
        message, kept = row.algorithm.client(sent, kept, task)
        return message._replace(weight=0 * message.weight), kept

    [group] = asked(Distributed(OneByOne(source), source), replace(row.algorithm, client=client), row)
    assert not group.clients
    assert group.lost == dict.fromkeys(range(4), "weight not above 0")


def test_every_message_is_handed_out_where_it_is_asked_for() -> None:
    """The very groups of the engine inside."""
    row, source = FIRST[0], clients(FIRST[0].items)
    groups = asked(Distributed(OneByOne(source), source, each=True), row.algorithm, row)
    assert [group.clients for group in groups] == [[0], [1], [2], [3]]
    assert all(group.members is None for group in groups)


def test_messages_of_unlike_structure_are_refused_where_they_would_be_summed() -> None:
    row, source = FIRST[0], clients(FIRST[0].items)

    def client(sent: Any, kept: Any, task: Any) -> tuple[Message, Any]:
        message, kept = row.algorithm.client(sent, kept, task)
        return (message._replace(value=[message.value]) if task.examples == SIZES[2] else message), kept

    with pytest.raises(InputError, match="client 2 sent a message of another structure"):
        asked(Distributed(OneByOne(source), source), replace(row.algorithm, client=client), row)
