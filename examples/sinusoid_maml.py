"""MAML's first experiment, federated: every client is a sinusoid; a start that bends to a new one from ten points.

    python examples/sinusoid_maml.py        (the measured benchmark, with its band: benchmarks/sinusoid.py)

Finn, Abbeel and Levine, ICML 2017, arXiv 1703.03400, section 5.1.
"""

import numpy as np
import torch

import seedbed as sb
from seedbed.randomness import generator, seeded_init

SEED = 0
ROUNDS = 1000
CLIENTS, POINTS = 1000, 40
COHORT, SHOTS = 25, 10
ALPHA, OUTER = 0.01, sb.adam(1e-3)


def sinusoids() -> sb.Population:
    """y = a·sin(x − p), a in [0.1, 5] and p in [0, π] of a client's own, x in [−5, 5]."""
    rng = generator(SEED, "sinusoids")
    owner = np.repeat(np.arange(CLIENTS), POINTS)
    a, p = rng.uniform(0.1, 5, CLIENTS)[owner], rng.uniform(0, np.pi, CLIENTS)[owner]
    x = rng.uniform(-5, 5, len(owner))
    y = a * np.sin(x - p)
    return sb.Population.from_arrays(torch.as_tensor(x).float()[:, None], torch.as_tensor(y).float(), owner)


def main(rounds: int = ROUNDS) -> None:
    known, unseen = sinusoids().split_clients(unseen=100, seed=SEED)
    with seeded_init(SEED):
        model = sb.Model(sb.mlp((1,), outputs=1, hidden=(40, 40)))
    loss = sb.supervised(model.predict, sb.squared_error)

    algorithm = sb.fedmeta(loss, lr=ALPHA, outer=OUTER)
    engine = sb.Vectorised(sb.Sampled(known, sb.fresh_support(SHOTS, queries=SHOTS), seed=SEED))
    for round in sb.synchronous(algorithm, engine, algorithm.init(model.params), cohort=COHORT, seed=SEED):
        if round.number == rounds:
            break

    new = sb.Sampled(unseen, sb.fresh_support(SHOTS), seed=SEED, purpose="judge")
    for steps in (0, 1, 5, 10):
        judged = sb.fedmeta(loss, lr=ALPHA, outer=OUTER, test_steps=steps)
        found = sb.evaluate(sb.Vectorised(new), judged, round.state, new, loss, higher_is_better=False)
        print(f"{'before' if steps == 0 else f'after {steps} steps of'} adaptation, squared error: {found}")


if __name__ == "__main__":
    main()
