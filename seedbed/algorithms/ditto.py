"""Ditto: Li, Hu, Beirami and Smith, "Ditto: fair and robust federated learning through personalization", ICML 2021,
arXiv 2012.04221, Algorithm 1 with FedAvg for its global solver.
"""

from dataclasses import replace

from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Batch, Task
from seedbed.federated import Algorithm, Message, Params
from seedbed.learning.adaptations import guarded_steps
from seedbed.learning.objectives import proximal
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.training import Objective, train


def ditto(
    loss: Objective,
    *,
    lam: float = 1.0,
    local: Optimizer = sgd(0.1),
    personal: Optimizer = sgd(0.1),
    outer: Optimizer = sgd(1.0),
    test_steps: int = 10,
    test_lr: float = 0.1,
) -> Algorithm:
    """θ by FedAvg; beside it every client's own v_i ← steps on L_i(v) + (λ/2)‖v − θ‖², θ as sent in the round.

    Args:
        lam: λ ≥ 0; 0 is local training, ∞ the global model.
        local: of the global model on a client.
        personal: of v_i, on the same items: s of them, in the paper's words. Keep its learning rate below 2/λ.
        test_steps: proximal steps when a client adapts, from the v_i that it keeps; a client never seen begins at θ.
            The paper has known clients only: it is test_steps=0 for those.
        test_lr: their learning rate.
    """
    base = fedavg(loss, local=local, outer=outer)

    def client(sent: Params, v: Params, task: Task) -> tuple[Message, Params]:
        message, _ = base.client(sent, {}, task)
        return message, train(proximal(loss, sent, lam), personal, v, task).params

    def personalise(sent: Params, v: Params, support: Batch) -> Params:
        return guarded_steps(proximal(loss, sent, lam), lr=test_lr, steps=test_steps)(v, support)

    # Departure: v_i begins at the first θ that the client is sent; Algorithm 1 leaves its beginning open.
    return replace(base, client=client, remember=lambda sent: sent, personalise=personalise)
