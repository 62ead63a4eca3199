"""Skellam noise of 30 plans (ε 0.1 to 50, 10 to 10⁷ numbers, all drawn) against exact probabilities (2 minutes)

Of each plan one client's share, at least a million numbers: χ² of its frequencies and single probabilities against 250
digits, deviation within 1 %.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "privacy"))

from differential.test_samplers import PLANS, check_plan, planned

LEAST = 1_000_000  # numbers drawn, so that their deviation is known to 0.1 %


def main() -> int:
    good, worst = 0, 0.0
    for epsilon, size, cohort in PLANS:
        began = time.process_time()
        made = planned(epsilon, size, cohort)
        try:
            off = check_plan(made, max(size, LEAST))
        except AssertionError as error:
            print(f"ε = {epsilon}, {size} numbers, cohort {cohort}: WRONG: {error}", flush=True)
            continue
        good, worst = good + 1, max(worst, off)
        seconds = time.process_time() - began
        print(f"ε = {epsilon}, {size} numbers of {cohort}: variance off by {off:.3%}, {seconds:.0f} s", flush=True)
    print(f"{good} of {len(PLANS)} plans drawn as exact probabilities have it; deviation within {worst / 2:.2%}")
    return 0 if good == len(PLANS) else 1


if __name__ == "__main__":
    sys.exit(main())
