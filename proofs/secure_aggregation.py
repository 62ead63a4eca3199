"""secure aggregation: 200 of 200 sums exact with 30 % lost at each stage and at all; 200 of 200 masked = plain"""

import sys
from pathlib import Path

import numpy as np
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "privacy"))
from bench import is_exact, losses, plan, survivors

from seedbed.privacy.secure import FixedPointGrid, SecAggPlan, secure_sum
from seedbed.privacy.secure.in_process import plain_sum

CASES = 200


def lost_at_every_stage(seed: int, kind: str) -> tuple[bool, bool]:
    """Whether it went as it must, and whether it must have ended in a sum."""
    rng = np.random.default_rng([seed, "0123m".index(kind[0])])
    lost = losses(rng, kind)
    settings = [{"threshold": 4}, {"threshold": 13, "malicious_server": True}, {"neighbours": 8, "threshold": 4}]
    agreed = plan(round=seed, **settings[seed % 3])
    return is_exact(agreed, lost, rng), survivors(agreed, lost) is not None


def masked_is_plain(seed: int) -> bool:
    rng = np.random.default_rng([seed, 9])
    n, d = int(rng.integers(4, 40)), int(rng.integers(1, 2000))
    k = int(rng.integers(3, n))
    grid = FixedPointGrid(clip=float(rng.uniform(0.1, 10)), bits=int(rng.integers(8, 40)), clients=n)
    agreed = SecAggPlan("r", seed, 0, d, k, int(rng.integers(2, max(3, k // 2 + 1))), grid=grid)
    updates = {c: rng.normal(size=d) for c in range(n)}
    weights = {c: float(rng.uniform(0, 1)) for c in updates}
    return bool((secure_sum(agreed, updates, weights).words == plain_sum(grid, updates, weights)).all())


def main() -> int:
    words, good = [], True
    for kind in ("0", "1", "2", "3", "mixed"):
        stage = "all four stages" if kind == "mixed" else f"stage {kind}"
        cases = [lost_at_every_stage(seed, kind) for seed in track(range(CASES), f"30 % lost at {stage}")]
        right, sums = (sum(column) for column in zip(*cases, strict=True))
        good &= right == CASES
        words.append(f"30 % lost at {stage}: {right} of {CASES} ({sums} exact sums, {CASES - sums} named aborts)")
    equal = sum(masked_is_plain(seed) for seed in track(range(CASES), "masked = plain"))
    print("; ".join([*words, f"masked = plain, bit for bit: {equal} of {CASES}"]))
    return 0 if good and equal == CASES else 1


if __name__ == "__main__":
    sys.exit(main())
