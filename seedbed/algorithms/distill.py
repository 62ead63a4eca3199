"""Students of a large teacher, federated: the mission's loss L = (1 − α)·L_task + α·T²·KL on every client, averaged by
FedAvg. Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, arXiv 1503.02531, is its source.

The other way that the mission names, a meta-learned teacher and a small student for a new task, is
`learning.distillation.student_of`: an adaptation, for `personalise` of any algorithm.
"""

from seedbed.algorithms.fedavg import fedavg
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import unadapted
from seedbed.learning.distillation import Teacher, distillation_loss, with_teacher
from seedbed.learning.objectives import Adapt, Predict
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective


def distill(
    loss: Objective,
    predict: Predict,
    *,
    teacher: Teacher,
    alpha: float = 0.5,
    temperature: float = 2.0,
    local: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    adapt: Adapt = unadapted,
) -> Algorithm:
    """θ_i ← local steps on (1 − α)·L_i + α·T²·KL(σ(z_t/T) ‖ σ(z_s/T)) from θ;  θ by FedAvg.

    What is federated is the student: θ goes to the clients and back, as in FedAvg. The teacher never changes, so that
    it is part of the algorithm that every client is given before the first round, like public inputs: its size counts
    once for each client and in no round. It answers on the client, on the client's own examples: nothing more leaves.

    Args:
        loss: L_task, on batches.
        predict: the student, (params, x) -> logits [B, N].
        teacher: x [B, ...] -> logits [B, N].
        alpha: α, 0 (FedAvg) to 1 (the teacher alone).
        temperature: T > 0.
        adapt: how a client makes the student its own; the teacher is not asked then.
    """
    objective = distillation_loss(loss, predict, with_teacher(teacher), alpha=alpha, temperature=temperature)
    return fedavg(objective, local=local, outer=outer, adapt=adapt)
