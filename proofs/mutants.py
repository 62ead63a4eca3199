"""Small changes to central code, one at a time: the tests of its room fail for each, or docs/mutants.md says why not

scripts/prove mutants, or for some rooms: .venv/bin/python proofs/mutants.py gate journal [--most 40]. About 5 s a
mutant; a sample of each file, the same every time. docs/mutants.md is where reasons stand, by a mutant's key; the run
fails if more than 5 % live without one.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from pieces.mutating import Bench, mutants, sample

ROOT = Path(__file__).parents[1]
REASONS = ROOT / "docs" / "mutants.md"
WITHOUT = 0.05  # the share of mutants that may live without a reason
LEAST, TIMES = 20.0, 3.0  # seconds of a mutant's tests: at least, and as a multiple of what they take without it


class Room(NamedTuple):
    """Files, and the tests that must tell each change in them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    most: int  # mutants of each file


ROOMS = {
    "gate": Room(("seedbed/gate.py",), ("tests/robust/test_gate.py", "-k", "not test_a_malformed or mean"), 60),
    "evaluation": Room(("seedbed/evaluation.py",), ("tests/runs/test_summary.py", "tests/runs/test_judging.py"), 40),
    "compare": Room(("seedbed/runs/comparison.py",), ("tests/runs/test_comparison_rows.py",), 40),
    "journal": Room(
        ("seedbed/runs/directory.py", "seedbed/stored.py"),
        ("tests/runs/test_directory.py",),
        60,
    ),
}


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("rooms", nargs="*", help=f"some of {', '.join(ROOMS)}; left out: all")
    asked.add_argument("--most", type=int, help="mutants of each file")
    asked.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    words = asked.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(10)
    reasons = REASONS.read_text() if REASONS.exists() else ""
    killed = 0
    lives, silent = [], []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = None if words.list else Bench(ROOT, Path(folder))
        for name in words.rooms or ROOMS:
            room = ROOMS[name]
            limit = LEAST
            if bench is not None:
                said, seconds = bench.run(room.tests, 600)
                if said != "passed":
                    print(f"{name}: the tests fail without any change: {' '.join(room.tests)}")
                    return 1
                limit = max(LEAST, TIMES * seconds)
                print(f"{name}: {' '.join(room.tests)} take {seconds:.1f} s", flush=True)
            for path in room.files:
                for mutant in sample(mutants(bench.folder if bench else ROOT, path), words.most or room.most):
                    if bench is None:
                        print(mutant.line, mutant.key)
                        continue
                    said, seconds = bench.run(room.tests, limit, mutant)
                    killed += said != "passed"
                    if said == "passed":
                        lives.append(mutant)
                        known = f"`{mutant.key}`" in reasons
                        silent += [] if known else [mutant]
                        how = "lives, for a reason" if known else "LIVES"
                        print(f"{how}: line {mutant.line}: `{mutant.key}`", flush=True)
    total = killed + len(lives)
    print(
        f"{total} mutants: {killed} killed, {len(lives)} live, {len(silent)} of them without a reason "
        f"({len(silent) / max(1, total):.1%}; at most {WITHOUT:.0%})"
    )
    return 0 if len(silent) <= WITHOUT * total else 1


if __name__ == "__main__":
    sys.exit(main())
