"""pFedMe: Dinh, Tran and Nguyen, "Personalized federated learning with Moreau envelopes", NeurIPS 2020,
arXiv 2006.08848, Algorithm 1.
"""

from dataclasses import replace

import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Message, Params, uniform
from seedbed.learning.objectives import proximal
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.passes import at_step
from seedbed.learning.training import Item, Objective, fold, per_step, step_gradient


def pfedme(
    loss: Objective,
    *,
    lam: float = 15.0,
    eta: float = 0.05,
    inner: Optimizer = sgd(0.03),
    steps: int = 5,
    beta: float = 1.0,
    test_steps: int | None = None,
) -> Algorithm:
    """θ̂_i ≈ argmin L_i(θ; item) + (λ/2)‖θ − w_i‖²; w_i ← w_i − ηλ(w_i − θ̂_i); w ← (1−β)w + β·mean_i w_i.

    λ(w − θ̂) is the gradient of L_i's Moreau envelope at w. The defaults are the authors' for MNIST but for η and η_p.

    Args:
        lam: λ > 0; the larger, the nearer θ̂ is to w.
        eta: η, of w_i; a round has a step for each of the task's items (the paper's R). The authors' is .005, in 800
            rounds of 20 steps; up to 1/λ is safe.
        inner: of θ̂, with η_p for its learning rate. A step multiplies an error by 1 − η_p(λ + h) under a curvature h
            of L_i: η_p = .03 converges up to h = 51. Departure: the authors' .1 diverges above h = 5.
        steps: of θ̂ on each item (K). Each costs a pass over the item.
        beta: β of the server's mean; over 1 it goes beyond the mean.
        test_steps: steps of θ̂ around w on the support set when a client adapts, from the θ̂ that it keeps; a client
            never seen begins at w. None: K. 0 is the authors' evaluation of known clients.
    Raises:
        InputError: steps of `inner` diverge whatever the loss, because η_pλ is 2 or more.
    """
    _refuse_divergent(inner, lam)

    def solve(w: Params, theta: Params, item: Item, count: int) -> tuple[Params, Tensor]:
        envelope, state, value = proximal(loss, w, lam), inner.init(theta), torch.zeros(())
        for k in range(count):
            slope, value = step_gradient(envelope, theta, at_step(item, k))
            theta, state = inner.update(slope, state, theta)
        return theta, value

    def client(sent: Params, kept: Params, task: Task) -> tuple[Message, Params]:
        def step(carry: tuple[Params, Params, Tensor], item: Item) -> tuple[Params, Params, Tensor]:
            w, theta, total = carry
            theta, value = solve(w, theta, item, steps)
            return tree.axpy(-eta * lam, tree.sub(w, theta), w), theta, total + value

        # As in the authors' code, θ̂ begins a round at w and an item at the last item's θ̂; the paper leaves it open.
        # Departure from that code: no weight decay of 1e-3 in `inner`, which the paper does not have.
        w, theta, total = fold(step, (sent, sent, torch.zeros_like(task.examples)), task)
        return Message(tree.sub(sent, w), task.examples, {"loss": per_step(total, task)}), theta

    def personalise(sent: Params, theta: Params, support: Batch) -> Params:
        return solve(sent, theta, support, steps if test_steps is None else test_steps)[0]

    # Departure: only the clients of a round move their θ̂; in Algorithm 1 all do, and the server averages a sample.
    base = replace(fedavg(loss, outer=sgd(beta)), client=client)
    return uniform(replace(base, remember=lambda sent: sent, personalise=personalise))


def _refuse_divergent(inner: Optimizer, lam: float) -> None:
    """SGD with momentum ρ on (λ/2)‖θ − w‖² converges where η_pλ < 2(1 + ρ)."""
    rate, rho = inner.settings.get("lr", 0.0), inner.settings.get("momentum", 0.0)
    most = 2 * (1 + rho)
    if inner.name == "sgd" and rate * lam >= most:
        raise InputError(
            f"inner.lr={rate:g} with lam={lam:g} diverges: inner.lr·lam={rate * lam:g} must be below {most:g}; set "
            f"inner.lr below {most / lam:g}"
        )
