"""A network whose output is a model's parameters, its input a client's embedding: θ_i = h(v_i; φ).

Shamsian, Navon, Fetaya and Chechik, ICML 2021, arXiv 2103.04628. Params are flat dicts; those of the
hypernetwork have names that begin with `hyper:`. Shapes: N clients, D numbers of an embedding, H of the last hidden
layer.
"""

import torch
from torch import Tensor

from seedbed import randomness, tree
from seedbed.errors import InputError
from seedbed.learning.networks import apply_mlp, init_mlp
from seedbed.learning.training import Params

HYPER = "hyper:"  # the prefix of the hypernetwork's parameters
EMBEDDINGS = HYPER + "embeddings"  # [N, D], one for each client


def hypernetwork(theta: Params, *, clients: int, dim: int, width: int, depth: int, seed: int) -> Params:
    """φ for a model that begins at θ, and standard normal embeddings of the clients.

    Args:
        dim: D.
        width, depth: of the hidden layers, which all outputs share; depth 0 makes h linear in v.
    """
    if width < 1 or dim < 1:
        raise InputError(f"a hypernetwork of width={width} and dim={dim} passes nothing on: both must be at least 1")
    rng = randomness.generator(seed, "hypernetwork")
    sizes = (dim, *[width] * depth)
    embeddings = torch.as_tensor(rng.standard_normal((clients, dim)), dtype=torch.get_default_dtype())
    phi = {"embeddings": embeddings, **init_mlp(rng, "trunk", sizes)}
    for n, p in theta.items():
        # Departure: every client begins at θ, whatever its embedding. Layers drawn at random, as the authors', know
        # nothing of a model's scales: those of a normalisation would begin near 0.
        phi |= {f"start.{n}": p, f"slope.{n}": p.new_zeros(*p.shape, sizes[-1])}
    return {HYPER + n: p for n, p in tree.to_device_of(phi, theta).items()}


def generate_parameters(phi: Params, v: Tensor) -> Params:
    """h(v; φ) of an embedding [D]: start + slope·z for each parameter, z [H] what the hidden layers make of v."""
    own = {n.removeprefix(HYPER): p for n, p in phi.items() if n.startswith(HYPER)}
    z = apply_mlp(own, "trunk", v)
    z = z if z is v else z.relu()
    starts = [n.removeprefix("start.") for n in own if n.startswith("start.")]
    return {n: own[f"start.{n}"] + own[f"slope.{n}"] @ z for n in starts}
