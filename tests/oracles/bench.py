"""What oracles are made of: quadratic losses whose answers are known, a tiny network, and clients with given
tasks.

Shapes: D dimensions of a quadratic, K items of a task, B examples of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.data.sampling import stack_tasks
from seedbed.data.types import Batch, Episode, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.federated import Algorithm, ServerState
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.rounds import Round, synchronous

D = 3


class Given:
    """A task source of ready-made tasks, the same in every round unless a function of the round is given."""

    def __init__(self, tasks: Sequence[Task | Callable[[int], Task]]):
        self.given = tasks
        self.clients = range(len(tasks))

    def size(self, client: int) -> int:
        return client

    def tasks(self, clients: Sequence[int], round: int) -> Task:
        found = [self.given[c] for c in clients]
        return stack_tasks([t if isinstance(t, Task) else t(round) for t in found])


def task(*items: Any, examples: float = 1.0) -> Task:
    """A task of these items."""
    return Task(tree.stack(items), torch.ones(len(items)), torch.tensor(float(examples)))


def rounds(
    algorithm: Algorithm,
    tasks: Sequence[Task | Callable[[int], Task]],
    params: Mapping[str, Tensor],
    count: int = 1,
    engine: Callable[..., Any] = OneByOne,
    **settings: Any,
) -> list[Round]:
    """So many synchronous rounds over these clients."""
    schedule = synchronous(algorithm, engine(Given(tasks)), algorithm.init(params), **settings)
    return [next(schedule) for _ in range(count)]


def final(*args: Any, **kwargs: Any) -> ServerState:
    """The state after the last of `rounds`."""
    return rounds(*args, **kwargs)[-1].state


def sent_by(algorithm: Algorithm, one: Task, params: Mapping[str, Tensor]) -> Any:
    """The value of the message of one client that is new to these params."""
    state = algorithm.init(params)
    sent = algorithm.send(state, 0)
    return algorithm.client(sent, algorithm.remember(sent), one)[0].value


def apart(a: Any, b: Any) -> float:
    """The largest absolute difference between two trees."""
    assert tree.pytree.tree_structure(a) == tree.pytree.tree_structure(b)
    return max(float((x - y).abs().max()) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


# ---- quadratics: L(w) = ½(w − c)ᵀA(w − c), so ∇L = A(w − c) and ∇²L = A ----------------------------------


def bowl(params: Mapping[str, Tensor], item: Mapping[str, Tensor]) -> Tensor:
    """The loss of a quadratic item."""
    away = params["w"] - item["c"]
    return 0.5 * away @ item["A"] @ away


def bowls(count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Items {A [D, D], c [D]} with eigenvalues of about 0.5 to 3 that do not commute."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        root = torch.randn(D, D, generator=g)
        curvature = 0.5 * torch.eye(D) + root @ root.T / (root @ root.T).trace() * 2.5
        found.append({"A": curvature, "c": torch.randn(D, generator=g)})
    return found


def start(seed: int = 7) -> dict[str, Tensor]:
    """A point {w [D]} to start from."""
    return {"w": torch.randn(D, generator=torch.Generator().manual_seed(seed))}


def power(matrix: Tensor, exponent: int) -> Tensor:
    return torch.linalg.matrix_power(matrix, exponent)


# ---- a tiny network, not quadratic in its parameters -----------------------------------------------------

INPUTS, HIDDEN, CLASSES = 4, 8, 3


def network(seed: int = 0) -> dict[str, Tensor]:
    """Parameters of body [8, 4] and head [3, 8]."""
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "body.weight": (HIDDEN, INPUTS),
        "body.bias": (HIDDEN,),
        "head.weight": (CLASSES, HIDDEN),
        "head.bias": (CLASSES,),
    }
    return {n: 0.5 * torch.randn(*s, generator=g) for n, s in shapes.items()}


def features(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """[B, 4] -> [B, 8]."""
    return torch.tanh(x @ params["body.weight"].T + params["body.bias"])


def predict(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """[B, 4] -> [B, 3]."""
    return features(params, x) @ params["head.weight"].T + params["head.bias"]


loss = supervised(predict, cross_entropy)


def batch(seed: int, size: int = 6, padding: int = 0) -> Batch:
    """Examples of all classes in turn, then padding of large numbers."""
    g = torch.Generator().manual_seed(1000 + seed)
    y = torch.arange(size + padding) % CLASSES
    x = torch.randn(size + padding, INPUTS, generator=g) + y[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0])
    mask = (torch.arange(size + padding) < size).to(x.dtype)
    return Batch(torch.where(mask[:, None] > 0, x, 1e6 * x), y, mask)


def episode(seed: int, support: int = 6, query: int = 9) -> Episode:
    """Two batches, disjoint."""
    return Episode(batch(2 * seed, support), batch(2 * seed + 1, query))


# ---- the same in ordinary PyTorch, independent of the package --------------------------------------------


def plain_loss(params: Mapping[str, Tensor], b: Batch) -> Tensor:
    """Cross-entropy of the network over a batch without padding."""
    hidden = torch.tanh(F.linear(b.x, params["body.weight"], params["body.bias"]))
    return F.cross_entropy(F.linear(hidden, params["head.weight"], params["head.bias"]), b.y)


def plain_maml(
    params: Mapping[str, Tensor],
    episodes: Sequence[Episode],
    *,
    lr: float,
    steps: int,
    second_order: bool = True,
    moving: str = "",
) -> dict[str, Tensor]:
    """The gradient of the mean query loss after inner steps on the parameters whose names start with
    `moving`."""
    theta = {n: p.clone().requires_grad_() for n, p in params.items()}
    total = torch.zeros(())
    for e in episodes:
        phi = dict(theta)
        for _ in range(steps):
            names = [n for n in phi if n.startswith(moving)]
            grads = torch.autograd.grad(plain_loss(phi, e.support), [phi[n] for n in names], create_graph=second_order)
            phi |= {n: phi[n] - lr * g for n, g in zip(names, grads, strict=True)}
        total = total + plain_loss(phi, e.query) / len(episodes)
    return dict(zip(theta, torch.autograd.grad(total, list(theta.values())), strict=True))


ENGINES = [OneByOne, Vectorised]
