"""Small networks as plain functions of flat dicts: what generators of parameters are made of.

A piece is two functions: one gives its first parameters, drawn by a generator of the caller's, under a name; the
other computes it from any parameters under that name. Shapes: I inputs, H hidden, O outputs.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed.learning.training import Params


def init_dense(rng: np.random.Generator, name: str, inputs: int, outputs: int) -> Params:
    """A linear layer: weights normal of variance 1/I, bias 0."""
    weight = rng.standard_normal((outputs, inputs)) / max(1, inputs) ** 0.5
    dtype = torch.get_default_dtype()
    return {f"{name}.weight": torch.as_tensor(weight, dtype=dtype), f"{name}.bias": torch.zeros(outputs, dtype=dtype)}


def apply_dense(params: Params, name: str, x: Tensor) -> Tensor:
    """[..., I] -> [..., O]."""
    return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def init_mlp(rng: np.random.Generator, name: str, sizes: tuple[int, ...]) -> Params:
    """Linear layers of these widths, ReLU between them."""
    layers: Params = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers |= init_dense(rng, f"{name}.{i}", inputs, outputs)
    return layers


def apply_mlp(params: Params, name: str, x: Tensor) -> Tensor:
    """[..., I] -> [..., O]."""
    layers = sum(n.startswith(f"{name}.") and n.endswith(".weight") for n in params)
    for i in range(layers):
        x = apply_dense(params, f"{name}.{i}", x.relu() if i else x)
    return x


def init_gru(rng: np.random.Generator, name: str, inputs: int, hidden: int) -> Params:
    """A gated recurrent unit."""
    return init_dense(rng, f"{name}.input", inputs, 3 * hidden) | init_dense(rng, f"{name}.state", hidden, 3 * hidden)


def apply_gru(params: Params, name: str, x: Tensor, h: Tensor) -> Tensor:
    """h ← (1−z)⊙n + z⊙h with gates r, z and n = tanh(W x + r⊙U h): Cho et al. 2014, arXiv 1406.1078, as in PyTorch.

    [..., I] and [..., H] -> [..., H].
    """
    (r, z, n), (r_h, z_h, n_h) = (
        apply_dense(params, f"{name}.{which}", value).chunk(3, -1) for which, value in (("input", x), ("state", h))
    )
    z = torch.sigmoid(z + z_h)
    return torch.lerp(torch.tanh(n + torch.sigmoid(r + r_h) * n_h), h, z)
