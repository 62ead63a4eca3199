"""Meta-SGD, federated: Li, Zhou, Chen and Li, "Meta-SGD: learning to learn quickly for few-shot learning", 2017,
arXiv 1707.09835, equation 4; federated as in FedMeta (Chen et al. 2018, arXiv 1802.07876, Algorithm 1).

With each="tensor_and_step" and `multi_step_rounds` it is what MAML++ says of learned rates and of the loss: Antoniou,
Edwards and Storkey, "How to train your MAML", ICLR 2019, arXiv 1810.09502, section 4.
"""

from dataclasses import replace
from functools import partial

from seedbed.algorithms.fedsgd import fedsgd
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Params, Replies, ServerState, uniform
from seedbed.learning.adaptations import DONE, RateGranularity, learned_rates_path, learned_steps, multi_step, rates_for
from seedbed.learning.objectives import meta_objective
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.training import Objective


def meta_sgd(
    loss: Objective,
    *,
    lr: float = 0.1,
    steps: int = 1,
    each: RateGranularity = "number",
    multi_step_rounds: int = 0,
    outer: Optimizer = adam(1e-3),
    test_steps: int | None = None,
) -> Algorithm:
    """θ, a ← outer step along mean_i ∇_θ,a L_i(θ − a ⊙ ∇L_i(θ; support_i); query_i): the inner rates a are learned too.

    Args:
        lr: where the learned rates start.
        steps: inner steps in training.
        each: what has a rate of its own: number (every number of every parameter, the same in all steps: Meta-SGD) |
            tensor_and_step (every parameter tensor, in every step: MAML++).
        multi_step_rounds: over so many rounds, the loss counts the query losses after earlier steps too, less and less
            (MAML++); 0: the last step alone counts.
    """
    if multi_step_rounds and not steps:
        raise InputError("multi_step_rounds needs inner steps, but steps=0: set steps, or leave it out")
    learned = partial(learned_steps, loss, each=each)
    objective = meta_objective(learned(steps=steps), loss)
    if multi_step_rounds:
        objective = multi_step(learned_rates_path(loss, steps=steps, each=each), loss, rounds=multi_step_rounds)
    base = fedsgd(objective, outer=outer, adapt=learned(steps=steps if test_steps is None else test_steps))

    def init(params: Params) -> ServerState:
        counter = {DONE: next(iter(params.values())).new_zeros(())} if multi_step_rounds else {}
        return base.init(params | rates_for(params, lr, each=each, steps=max(1, steps)) | counter)

    def server(state: ServerState, replies: Replies) -> ServerState:
        moved = base.server(state, replies)
        return moved._replace(params={**moved.params, DONE: state.params[DONE] + 1})

    return uniform(replace(base, init=init, server=server if multi_step_rounds else base.server))
