"""One of the ranks of the law table's distributed column: rows in two rounds and an evaluation, one after another.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.agreement.ranks FILE [all]
writes what this rank has found. With `all` it is every row on both engines, else a row for each algorithm on one.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from seedbed.engines import Distributed, OneByOne, Vectorised
from seedbed.engines.process_group import init_group
from seedbed.serialization import pack_tree

from .bench import Past, Row, clients, judging, run
from .rows import ROWS

COUNT, SOME = 2, 3  # rounds; every third algorithm also with a cohort of one, where other ranks have nobody
FIRST = list({row.name: row for row in reversed(ROWS)}.values())  # a row for each algorithm


def found(row: Row, kind: type[OneByOne]) -> list[Any]:
    """Rounds, memories and scores on ranks, as a tree."""
    source = clients(row.items)
    engine = Distributed(kind(source), source)
    past = run(row, engine, count=COUNT)
    alone = run(row, Distributed(kind(source), source), count=1, cohort=1) if row in FIRST[::SOME] else Past([], [])
    return [*told(past), *told(alone), engine.evaluate(row.algorithm, past.rounds[-1].state, judging(), row.net().loss)]


def told(past: Past) -> list[Any]:
    """States, info and memories of a run, as trees."""
    rounds = [[r.state, {n: torch.tensor(v) for n, v in sorted(r.info.items())}] for r in past.rounds]
    return [rounds, [[[torch.tensor(c), m[c]] for c in sorted(m)] for m in past.memories]]


def main(file: Path, whole: bool) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    kinds, rows = ((OneByOne, Vectorised), ROWS) if whole else ((OneByOne,), FIRST)
    with init_group():
        file.write_bytes(pack_tree({str(row): [found(row, kind) for kind in kinds] for row in rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] == ["all"])
