"""20 times, several processes want one run directory: one goes on to the same bytes, the others say why not (9 minutes)

Two resumes of a killed run, three, and four `seedbed run` with the same --out, as srun without torchrun starts them.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

from killing import SETTINGS, whole
from many_at_once import at_once, stopped, wrong

TIMES = 20


def main() -> int:
    good = 0
    with tempfile.TemporaryDirectory() as folder:
        want = whole(Path(folder) / "whole")
        for number in range(TIMES):
            out = Path(folder) / f"run-{number}"
            kind = number % 4
            if kind == 3:
                commands = [["run", *SETTINGS, "--out", str(out)]] * 4
            else:
                stopped(out, lines=1 + number % 14)
                commands = [["resume", str(out)]] * (3 if kind == 2 else 2)
            reason = wrong(out, at_once(*commands), want)
            good += not reason
            print(f"{len(commands)} × {commands[0][0]}: {reason or 'one went on, the others said why not'}", flush=True)
    print(f"{good} of {TIMES}: one goes on to the bytes of an undisturbed run, each other says in one line why not")
    return 0 if good == TIMES else 1


if __name__ == "__main__":
    sys.exit(main())
