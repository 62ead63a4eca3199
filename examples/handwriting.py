"""Handwriting by writer: one start from ten writers, then a model for a writer never seen. Nothing to download.

python examples/handwriting.py
"""

from dataclasses import replace

import seedbed as sb
from seedbed import tree
from seedbed.federated import as_sent
from seedbed.randomness import seeded_init

SEED = 0
ROUNDS = 100
COHORT = 5  # writers a round
TRAINING = sb.episodes(ways=10, shots=1, queries=3)
JUDGING = sb.episodes(ways=5, shots=1, queries=8, count=50)
OUTER = sb.adam(3e-3)


def main(rounds: int = ROUNDS) -> None:
    known, unseen = sb.read("digits").split_clients()
    with seeded_init(SEED):
        model = sb.Model(sb.conv((1, 8, 8), outputs=10))
    loss = sb.supervised(model.predict, sb.cross_entropy)
    accuracy = sb.per_example(model.predict, sb.correct)

    algorithm = sb.fed_proto(loss, model.features, ways=10, scale=None, outer=OUTER)
    engine = sb.OneByOne(sb.Sampled(known, TRAINING, seed=SEED), workers=2)
    for round in sb.synchronous(algorithm, engine, algorithm.init(model.params), cohort=COHORT, seed=SEED):
        if round.number == rounds:
            break

    new = sb.Sampled(unseen, JUDGING, seed=SEED, purpose="judge")
    for name, judged in {"before": replace(algorithm, personalise=as_sent), "after": algorithm}.items():
        print(f"{name} adaptation: {sb.evaluate(sb.OneByOne(new), judged, round.state, new, accuracy)}")

    # One writer's own model, from one example of each of the ten digits.
    few = sb.Sampled(unseen, sb.episodes(ways=10, shots=1, queries=8), seed=SEED, purpose="one writer")
    episode = tree.index(few.tasks([0], 0).items, (0, 0))
    sent = algorithm.send(round.state, 0)
    own = algorithm.personalise(sent, algorithm.remember(sent), episode.support)
    print(f"{unseen.names[0]}, all ten digits: {float(accuracy(own, episode.query)):.3f}")


if __name__ == "__main__":
    main()
