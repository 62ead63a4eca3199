"""an audit by 1,000 canaries: ε = 2 that holds is not refuted; noise left out or ten times too small is (1 minute)"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track

from seedbed import tree
from seedbed.audit.attacks.canary_bound import lower_bound
from seedbed.audit.canaries import guess_participation
from seedbed.privacy.differential import Independent, Noise, new_key, noise_for
from seedbed.tree import Tree

RUNS, CANARIES, EPSILON, DELTA, RATE, ROUNDS = 40, 1000, 2.0, 1e-5, 0.2, 20


@dataclass(frozen=True)
class Weakened(Independent):
    """The real mechanism, which claims what it claims, with less noise."""

    factor: float = 1.0

    def noise(self, like: Tree, round: int) -> Tree:
        return tree.scale(self.factor, super().noise(like, round))


def bounds(factor: float) -> list[float]:
    """The lower bound on ε of each run: other coins and another key."""
    z = noise_for(EPSILON, DELTA, rate=RATE, times=ROUNDS)
    found = []
    for seed in track(range(RUNS), f"noise × {factor:g}"):
        mechanism = Weakened(Noise(new_key()), z, round(RATE * CANARIES), CANARIES, factor)
        found.append(lower_bound(guess_participation(mechanism, 1.0, ROUNDS, seed=seed), DELTA))
    return found


def main() -> int:
    torch.set_num_threads(1)
    over, words = {}, []
    for factor in (1.0, 0.5, 0.1, 0.0):
        found = bounds(factor)
        over[factor] = sum(b > EPSILON for b in found)
        words.append(f"noise × {factor:g}: refuted {over[factor]} of {RUNS} (ε ≥ {np.median(found):.2f} in the median)")
    print("; ".join(words))
    return 0 if over[1.0] <= RUNS // 20 and over[0.1] == over[0.0] == RUNS else 1


if __name__ == "__main__":
    sys.exit(main())
