"""A new algorithm in one function: FedAvg whose clients send one bit a parameter. docs/write_an_algorithm.md tells how.

python examples/write_an_algorithm.py
"""

from dataclasses import replace

import seedbed as sb
from seedbed import tree
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Message, Params, as_sent
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective
from seedbed.randomness import seeded_init
from seedbed.tree import Tree

SEED = 0
ROUNDS = 60
SHOTS = 20  # examples that an unseen writer adapts to
LOCAL = sgd(0.1)


def sign_avg(
    loss: Objective, *, local: Optimizer = sgd(0.1), outer: Optimizer = sgd(1.0), adapt: Adapt = unadapted
) -> Algorithm:
    """FedAvg with signs for updates: p = θ − θ_i + e_i is sent as s·sign(p), s = mean|p|; e_i ← p − s·sign(p)."""
    base = sb.fedavg(loss, local=local, outer=outer, adapt=adapt)

    def client(sent: Params, e: Tree, task: Task) -> tuple[Message, Tree]:
        message, _ = base.client(sent, {}, task)
        p = tree.add(message.value, e)
        # Departure: a scale for each tensor, not one for all; layers differ in size by orders of magnitude.
        delta = tree.map(lambda x: x.abs().mean() * x.sign(), p)
        return message._replace(value=delta), tree.sub(p, delta)

    return replace(base, client=client, remember=tree.zeros_like)


def main(rounds: int = ROUNDS) -> None:
    known, unseen = sb.read("digits").split_clients()
    with seeded_init(SEED):
        model = sb.Model(sb.mlp((1, 8, 8), outputs=10))
    loss = sb.supervised(model.predict, sb.cross_entropy)
    accuracy = sb.per_example(model.predict, sb.correct)
    new = sb.Sampled(unseen, sb.fresh_support(SHOTS, draws=10), seed=SEED, purpose="judge")

    for make in (sb.fedavg, sign_avg):
        algorithm = make(loss, local=LOCAL, adapt=sb.gradient_steps(loss, lr=0.1, steps=10))
        engine = sb.Vectorised(sb.Sampled(known, sb.batches(10), seed=SEED))
        for round in sb.synchronous(algorithm, engine, algorithm.init(model.params), seed=SEED):
            if round.number == rounds:
                break
        for name, judged in {"before": replace(algorithm, personalise=as_sent), "after": algorithm}.items():
            found = sb.evaluate(sb.Vectorised(new), judged, round.state, new, accuracy)
            print(f"{make.__name__}, {name} adaptation: {found}")


if __name__ == "__main__":
    main()
