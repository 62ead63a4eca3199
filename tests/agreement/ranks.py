"""One of the ranks of the law table's distributed column: every row, in two rounds and an evaluation.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m tests.agreement.ranks FILE
writes what this rank has found. With the variables left out it is alone.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from seedbed.engines import Distributed, OneByOne, Vectorised
from seedbed.engines.ranks import joined
from seedbed.stored import pack

from .bench import Row, clients, judging, run
from .rows import ROWS

COUNT = 2


def found(row: Row, kind: type[OneByOne]) -> list[Any]:
    """Rounds, memories and scores, as a tree."""
    source = clients(row.items)
    engine = Distributed(kind(source), source)
    past = run(row, engine, count=COUNT)
    rounds = [[r.state, {n: torch.tensor(v) for n, v in r.info.items()}] for r in past.rounds]
    scores = engine.evaluate(row.algorithm, past.rounds[-1].state, judging(), row.net().loss)
    return [rounds, [[[torch.tensor(c), m[c]] for c in sorted(m)] for m in past.memories], dict(scores)]


def main(file: Path) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    with joined():
        both = {str(row): [found(row, kind) for kind in (OneByOne,)] for row in ROWS}
        file.write_bytes(pack(both))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
