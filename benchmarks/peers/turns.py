"""What a contestant is given, and how it takes turns: one program a peer, run in that peer's own environment.

A contestant is started as `python by_NAME.py WORK.npz [ARGUMENTS]` and calls `wait` before each round, which returns
when the round may begin. Over its standard input and output it hears and says one JSON object a line:

    says   {"ready": true}          once, before its first round
    hears  {"go": 3}                three rounds, then says {"seconds": what the three took together}
    hears  {"save": "FILE.npz"}     writes the shared parameters, then says {"saved": true}
    hears  {"stop": true}           or the end of its input: `wait` returns False

What the peer itself prints goes to standard error. Shapes: C clients, K steps, B examples of a batch.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Params = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Work:
    """What all contestants compute: FedAvg's rounds, or MAML's.

    Attributes:
        name: of the workload.
        lr: of local SGD, of MAML's outer step.
        inner_lr: of MAML's inner step.
        params: the first weights, by PyTorch's names.
        x, y: [C, K, B, ...] and [C, K, B]: the batches of a round, the same in every round; of MAML the support.
        query_x, query_y: of MAML.
    """

    name: str
    lr: float
    inner_lr: float
    params: Params
    x: Any
    y: Any
    query_x: Any = None
    query_y: Any = None

    @property
    def clients(self) -> int:
        return int(self.y.shape[0])


def read(path: str) -> Work:
    """What `write` wrote."""
    with np.load(path, allow_pickle=False) as file:
        params = {n.removeprefix("params."): file[n] for n in file.files if n.startswith("params.")}
        given = {n: file[n] for n in ("x", "y", "query_x", "query_y") if n in file.files}
        return Work(str(file["name"]), float(file["lr"]), float(file["inner_lr"]), params, **given)


def write(path: str, work: Work) -> None:
    """Into one file without pickled objects."""
    arrays = {n: getattr(work, n) for n in ("x", "y", "query_x", "query_y") if getattr(work, n) is not None}
    named = {f"params.{n}": p for n, p in work.params.items()}
    np.savez(path, name=work.name, lr=work.lr, inner_lr=work.inner_lr, **arrays, **named)


class Turns:
    """A contestant's side; make it before the peer is imported, so that nothing of the peer's is said in between."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.work = read(sys.argv[1])
        self._left, self._asked, self._began = 0, 0, 0.0

    def wait(self, params: Callable[[], Mapping[str, Any]]) -> bool:
        """Return when the next round may begin; False: there is none.

        Args:
            params: gives the shared parameters after the rounds so far, by PyTorch's names.
        """
        if self._left == 0:
            self._say({"seconds": time.perf_counter() - self._began} if self._asked else {"ready": True})
            if not self._heard(params):
                return False
        self._left -= 1
        return True

    def _heard(self, params: Callable[[], Mapping[str, Any]]) -> bool:
        for line in sys.stdin:
            heard = json.loads(line)
            if "go" in heard:
                self._left = self._asked = heard["go"]
                self._began = time.perf_counter()
                return True
            if "save" not in heard:
                break
            np.savez(heard["save"], **{n: np.asarray(p) for n, p in params().items()})
            self._say({"saved": True})
        return False

    def _say(self, what: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()
