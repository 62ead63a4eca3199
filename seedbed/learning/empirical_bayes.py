"""Empirical Bayes: the effects of a client on its predictions, under a prior that is learned over clients.

    η = z + φᵀb,    b ~ N(μ, diag τ²)

z is the score of a trained start, φ are columns of an example (an intercept, its encoded columns, the hidden components
of a network), b are the client's effects. With A = Φ diag τ and b = μ + τu the prior of u is N(0, I): every system here
is A'A + I or alike, so that a variance of 0 is no special case.

The prior follows from sums over clients: of u's posterior mean d, of d², and of the gain 1 − V_jj, where V is the
posterior covariance of u. The update is the fixed point of the likelihood (MacKay, "Bayesian interpolation", Neural
Computation 1992, section 4), which reaches in ten rounds what plain EM reaches in hundreds where τ² is near 0.

Shapes: B examples, P columns, K scores of an example, R = PK effects.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NEWTON_STEPS, LONGEST_STEP = 25, 2.0  # the second in units of the score
PER_ROUND = 10.0  # a variance changes by at most this factor in a round
FLOOR = 1e-8  # the least of a variance
QUARTER, COUNT = 4.0, 256.0  # squares are sent in quarters, examples and errors in 256ths: within a grid or a clip


class Prior(NamedTuple):
    """What the server learns of the clients' effects."""

    mean: Tensor  # [R]  μ
    variance: Tensor  # [R]  τ²
    noise: Tensor  # []  σ², the variance of a number around its score; 1 for classes


class Rows(NamedTuple):
    """A client's examples as its effects see them, in double precision."""

    z: Tensor  # [B] scores of numbers, or of the second of two classes against the first; or [B, K]
    phi: Tensor  # [B, P]
    y: Tensor  # [B] numbers, or classes
    mask: Tensor  # [B]  how much an example counts: 0 = padding, 1 = once


class Posterior(NamedTuple):
    """A client's effects, given its examples."""

    mean: Tensor  # [R]  d, of u = (b − μ)/τ
    covariance: Tensor  # [R, R]  V, of u
    error: Tensor  # []  Σ(y − η)² at the mean; 0 for classes
    evidence: Tensor  # []  log p(y); of classes by Laplace's method, or by quadrature


class Sums(NamedTuple):
    """What a client sends of its posterior; the mean over clients is what the prior follows from."""

    mean: Tensor  # [R]  d
    square: Tensor  # [R]  d²/4
    gain: Tensor  # [R]  1 − V_jj
    error: Tensor  # []  Σ(y − η)²/256
    examples: Tensor  # []  n/256


Infer = Callable[[Rows, Prior], Posterior]


def effects_of(posterior: Posterior, prior: Prior) -> tuple[Tensor, Tensor]:
    """Mean [R] and covariance [R, R] of b."""
    tau = prior.variance.sqrt()
    return prior.mean + tau * posterior.mean, tau[:, None] * posterior.covariance * tau


def sums_of(posterior: Posterior, rows: Rows) -> Sums:
    """3R + 2 numbers."""
    d, gain = posterior.mean, 1 - posterior.covariance.diagonal()
    return Sums(d, d * d / QUARTER, gain, posterior.error / COUNT, rows.mask.sum() / COUNT)


def update(prior: Prior, sums: Sums, free: Tensor, *, numbers: bool) -> Prior:
    """The prior after a round: τ² ← τ²·Σ(d − d̄)²/Σgain, μ ← μ + τ·Σd/Σgain, σ² ← Σ(y − η)²/(N − Σgain).

    For one effect the second is the generalised least squares mean, at once. Each variance changes by at most a factor
    of 10. A sum that noise or a grid made senseless (a gain of 0 or less) shrinks the variance.

    Args:
        sums: their means over clients.
        free: [R] which effects have a mean other than 0.
        numbers: whether σ² is learned.
    """
    square, tau = sums.square * QUARTER, prior.variance.sqrt()
    gain = sums.gain.clamp_min(1e-12)
    centre = torch.where(free, sums.mean, 0.0)
    shift = (centre / gain).clamp(-PER_ROUND, PER_ROUND)
    ratio = ((square - centre**2) / gain).clamp(1 / PER_ROUND, PER_ROUND)
    noise = prior.noise
    if numbers:
        left = (sums.examples * COUNT - sums.gain.sum()).clamp_min(1e-12)
        noise = (sums.error * COUNT / left).clamp(noise / PER_ROUND, PER_ROUND * noise).clamp_min(FLOOR)
    return Prior(prior.mean + tau * shift, (prior.variance * ratio).clamp_min(FLOOR), noise)


# ---- numbers: closed form ------------------------------------------------------------------------------------------


def infer_number(rows: Rows, prior: Prior) -> Posterior:
    """V = (A'A/σ² + I)⁻¹, d = VA'(y − z − Φμ)/σ²; the evidence is that of N(z + Φμ, σ²I + AA')."""
    real, noise = rows.mask > 0, prior.noise
    phi = torch.where(real[:, None], rows.phi, 0.0)
    a = phi * prior.variance.sqrt()
    weighted = a * rows.mask[:, None]
    r = torch.where(real, rows.y - rows.z, 0.0) - phi @ prior.mean
    v, logdet = _inverted(weighted.T @ a / noise)
    d = v @ (weighted.T @ r) / noise
    left = r - a @ d
    fit = (rows.mask * r) @ left / noise  # r'(σ²I + AA')⁻¹r
    evidence = -0.5 * (rows.mask.sum() * (2 * math.pi * noise).log() + logdet + fit)
    return Posterior(d, v, (rows.mask * left) @ left, evidence)


# ---- classes: Newton's method --------------------------------------------------------------------------------------


def infer_two_classes(nodes: int = 1) -> Infer:
    """Of p(y = 1) = sigmoid(η), by Newton's method: g = A'(y − p) − u, H = A'diag(p(1 − p))A + I.

    Args:
        nodes: 1: the mode, and H⁻¹ (Laplace). More, for a single effect: its mean and variance by adaptive
            Gauss-Hermite quadrature, with which the prior reaches the maximum of the likelihood itself.
    """

    def infer(rows: Rows, prior: Prior) -> Posterior:
        tau, real = prior.variance.sqrt(), rows.mask > 0
        a = torch.where(real[:, None], rows.phi, 0.0) * tau
        offset = torch.where(real, rows.z, 0.0) + torch.where(real[:, None], rows.phi, 0.0) @ prior.mean
        y = rows.y.to(a.dtype)

        def log_joint(u: Tensor) -> Tensor:
            eta = offset + a @ u
            return ((y * eta - torch.nn.functional.softplus(eta)) * rows.mask).sum() - 0.5 * (u @ u)

        def step(u: Tensor) -> tuple[Tensor, Tensor]:
            p = torch.sigmoid(offset + a @ u)
            slope = a.T @ ((y - p) * rows.mask) - u
            return slope, (a * (p * (1 - p) * rows.mask)[:, None]).T @ a

        u, v, logdet = _mode(step, torch.zeros_like(tau), tau)
        if nodes > 1 and len(tau) == 1:
            return _by_quadrature(log_joint, u, v, nodes)
        return Posterior(u, v, torch.zeros_like(logdet), log_joint(u) - 0.5 * logdet)

    return infer


def infer_classes(rows: Rows, prior: Prior) -> Posterior:
    """Of p = softmax(η) with effects [P, K] on K scores, by Newton's method: H = Σ (diag p − pp') ⊗ aa' + I."""
    (_, k), p_columns, real = rows.z.shape, rows.phi.shape[1], rows.mask > 0
    tau = prior.variance.sqrt()
    phi = torch.where(real[:, None], rows.phi, 0.0)
    offset = torch.where(real[:, None], rows.z, 0.0) + phi @ prior.mean.reshape(p_columns, k)
    hot = (rows.y[:, None] == torch.arange(k, device=rows.y.device)).to(phi.dtype)

    def scores(u: Tensor) -> Tensor:
        return offset + phi @ (tau * u).reshape(p_columns, k)

    def step(u: Tensor) -> tuple[Tensor, Tensor]:
        p = scores(u).softmax(-1)
        slope = tau * (phi.T @ ((hot - p) * rows.mask[:, None])).reshape(-1) - u
        curve = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) * rows.mask[:, None, None]
        h = torch.einsum("bj,bkm,bl->jklm", phi, curve, phi).reshape(len(u), len(u))
        return slope, tau[:, None] * h * tau

    u, v, logdet = _mode(step, torch.zeros_like(tau), tau)
    eta = scores(u)
    fit = (((eta * hot).sum(-1) - eta.logsumexp(-1)) * rows.mask).sum()
    return Posterior(u, v, torch.zeros_like(logdet), fit - 0.5 * (u @ u) - 0.5 * logdet)


def _mode(step: Callable[[Tensor], tuple[Tensor, Tensor]], u: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mode, the inverse of the Hessian there, and its log determinant."""
    for _ in range(NEWTON_STEPS):
        slope, curve = step(u)
        v, _ = _inverted(curve)
        move = v @ slope
        u = u + move * (LONGEST_STEP / (tau * move).abs().amax().clamp_min(LONGEST_STEP))
    return u, *_inverted(step(u)[1])


def _inverted(curve: Tensor) -> tuple[Tensor, Tensor]:
    """(C + I)⁻¹ and log|C + I|."""
    eye = torch.eye(len(curve), dtype=curve.dtype, device=curve.device)
    lower = torch.linalg.cholesky_ex(curve + eye).L
    return torch.cholesky_solve(eye, lower), 2 * lower.diagonal().log().sum()


def _by_quadrature(log_joint: Callable[[Tensor], Tensor], u: Tensor, v: Tensor, nodes: int) -> Posterior:
    """Moments of one effect by Gauss-Hermite quadrature around its mode: Liu and Pierce, Biometrika 1994."""
    points, weights = (torch.as_tensor(each).to(u) for each in np.polynomial.hermite.hermgauss(nodes))
    width = (2 * v[0, 0]).sqrt()
    at = u + width * points  # [nodes]
    heights = torch.stack([log_joint(one[None]) for one in at]) + weights.log() + points**2
    total = heights.logsumexp(0)
    share = (heights - total).exp()
    mean = (share * at).sum()
    variance = (share * (at - mean) ** 2).sum()
    evidence = total + width.log() - 0.5 * math.log(2 * math.pi)
    return Posterior(mean[None], variance[None, None], torch.zeros_like(mean), evidence)
