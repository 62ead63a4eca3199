"""The distillation loss and its limits, students of adapted teachers, and federated students of a large one."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from seedbed.algorithms.distill import distill
from seedbed.algorithms.fedavg import fedavg
from seedbed.data.types import Batch
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.federated import personalise_by
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.distillation import (
    cycle_batches,
    distillation_loss,
    divergence,
    imitate_scores,
    student_of,
    with_teacher,
)
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import adam, cosine, sgd, with_schedule

from .bench import CLASSES, INPUTS, apart, batch, final, loss, network, plain_loss, predict, task


def linear(params: Any, x: Tensor) -> Tensor:
    """z = Wx: [B, 4] -> [B, 3]."""
    return x @ params["w"].T


def weights(seed: int) -> dict[str, Tensor]:
    return {"w": torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(seed))}


@functools.cache
def taught() -> dict[str, Tensor]:
    """The teacher's params, drawn once: nothing may be drawn under vmap."""
    return network(5)


def teacher(x: Tensor) -> Tensor:
    return predict(taught(), x)


def logits(seed: int, rows: int = 7) -> Tensor:
    return 3 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def rows(padded: Batch, count: int) -> Batch:
    """The first examples of a batch."""
    return Batch(*(x[:count] for x in padded))


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_the_term_in_plain_pytorch(t: float) -> None:
    """T²·KL(σ(z_t/T) ‖ σ(z_s/T)) = T² Σ p (log p − log q), PyTorch's kl_div of log q against p."""
    student, teacher = logits(0), logits(1)
    want = t**2 * F.kl_div(F.log_softmax(student / t, -1), F.softmax(teacher / t, -1), reduction="none").sum(-1)
    assert apart(divergence(t)(student, teacher), want) < 1e-13


def test_a_high_temperature_compares_centred_logits() -> None:
    """σ(z/T) = (1 + z̃/T + O(T⁻²))/N with z̃ = z − mean z, so KL = Σ(p − q)²/2q + … = ‖z̃_t − z̃_s‖²/(2NT²) + O(T⁻³):
    the error of T²·KL falls as 1/T. To 1e-4 at T = 1e5, where rounding of 1e-16·T² = 1e-6 is still below."""
    student, teacher = logits(0), logits(1)
    away = (teacher - teacher.mean(-1, keepdim=True)) - (student - student.mean(-1, keepdim=True))
    limit = away.square().sum(-1) / (2 * student.shape[-1])
    errors = [apart(divergence(t)(student, teacher), limit) for t in (1e2, 1e3, 1e4, 1e5)]
    assert errors[-1] < 1e-4 < errors[0]
    assert 8 < errors[0] / errors[1] < 12


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    """KL(p ‖ p) = 0, and its minimum: no gradient."""
    objective = distillation_loss(loss, predict, with_teacher(teacher), alpha=1.0, temperature=3.0)
    assert abs(float(objective(network(5), batch(0)))) < 1e-14
    assert all(g.abs().max() < 1e-14 for g in grad(objective)(network(5), batch(0)).values())


def test_alpha_weighs_the_two() -> None:
    """0: the task's loss; 1: the teacher's term; between, their mean; and padding counts in none of them."""
    params, padded = network(), batch(0, size=6, padding=5)
    kd = divergence(2.0)(predict(params, padded.x), teacher(padded.x))[:6].mean()
    for alpha in (0.0, 0.3, 1.0):
        value = distillation_loss(loss, predict, with_teacher(teacher), alpha=alpha)(params, padded)
        assert abs(float(value - ((1 - alpha) * plain_loss(params, rows(padded, 6)) + alpha * kd))) < 1e-13
    with pytest.raises(InputError, match="between 0"):
        distillation_loss(loss, predict, with_teacher(teacher), alpha=1.5)
    with pytest.raises(InputError, match="temperature"):
        divergence(0.0)


@pytest.mark.parametrize("t", [1.0, 2.5])
def test_the_gradient_of_a_linear_student(t: float) -> None:
    """∂T²KL/∂z_s = T(q − p), so for z = Wx: ∇W = (T/B) Σ (σ(z_s/T) − σ(z_t/T)) xᵀ; at T = 1 the difference of the
    softmaxes, as the cross-entropy's with p for the label."""
    b, w = batch(0), weights(1)
    gap = F.softmax(linear(w, b.x) / t, -1) - F.softmax(teacher(b.x) / t, -1)
    want = t * gap.T @ b.x / len(b.x)
    got = grad(
        distillation_loss(supervised(linear, cross_entropy), linear, with_teacher(teacher), alpha=1.0, temperature=t)
    )(w, b)
    assert apart(got["w"], want) < 1e-14


def test_an_example_without_a_teacher_counts_as_zero() -> None:
    """Σ m·KL / Σ mask: the mean over the real examples, as if those without a teacher agreed with one."""

    def half(b: Batch) -> Batch:
        return b._replace(y=teacher(b.x), mask=b.mask * (torch.arange(len(b.x)) < 2))

    params, b = network(), batch(0)
    want = divergence(2.0)(predict(params, b.x), teacher(b.x))[:2].sum() / 6
    assert abs(float(distillation_loss(loss, predict, half, alpha=1.0)(params, b) - want)) < 1e-14


def test_public_batches_come_in_turn() -> None:
    """Rows 0, 1, 2 | 3, 4, 0 | 1, 2, 3 of five; a size beyond the five is five."""
    x = torch.arange(5.0)
    assert cycle_batches(x, x, steps=3, size=3).items.x.tolist() == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]
    assert cycle_batches(x, x, steps=2, size=9).items.x.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_imitating_scores_in_plain_pytorch() -> None:
    """Two steps of gradient descent on the mean KL of rows 0–3, then 4, 5, 0, 1; none where it is not wanted."""
    x, scores, w = batch(0).x, teacher(batch(0).x), weights(1)["w"]
    for rows in ([0, 1, 2, 3], [4, 5, 0, 1]):
        gap = F.softmax(x[rows] @ w.T, -1) - F.softmax(scores[rows], -1)
        w = w - 0.4 * gap.T @ x[rows] / 4
    got = imitate_scores(linear, sgd(0.4), weights(1), x, scores, steps=2, size=4, apart=divergence())
    assert apart(got["w"], w) < 1e-14
    still = imitate_scores(
        linear, sgd(0.4), weights(1), x, scores, steps=2, size=4, apart=divergence(), wanted=torch.tensor(0.0)
    )
    assert apart(still, weights(1)) == 0


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_annealed_is_the_schedule_from_within(optimizer: Any) -> None:
    """lr·s(k)·d_k, whether the factor is on the rate or on the step."""
    b = batch(0)
    within, without = optimizer(0.1, schedule=cosine(4)), with_schedule(optimizer(0.1), cosine(4))
    ends = [
        imitate_scores(linear, o, weights(1), b.x, teacher(b.x), steps=4, size=3, apart=divergence())
        for o in (within, without)
    ]
    assert apart(*ends) < 1e-14


# ---- a meta-learned teacher's student ------------------------------------------------------------------------------


@pytest.mark.parametrize("proxied", [False, True])
def test_a_student_of_an_adapted_teacher(proxied: bool) -> None:
    """φ_t = θ − η∇L(θ; support); then W ← W − ε[(1−α)∇CE + (α/M) Σ T(q − p)xᵀ] over the support and the proxy inputs,
    M = 6 or 6 + 4 of them, written out for a linear student and three steps; padding is in no sum."""
    alpha, t, b, theta, w = 0.7, 2.0, batch(0, size=6, padding=2), network(), weights(1)["w"]
    real, proxy = rows(b, 6), batch(9, size=4).x
    phi = {n: p - 0.3 * g for (n, p), g in zip(theta.items(), grad(plain_loss)(theta, real).values(), strict=True)}
    asked = torch.cat([real.x, proxy]) if proxied else real.x
    labels = F.one_hot(real.y, CLASSES).to(w.dtype)
    for _ in range(3):
        task_gap = F.softmax(real.x @ w.T, -1) - labels
        gap = F.softmax(asked @ w.T / t, -1) - F.softmax(predict(phi, asked) / t, -1)
        w = w - 0.2 * ((1 - alpha) * task_gap.T @ real.x / 6 + alpha * t * gap.T @ asked / len(asked))
    into = student_of(
        gradient_steps(loss, lr=0.3), predict, supervised(linear, cross_entropy), linear, weights(1),
        alpha=alpha, temperature=t, optimizer=sgd(0.2), steps=3, proxy=proxy if proxied else None,
    )  # fmt: skip
    assert apart(into(theta, b)["w"], w) < 1e-13
    algorithm = fedavg(loss)
    assert apart(personalise_by(into)(algorithm.init(theta).params, {}, b)["w"], w) < 1e-13


# ---- distill -------------------------------------------------------------------------------------------------------


def clients() -> list[Any]:
    return [task(*[batch(9 * c + k) for k in range(c + 1)], examples=c + 1) for c in range(3)]


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
def test_distill_of_linear_students_in_plain_pytorch(kind: Any) -> None:
    """Two rounds, by the gradient above: W_i by steps on a client's batches, W the mean by examples."""
    alpha, t, w = 0.6, 2.0, weights(1)["w"]
    for _ in range(2):
        ends = []
        for c in range(3):
            own = w
            for b in (batch(9 * c + k) for k in range(c + 1)):
                z = b.x @ own.T
                hard = F.softmax(z, -1) - F.one_hot(b.y, CLASSES).to(w.dtype)
                soft = t * (F.softmax(z / t, -1) - F.softmax(teacher(b.x) / t, -1))
                own = own - 0.3 * ((1 - alpha) * hard + alpha * soft).T @ b.x / len(b.x)
            ends.append((c + 1) * own)
        w = sum(ends) / 6
    made = distill(
        supervised(linear, cross_entropy), linear, teacher=teacher, alpha=alpha, temperature=t, local=sgd(0.3)
    )
    assert apart(final(made, clients(), weights(1), 2, kind).params["w"], w) < 1e-13


def test_distill_without_a_teacher_s_share_is_fedavg() -> None:
    """α = 0, whatever the teacher."""
    a = final(distill(loss, predict, teacher=teacher, alpha=0.0), clients(), network(), 3)
    assert apart(a.params, final(fedavg(loss), clients(), network(), 3).params) < 1e-14


def test_distill_to_the_teacher_s_own_kind_ends_at_the_teacher() -> None:
    """α = 1: every client's loss is 0 at a teacher of the students' architecture: it is a fixed point."""
    made = distill(loss, predict, teacher=teacher, alpha=1.0)
    assert apart(final(made, clients(), network(5), 3).params, network(5)) < 1e-14


def test_what_travels_is_the_student_alone() -> None:
    made = distill(loss, predict, teacher=teacher)
    state = made.init(network())
    assert made.send(state, 0) is state.params
    assert made.client(state.params, {}, clients()[0])[0].value.keys() == network().keys()
