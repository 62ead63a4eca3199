"""20 runs killed with SIGKILL at random moments and resumed end bit for bit like one never stopped (about 4 minutes)

Every other one of an algorithm whose clients keep something, on disk.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

from killing import killed, whole

from seedbed import randomness

KILLS = 20
KINDS = ((), ("--algorithm", "scaffold", "--set", "client_state=disk"))
LINES = 15  # of metrics: 3 rounds of the probe, 12 of the run


def main() -> int:
    rng = randomness.generator(0, "kills")
    with tempfile.TemporaryDirectory() as folder:
        want = [whole(Path(folder) / f"whole-{kind}", *more) for kind, more in enumerate(KINDS)]
        equal = 0
        for kill in range(KILLS):
            lines, delay = int(rng.integers(0, LINES + 1)), float(rng.uniform(0, 0.05))
            kind = kill % 2
            same = killed(Path(folder) / f"killed-{kill}", lines, *KINDS[kind], delay=delay) == want[kind]
            equal += same
            how = "kept on disk, " if kind else ""
            print(f"{how}killed after line {lines} + {1000 * delay:.0f} ms: {'same' if same else 'DIFFERENT'}")
    print(f"{equal} of {KILLS} bit-identical (parameters, metrics and results)")
    return 0 if equal == KILLS else 1


if __name__ == "__main__":
    sys.exit(main())
