"""Peers and plain loops beside Seedbed: the same work, in turn, in one run.

    python benchmarks/peers/run.py                                  # all workloads, all peers
    python benchmarks/peers/run.py --only a b --peers flower jax    # these
    python benchmarks/peers/run.py --write docs/performance.md      # also puts the tables there
    python benchmarks/peers/run.py --missing                        # goes on after one that was stopped
    python benchmarks/peers/run.py --again --write docs/performance.md    # measures nothing: tables of what is kept

Each peer is installed once, with pinned versions, in an environment of its own (environments.py), and runs as a process
of its own. All get the same made-up batches and the same first weights; a contestant whose parameters after the first
round are further than 2e-4 from the plain loop's computes something else and is left out, with the distance. Then all
take turns, a block of rounds each and the first to go another each time, while the others wait; between the turns a
large product of matrices is timed, which is the limit. Ratios are of neighbours in time, so that what else the machine
does falls on both; a ratio is their median, with the quartiles. After the last turn each takes one more, in which the
memory of all its processes is watched. A finished workload is kept in a file of its own, with when and by what command
it was measured.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import environments
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from entrants import ENTRANTS, LETTERS, entrants
from figures import arguments, machine, report
from kept import keep, kept
from race import Race, Say, race
from tables import figures, heads, place, put, rows

from seedbed.bench.workloads import WORKLOADS
from seedbed.errors import InputError

MEASURED = Path(__file__).parent / "measured"


def chosen() -> argparse.Namespace:
    """What the command line says."""
    parser = arguments(__doc__ or "")
    known = sorted({e.peer for e in ENTRANTS if e.peer})
    parser.add_argument("--only", nargs="+", choices=LETTERS, default=list(LETTERS), help="workloads")
    parser.add_argument("--peers", nargs="*", choices=known, default=known, help="without a name: none")
    parser.add_argument("--turns", type=int, default=9, help="of every contestant, each of about half a second")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", default=MEASURED, help="of finished workloads")
    parser.add_argument("--missing", action="store_true", help="measure only workloads that are not kept")
    parser.add_argument("--again", action="store_true", help="measure nothing: show and write what is kept")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what contestants print here")
    settings = parser.parse_args()
    if settings.turns < 1:
        parser.error(f"--turns {settings.turns}: a contestant needs at least 1")
    return settings


def measured(letter: str, settings: argparse.Namespace, folder: Path, say: Say) -> Race:
    """Race this workload's entrants, and keep what it gave."""
    found = race(letter, entrants(letter, settings.peers), settings.turns, folder.resolve(), say)
    found.when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    found.command = command(letter, settings)
    found.versions = {e.name: environments.versions(e.peer) for e in ENTRANTS if e.peer and e.name in found.first}
    found.machine = f"{machine()}, load {os.getloadavg()[2]:.1f} over 15 min, {platform.platform(terse=True)}"
    keep(settings.client_state, found)
    return found


def command(letter: str, settings: argparse.Namespace) -> str:
    """What measures this workload alone in the same way."""
    every = sorted(settings.peers) == sorted({e.peer for e in ENTRANTS if e.peer})
    peers = [] if every else ["--peers", *settings.peers]
    return shlex.join(["python", "benchmarks/peers/run.py", "--only", letter, "--turns", str(settings.turns), *peers])


def one_by_one(settings: argparse.Namespace, folder: Path, console: Console) -> Iterator[Race]:
    """The workloads asked for, each shown and written as it is done."""
    say = partial(console.print, style="dim", highlight=False)
    for letter in settings.only:
        found = kept(settings.client_state, letter) if settings.missing or settings.again else None
        if found is None and settings.again:
            say(f"({letter}) is not kept in {settings.client_state}: nothing to show")
            continue
        found = found or measured(letter, settings, folder, say)
        table = Table(*heads(found), title=f"({letter}) {WORKLOADS[LETTERS[letter]].what}", title_justify="left")
        for row in rows(found):
            table.add_row(*row)
        console.print(table)
        if settings.write:
            put(settings.write, found)
        yield found


@contextmanager
def logs(settings: argparse.Namespace) -> Iterator[Path]:
    """A folder for what contestants print, which goes if nobody asked for it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def main() -> int:
    settings = chosen()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that contestants are ended
    began, console = time.perf_counter(), Console()
    try:
        for letter in settings.only if settings.write else ():
            place(settings.write, letter)
        with logs(settings) as folder:
            races = list(one_by_one(settings, folder, console))
    except InputError as reason:
        print(reason, file=sys.stderr)
        return 2
    notes = [f"({f.workload}) left out: {name}: {reason}" for f in races for name, reason in f.left.items()]
    notes += [f"({f.workload}) measured {f.when} by {f.command}" for f in races]
    every = [figure for found in races for figure in figures(found)]
    code = report("Beside peers, on the same work in turn", every, settings=settings, began=began, notes=notes)
    if settings.json:
        whole = json.loads(settings.json.read_text()) | {"races": [asdict(found) for found in races]}
        settings.json.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
