"""Training some of a model's parameters while the others stay. Params are flat dicts of named tensors."""

import torch

from seedbed.data.types import Task
from seedbed.errors import InputError
from seedbed.learning.adaptations import Moves
from seedbed.learning.optimizers import Optimizer
from seedbed.learning.training import Item, Objective, Params, TrainResult, train
from seedbed.tree import NamedParams


def inside_part(module: str) -> Moves:
    """The parameters of the module of this name.

    >>> inside_part("head")("head.weight"), inside_part("head")("header.weight")
    (True, False)
    """
    return lambda name: name.startswith(f"{module}.")


def outside_part(module: str) -> Moves:
    """All parameters but those of the module of this name."""
    return lambda name: not name.startswith(f"{module}.")


def empty_part(name: str) -> bool:
    """No parameters."""
    return False


def part_named(params: Params, chosen: Moves) -> Params:
    """The chosen parameters alone, in their order."""
    return {n: p for n, p in params.items() if chosen(n)}


def train_part(
    objective: Objective, optimizer: Optimizer, params: Params, task: Task, *, moves: Moves, epochs: int = 1
) -> TrainResult:
    """Train the parameters that move, on so many passes over a task's items; the others are not differentiated.

    The result has all parameters, the loss of the last pass, and the optimiser's state for those that move.
    """
    moving = part_named(params, moves)
    still = {n: p for n, p in params.items() if n not in moving}

    def loss(some: Params, item: Item) -> torch.Tensor:
        return objective({**still, **some}, item)

    trained = TrainResult(moving, torch.zeros_like(task.examples), None)
    for _ in range(epochs):
        trained = train(loss, optimizer, trained.params, task, state=trained.state)
    return trained._replace(params={**params, **trained.params})


def refuse_no_parts(params: Params, head: str) -> None:
    """Head and body must both be there, for the one to be shared and the other not."""
    if isinstance(params, NamedParams):
        for name, other in params.beside.items():
            if isinstance(other, str) and inside_part(head)(name) and not inside_part(head)(other):
                raise InputError(
                    f"parameters {name!r} and {other!r} are one tied tensor, of which one name is in the head {head!r} "
                    f"and the other not, so that the head would be sent: wrap it as Model(module, head={head!r}), or "
                    "untie them"
                )
    inside = part_named(params, inside_part(head))
    if not inside:
        raise InputError(f"head={head!r} names no parameters of the model: name its last linear layer")
    if len(inside) == len(params):
        raise InputError(
            "the model is all head, so that there is no body to part it from: give it a hidden layer, or use fedavg"
        )
