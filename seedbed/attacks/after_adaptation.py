"""A poison that harms a model only once a client adapts it.

Shapes: a attackers of a round, K items of a task, B examples of a batch.
"""

import torch
from torch import Tensor

from seedbed import tree
from seedbed.aggregation.robust import flattened
from seedbed.attacks.attack import Attack, HonestMessages
from seedbed.attacks.tailored import search_strength
from seedbed.data.types import Batch, Episode, Task
from seedbed.errors import InputError
from seedbed.federated import Message, params_of
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.objectives import meta_objective
from seedbed.learning.training import Objective, mean_gradient
from seedbed.tree import Tree


def after_adaptation(*, loss: Objective, lr: float = 0.1, steps: int = 5) -> Attack:
    """The honest mean, moved so that the loss rises after a client's gradient steps and stays, to first order, as it
    was before them.

    Each attacker computes on its own data g = ∇L(adapt(θ; support); query) and h = ∇L(θ; query), and the part of −g
    that is orthogonal to h. All move the honest mean along the mean of those parts, by the strength that moves the
    server's value the farthest: who judges the model unadapted sees little.

    Args:
        lr, steps: of the adaptation that the attackers expect.
    """
    adapt = gradient_steps(loss, lr=lr, steps=steps)
    adapted = meta_objective(adapt, loss)

    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        params = params_of(sent)
        g, _ = mean_gradient(lambda p, item: adapted(p, _episode(item)), params, task)
        h, _ = mean_gradient(lambda p, item: loss(p, _episode(item).query), params, task)
        return Message(orthogonal(tree.scale(-1.0, g), h), task.examples, {}), kept

    def lie(seen: HonestMessages) -> Message:
        if tree.structure_of(seen.harm) != tree.structure_of(seen.honest.value):
            raise InputError(
                "attack=after_adaptation needs messages of the structure of the params, but this algorithm sends "
                f"{', '.join(tree.named_leaves(seen.honest.value))[:80]}: use tailored"
            )
        p = flattened(seen.harm).double().mean(0)
        return search_strength(seen, p / p.norm().clamp_min(torch.finfo(p.dtype).tiny))

    return Attack("after_adaptation", lie, client=client, tries_server=True)


def orthogonal(a: Tree, b: Tree) -> Tree:
    """a − (⟨a, b⟩/‖b‖²)·b: the part of a along which, to first order, nothing changes that has the gradient b."""
    return tree.axpy(-tree.dot(a, b) / _positive(tree.squared_norm(b)), b, a)


def _positive(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def _episode(item: Tree) -> Episode:
    """An item's support and query set; of a batch every other example."""
    if isinstance(item, Batch):
        return Episode(*(item._replace(x=item.x[k::2], y=item.y[k::2], mask=item.mask[k::2]) for k in (0, 1)))
    if hasattr(item, "support") and hasattr(item, "query"):
        return Episode(item.support, item.query)
    raise InputError("attack=after_adaptation needs clients that train on batches or episodes: use tailored")
