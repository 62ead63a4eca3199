"""Learning from a teacher: a student's predictions are drawn to those of a model that is larger, or of many models.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, arXiv 1503.02531.

Shapes: B examples of a batch, N classes, P public inputs, K steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.learning.objectives import Adapt, Loss, Predict, masked_mean, supervised
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.passes import predictions
from seedbed.learning.training import Objective, Params, train

Teach = Callable[[Batch], Batch]  # the same examples with a teacher's logits [B, N] for y; mask 0 where it has none
Teacher = Callable[[Tensor], Tensor]  # inputs [B, ...] -> logits [B, N]


def divergence(temperature: float = 1.0) -> Loss:
    """T²·KL(σ(z_t/T) ‖ σ(z_s/T)) for each example, natural logarithm: (student [B, N], teacher [B, N]) -> [B].

    T² keeps the gradient's size: as T → ∞ it becomes ‖z_t − z_s‖²/2N, each z less its mean over the classes.
    """
    if not temperature > 0:
        raise InputError(f"temperature={temperature} cannot soften logits: choose a number above 0 (1 leaves them)")

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        log_t, log_s = (F.log_softmax(z / temperature, -1) for z in (teacher, student))
        return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(-1)

    return loss


def with_teacher(teacher: Teacher) -> Teach:
    """A teacher that is a model: it has an answer to every example."""
    return lambda batch: batch._replace(y=teacher(batch.x).detach())


def imitation(predict: Predict, teach: Teach, apart: Loss) -> Objective:
    """Σ m·apart / Σ mask over a batch, m marking the real examples that the teacher has an answer to.

    Args:
        apart: how far predictions are from the teacher's: a `divergence`.
    """

    def objective(params: Params, batch: Batch) -> Tensor:
        taught = teach(batch)
        return masked_mean(taught.mask * apart(predictions(predict, params, batch), taught.y), batch.mask)

    return objective


def distillation_loss(
    loss: Objective, predict: Predict, teach: Teach, *, alpha: float = 0.5, temperature: float = 2.0
) -> Objective:
    """L = (1 − α)·L_task + α·T²·KL(σ(z_t/T) ‖ σ(z_s/T)), each the mean over a batch's real examples.

    Args:
        loss: L_task.
        predict: the student, (params, x) -> logits z_s [B, N].
        teach: gives z_t; nothing is differentiated through it.
        alpha: α, 0 (the task alone) to 1 (the teacher alone).
        temperature: T > 0; the higher, the more the improbable classes count.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha={alpha} is no share of a loss: choose between 0 (the labels) and 1 (the teacher)")
    imitate = imitation(predict, teach, divergence(temperature))
    return lambda params, batch: (1 - alpha) * loss(params, batch) + alpha * imitate(params, batch)


def cycle_batches(x: Tensor, y: Tensor, *, steps: int, size: int) -> Task:
    """Mini-batches that everybody draws alike from public inputs: rows in turn, from the first again after the last.

    x [P, ...] and y [P, ...], numbers -> a task of K = steps batches of at most `size`. Nothing is drawn at random, so
    that no round and no client needs draws of its own: give the inputs in a random order.
    """
    size = min(size, len(x))
    rows = (torch.arange(steps * size, device=x.device) % len(x)).reshape(steps, size)
    one = y.new_ones(())
    return Task(Batch(x[rows], y[rows], one.expand(steps, size)), one.expand(steps), one * len(x))


def imitate_scores(
    predict: Predict,
    optimizer: Optimizer,
    params: Params,
    x: Tensor,
    scores: Tensor,
    *,
    steps: int,
    size: int,
    apart: Loss,
    wanted: Tensor | None = None,
) -> Params:
    """Train a model to give these scores [P, N] on public inputs x [P, ...]; as it is where wanted [] is 0.

    Args:
        steps, size: mini-batches, and public inputs in each.
        apart: what is minimised: a `divergence`.
    """
    task = cycle_batches(x, scores.detach(), steps=steps, size=size)
    task = task if wanted is None else task._replace(real=task.real * wanted)
    return train(supervised(predict, apart), optimizer, params, task).params if steps else params


def student_of(
    adapt: Adapt,
    teacher: Predict,
    loss: Objective,
    predict: Predict,
    student: Params,
    *,
    alpha: float = 0.5,
    temperature: float = 2.0,
    optimizer: Optimizer = sgd(0.1),
    steps: int = 100,
    proxy: Tensor | None = None,
) -> Adapt:
    """A meta-learned teacher's student for a new task: φ_t = adapt(θ, support), then the student by `distilled`.

    The result is the student's params, of an architecture of their own: replace(algorithm,
    personalise=adapting(student_of(...))) gives every client a small model instead of a copy of the large one.

    Args:
        adapt: how the teacher adapts to the task.
        teacher: the teacher's predictions, (params, x) -> logits [B, N].
        loss: L_task of the student.
        predict: the student's predictions.
        student: where every student begins.
        steps: each on the whole support set.
        proxy: unlabelled inputs [P, ...] on which the teacher is asked too; None: none. They count in the mean like
            the support's real examples, with the teacher's term alone.
    """
    each = divergence(temperature)

    def into(theta: Params, support: Batch) -> Params:
        phi = adapt(theta, support)
        asked = support.x if proxy is None else torch.cat([support.x, proxy.to(support.x.dtype)])
        mask = support.mask if proxy is None else torch.cat([support.mask, support.mask.new_ones(len(proxy))])
        answers = teacher(phi, asked).detach()

        def objective(params: Params, batch: Batch) -> Tensor:
            taught = masked_mean(each(predict(params, asked), answers), mask)
            return (1 - alpha) * loss(params, batch) + alpha * taught

        items = tree.map(lambda x: x.expand(steps, *x.shape), support)
        ones = support.mask.new_ones(steps)
        return train(objective, optimizer, student, Task(items, ones, support.mask.sum())).params

    return into
