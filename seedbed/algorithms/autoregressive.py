"""A generator of parameters, federated: what its clients share makes each of them a model from its support set, block
after block (see `learning.generating`, with the nearest published methods). Trained as in FedMeta: Chen et al. 2018,
arXiv 1802.07876, Algorithm 1.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from seedbed.algorithms.fedsgd import fedsgd
from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Params, ServerState, uniform
from seedbed.learning.adaptations import chain_adaptations, gradient_steps, learned_steps, rates_for
from seedbed.learning.objectives import Adapt
from seedbed.learning.optimizers import Optimizer, adam
from seedbed.learning.parameter_generation import GeneratedLayer, autoregressive_generator
from seedbed.learning.training import Item, Objective


def autoregressive(
    loss: Objective,
    layers: Sequence[GeneratedLayer],
    *,
    width: int = 128,
    size: int = 2048,
    scale: float = 0.1,
    gaussian: bool = False,
    steps: int = 0,
    lr: float = 0.001,
    outer: Optimizer = adam(1e-3),
    test_steps: int | None = None,
    seed: int = 0,
) -> Algorithm:
    """(θ, ψ) ← outer step along mean_i ∇ L_i(φ_i; query_i), with φ_i drawn from, or the mean of, q_ψ(φ | support_i).

    Args:
        layers: what is generated, the output layer last; the model's other parameters are learned and the same for all.
        width: of the generator's state and encoders.
        size: at most so many numbers are generated in a step: larger layers are cut by rows.
        scale: how much the generator adds to θ before anything is learned; 0: nothing, clients begin at θ.
        gaussian: φ is drawn in training, from normal distributions that are generated; clients then adapt to the mean.
            The clients' items are `Noisy` episodes. Nothing but the loss on queries holds the spread up.
        steps: gradient steps on the support set that follow the generator, in training too.
        lr: where the rates of those steps start, small, for a generated model may be steep. With steps=0 no rates are
            learned or sent: a client that takes steps all the same takes this one, and they do harm.
        test_steps: such steps when a client adapts; None: as many as in training.
        seed: of the generator's first parameters.
    """
    if not layers:
        raise InputError("autoregressive finds no layer to generate: end the model with an nn.Linear")
    if width < 1:
        raise InputError("width=0 leaves the generator no state: it must be at least 1")
    generator = autoregressive_generator(layers, width=width, size=size, scale=scale, gaussian=gaussian, seed=seed)

    def follow(count: int) -> Adapt:
        if steps:
            return learned_steps(loss, steps=count)
        plain = gradient_steps(loss, lr=lr, steps=count)
        return lambda params, support: plain({n: p for n, p in params.items() if ":" not in n}, support)

    def adapt_by(count: int, noise: Tensor | None = None) -> Adapt:
        return chain_adaptations(lambda params, support: generator.generate(params, support, noise), follow(count))

    def objective(params: Params, item: Item) -> Tensor:
        support: Batch = item.support
        adapt = adapt_by(steps, item.noise if gaussian else None)
        return loss(adapt(params, support), item.query)

    base = fedsgd(objective, outer=outer, adapt=adapt_by(steps if test_steps is None else test_steps))

    def init(params: Params) -> ServerState:
        return base.init(generator.init(params) | (rates_for(params, lr) if steps else {}))

    return uniform(replace(base, init=init))
