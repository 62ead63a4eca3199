"""a backdoor by 3 of 25 unlike clients opens for ≤ 10 % with norm_bounding+trimmed_mean (about 1 minute)"""

import sys
from functools import partial
from statistics import fmean

import torch
from pieces.hostile import SHAPE, outcome

from seedbed.attacks import ATTACKS

RECOMMENDED, MOST_OPENED, ROUNDS, SEEDS, PART = "norm_bounding+trimmed_mean", 0.10, 60, (0, 1), 0.1
RULES = {
    "mean": {},
    "norm_bounding": {},
    "trimmed_mean": {"f": 0.2},
    RECOMMENDED: {"f": 0.2},
}
BOOSTS = (1.0, 5.0, 10.0)


def main() -> int:
    torch.set_num_threads(1)
    print(f"per cent after {ROUNDS} rounds, mean over {len(SEEDS)} seeds: the backdoor opens (accuracy)")
    print(f"{'rule':28}" + "".join(f"{f'boost {boost:g}':>16}" for boost in BOOSTS))
    worst = {}
    for rule, settings in RULES.items():
        cells = []
        for boost in BOOSTS:
            make = partial(ATTACKS["backdoor"], shape=SHAPE, boost=boost)
            runs = [outcome(rule, settings, make, PART, seed=seed, rounds=ROUNDS) for seed in SEEDS]
            cells.append((fmean(run.opened for run in runs), fmean(run.accuracy for run in runs)))
        worst[rule] = max(opened for opened, _ in cells)
        print(f"{rule:28}" + "".join(f"{100 * a:>8.1f} ({100 * b:4.1f})" for a, b in cells), flush=True)
    good = worst[RECOMMENDED] <= MOST_OPENED
    print(f"{RECOMMENDED}: the backdoor opens for {worst[RECOMMENDED]:.1%}" + ("" if good else ": FALLS SHORT"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
