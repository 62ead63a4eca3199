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
SLOWER = 300.0  # seconds that the slower tests may take
LEAST, TIMES = 20.0, 3.0  # seconds of a mutant's tests: at least, and as a multiple of what they take without it


class Room(NamedTuple):
    """Files, and the tests that must tell each change in them.

    Attributes:
        most: mutants of each file.
        slower: tests that are asked only where the first tell nothing.
    """

    files: tuple[str, ...]
    tests: tuple[str, ...]
    most: int
    slower: tuple[str, ...] = ()


ROOMS = {
    "gate": Room(
        ("seedbed/rounds/message_validation.py",),
        ("tests/robust/test_gate.py", "-k", "not test_a_malformed or mean"),
        60,
    ),
    "evaluation": Room(
        ("seedbed/evaluation.py",),
        ("seedbed/evaluation.py", "tests/runs/test_summary.py", "tests/runs/test_judging.py"),
        40,
    ),
    "compare": Room(
        ("seedbed/experiments/comparison.py",),
        ("tests/runs/test_comparison_rows.py",),
        40,
        ("tests/runs/test_comparison.py", "-k", "cells or rows_are_means or unknown_name or diverges"),
    ),
    "journal": Room(
        ("seedbed/experiments/run_directory.py", "seedbed/serialization.py"),
        ("tests/runs/test_directory.py",),
        40,
        ("tests/runs/test_identity.py",),
    ),
    "identity": Room(
        ("seedbed/experiments/identity.py",),
        (
            *("seedbed/experiments/identity.py", "tests/runs/test_identity.py", "-k"),
            "doctest or version or device or not_added or default or every_line or by_name"
            " or leaves_out or to_add or among_other or is_cut",
        ),
        40,
    ),
    "locks": Room(("seedbed/locks.py",), ("seedbed/locks.py", "tests/runs/test_locks.py"), 40),
    "kept": Room(("seedbed/engines/client_state_store.py",), ("tests/engines/test_kept.py",), 40),
    "accountant": Room(
        ("seedbed/privacy/differential/accountant.py",), ("tests/privacy/differential/test_accountant.py",), 30
    ),
    "clipping": Room(
        ("seedbed/privacy/differential/contribution_clip.py",),
        ("tests/privacy/differential/test_sensitivity.py",),
        30,
        ("tests/privacy/differential/test_clip_margin.py",),
    ),
    "ledger": Room(
        ("seedbed/privacy/differential/ledger.py",),
        ("tests/privacy/differential/test_ledger.py",),
        40,
        ("tests/privacy/differential/test_binding.py",),
    ),
    "noise": Room(
        ("seedbed/privacy/differential/noise.py", "seedbed/privacy/differential/mechanisms.py"),
        ("tests/privacy/differential/test_noise.py", "tests/privacy/differential/test_private.py"),
        30,
        ("tests/privacy/differential/test_binding.py", "tests/privacy/differential/test_samplers.py"),
    ),
    "discrete": Room(
        ("seedbed/privacy/differential/discrete.py", "seedbed/privacy/differential/distributed_noise.py"),
        ("tests/privacy/differential/test_discrete.py", "tests/privacy/test_distributed.py"),
        30,
        ("tests/privacy/differential/test_samplers.py",),
    ),
    "central": Room(
        ("seedbed/privacy/differential/central.py",),
        ("tests/privacy/differential/test_private.py",),
        30,
        ("tests/privacy/differential/test_binding.py",),
    ),
    "records": Room(("seedbed/privacy/differential/records.py",), ("tests/privacy/differential/test_records.py",), 20),
    "secure": Room(
        (
            *("seedbed/privacy/secure/secagg_protocol.py", "seedbed/privacy/secure/secagg_client.py"),
            *("seedbed/privacy/secure/secagg_server.py", "seedbed/privacy/secure/shamir.py"),
        ),
        ("tests/privacy/test_secure_aggregation.py",),
        30,
        ("tests/privacy/test_junk.py", "tests/privacy/test_odds.py", "tests/privacy/test_colluding.py"),
    ),
    "sums": Room(
        ("seedbed/privacy/secure/fixed_point.py", "seedbed/privacy/secure/sum_engine.py"),
        ("tests/privacy/test_fixed_point.py", "tests/privacy/test_summed.py"),
        30,
    ),
    "federation": Room(
        (
            "seedbed/deployment/federation/journal.py",
            "seedbed/deployment/federation/state_machine.py",
            "seedbed/deployment/federation/server.py",
        ),
        ("tests/federation/test_journal.py", "tests/federation/test_server.py"),
        40,
    ),
    "frames": Room(("seedbed/deployment/wire/frames.py",), ("tests/wire/test_frames.py", "-k", "not 10_000"), 30),
}


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("rooms", nargs="*", help=f"some of {', '.join(ROOMS)}; left out: all")
    asked.add_argument("--most", type=int, help="mutants of each file")
    asked.add_argument("--like", default="", help="only mutants whose key holds this text")
    asked.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    words = asked.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(10)
    reasons = REASONS.read_text() if REASONS.exists() else ""
    killed = late = 0
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
                every = mutants(bench.folder if bench else ROOT, path)
                for mutant in sample([each for each in every if words.like in each.key], words.most or room.most):
                    if bench is None:
                        print(mutant.line, mutant.key)
                        continue
                    said, seconds = bench.run(room.tests, limit, mutant)
                    if said == "passed" and room.slower:
                        said, seconds = bench.run(room.slower, SLOWER, mutant)
                    killed += said != "passed"
                    late += said == "too long"
                    how = "killed" if said == "failed" else said
                    if said == "passed":
                        lives.append(mutant)
                        known = f"`{mutant.key}`" in reasons
                        silent += [] if known else [mutant]
                        how = "lives, for a reason" if known else "LIVES"
                    print(f"{how}: line {mutant.line}: `{mutant.key}`", flush=True)
    total = killed + len(lives)
    print(
        f"{total} mutants: {killed} killed ({late} by running too long), {len(lives)} live, "
        f"{len(silent)} of them without a reason ({len(silent) / max(1, total):.1%}; at most {WITHOUT:.0%})"
    )
    return 0 if len(silent) <= WITHOUT * total else 1


if __name__ == "__main__":
    sys.exit(main())
