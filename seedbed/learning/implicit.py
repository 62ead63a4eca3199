"""Meta-gradients by the implicit function theorem: where an inner minimisation ends, not how it got there."""

from collections.abc import Callable

import torch

from seedbed import tree
from seedbed.data.types import Episode
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.objectives import Adapt, hessian_vector, proximal, with_gradient
from seedbed.learning.training import Objective, Params, functional_gradient


def proximal_steps(loss: Objective, *, lam: float, lr: float, steps: int) -> Adapt:
    """φ ≈ argmin L(φ; support) + (λ/2)‖φ − θ‖² by gradient steps from θ."""
    return lambda theta, support: gradient_steps(proximal(loss, theta, lam), lr=lr, steps=steps)(theta, support)


def implicit_gradient(
    loss: Objective, *, lam: float, lr: float, steps: int, cg_steps: int, ridge: float = 0.0, damping: float = 0.0
) -> Objective:
    """The loss on the query set after `proximal_steps`, with the gradient (I + ∇²L_A(φ)/λ)⁻¹·∇L_B(φ).

    Rajeswaran, Finn, Kakade and Levine, NeurIPS 2019, eq. 6, exact where φ is the minimiser. Nothing of the inner steps
    is stored: memory does not grow with them.

    Args:
        ridge, damping: r and δ of (1 + r)I + ∇²L_A(φ)/(λ + δ), which is solved instead; 0 and 0: eq. 6.
    """

    def objective(params: Params, episode: Episode) -> torch.Tensor:
        theta = tree.detach(params)
        phi = proximal_steps(loss, lam=lam, lr=lr, steps=steps)(theta, episode.support)
        query, value = functional_gradient(loss, phi, episode.query)

        def product(u: Params) -> Params:
            along = hessian_vector(loss, phi, episode.support, u)
            return tree.axpy(1 / (lam + damping), along, tree.scale(1 + ridge, u))

        return with_gradient(value, params, conjugate_gradients(product, query, steps=cg_steps))

    return objective


def conjugate_gradients(product: Callable[[Params], Params], b: Params, *, steps: int) -> Params:
    """x with Ax ≈ b for a symmetric A given by its product, after so many steps from zero.

    Hestenes and Stiefel 1952. It stops moving where it has arrived, and where A shows itself not positive definite; at
    the very first step it then gives b (A taken for the identity).
    """
    x, residual, direction = tree.zeros_like(b), b, b
    square = tree.squared_norm(b)
    going = torch.ones_like(square, dtype=torch.bool)
    tiny = torch.finfo(square.dtype).tiny
    for k in range(steps):
        image = product(direction)
        curvature = tree.dot(direction, image)
        going = going & (curvature > 0)
        length = torch.where(going, square / curvature.clamp_min(tiny), 1.0 if k == 0 else 0.0)
        x = tree.axpy(length, direction, x)
        residual = tree.axpy(-length, image, residual)
        after = tree.squared_norm(residual)
        direction = tree.axpy(after / square.clamp_min(tiny), direction, residual)
        square = after
    return x
