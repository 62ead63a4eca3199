"""8 attacks by 5 of 25 unlike clients: nnm+trimmed_mean loses ≤ 5 points in the worst of them (about 8 minutes)"""

import sys
from collections.abc import Callable
from functools import partial

import torch
from pieces.hostile import CLASSES, outcome

from seedbed.attacks import ATTACKS, Attack

RECOMMENDED, MOST_LOST, PART, MOMENTUM = "nnm+trimmed_mean", 0.05, 0.2, 0.9
ROUNDS, STEPS, SIZE, SEED = 100, 8, 64, 0
RULES = {  # the mean is FedAvg as it is; under the others clients have momentum
    "mean": {},
    "median": {},
    "trimmed_mean": {"f": PART},
    "geometric_median": {},
    "multi_krum": {"f": PART},
    "centered_clipping": {},
    RECOMMENDED: {"f": PART},
}
STRENGTHS = {"sign_flip": (1.0, 4.0), "noise": (3.0, 10.0), "ipm": (3.0, 10.0), "scaling": (10.0,), "alie": (1.5,)}
MADE = {name: [partial(ATTACKS[name], scale=scale) for scale in scales] for name, scales in STRENGTHS.items()} | {
    "mimic": [ATTACKS["mimic"]],
    "label_flip": [partial(ATTACKS["label_flip"], classes=CLASSES)],
    "stale": [ATTACKS["stale"]],
}


def main() -> int:
    torch.set_num_threads(1)
    print(
        f"accuracy in per cent after {ROUNDS} rounds, seed {SEED}; momentum {MOMENTUM} on the clients but for the mean"
    )
    print(f"{'rule':18}" + "".join(f"{name:>11}" for name in ("no attack", *MADE, "worst lost")))
    lost, best = {}, 0.0
    how = {"seed": SEED, "rounds": ROUNDS, "steps": STEPS, "size": SIZE}
    for rule, settings in RULES.items():
        beta = 0 if rule == "mean" else MOMENTUM

        def worst(makes: list[Callable[..., Attack] | None], rule=rule, settings=settings, beta=beta) -> float:
            return min(outcome(rule, settings, make, PART, momentum=beta, **how).accuracy for make in makes)

        found = [worst(makes) for makes in ([None], *MADE.values())]
        best = best or found[0]  # the mean, unattacked
        lost[rule] = best - min(found[1:])
        print(f"{rule:18}" + "".join(f"{100 * value:>11.1f}" for value in (*found, lost[rule])), flush=True)
    good = lost[RECOMMENDED] <= MOST_LOST
    print(
        f"{RECOMMENDED} loses {100 * lost[RECOMMENDED]:.1f} points of the unattacked mean's {100 * best:.1f} in the "
        f"worst of {len(MADE)} attacks" + ("" if good else ": FALLS SHORT")
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
