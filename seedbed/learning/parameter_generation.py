"""Generating a model's parameters from a support set, one block after another.

q(φ | A) = Π_l q(φ_l | φ_<l, A) over blocks l: a layer of the model, or some rows of a large one. Step l:

    e_l = tanh of the mean over (x, y) in A of Enc([h_<l(x), y]) ⊙ (1 + Told(y))
    g_l = GRU([e_l, place_l, Back(φ_{l−1})], g_{l−1})
    φ_l = θ_l + s_l ⊙ Head([g_l, e_l])

with h_<l(x) what the layer sees through the blocks generated so far, and θ a start, meta-learned with the generator.

The factor 1 + Told(y) lets y tell examples apart from the first round on, and Head sees e_l itself: for a row of a
classifier's output layer, what its class looks like beside the others. With y among the inputs of Enc only, where many
features outnumber it, and e_l through the GRU only, a generator stays at chance for hundreds of rounds. A class number
is told centred: N − 1 for the class, −1 for others; of a number, which may be large, the factor is 1 + tanh(Told(y)).

No published method is this one. The nearest generate layer by layer from support activations (HyperTransformer:
Zhmoginov, Sandler and Vladymyrov, ICML 2022, arXiv 2201.04182; CNAPs: Requeima et al., NeurIPS 2019, arXiv 1906.07697).

Params are flat dicts: θ under the model's own names, the generator's under names that begin with `generator:`. Shapes:
B examples, F features, R rows of a layer, W numbers of a row, T targets.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import randomness, tree
from seedbed.data.types import Batch
from seedbed.learning.heads import one_hot
from seedbed.learning.networks import apply_dense, apply_gru, apply_mlp, init_dense, init_gru, init_mlp
from seedbed.learning.objectives import Predict
from seedbed.learning.training import Params

PSI = "generator:"  # the prefix of the generator's own parameters
INITIAL_LOG_SIGMA = -3.0  # log σ before anything is learned


class GeneratedLayer(NamedTuple):
    """A layer whose parameters can be generated."""

    names: tuple[str, ...]  # of its parameters, each [R, ...]
    sees: Predict  # (params, x [B, ...]) -> its input, [B, F]
    width: int  # F


class Generator(NamedTuple):
    """init(θ) -> θ and the generator's parameters; generate(these, support, noise) -> the model's alone."""

    init: Callable[[Params], Params]
    generate: Callable[[Params, Batch, Tensor | None], Params]


def autoregressive_generator(
    layers: Sequence[GeneratedLayer],
    *,
    width: int = 128,
    size: int = 2048,
    scale: float = 1.0,
    gaussian: bool = False,
    seed: int = 0,
) -> Generator:
    """The generator of the module's docstring.

    Args:
        layers: in the order of the model; the last one is its output layer.
        width: of the GRU's state and of the encoders.
        size: at most so many numbers in a block, but a row at least; the rows of a layer share its encoder and its
            head. The output layer is generated a row at a time, each seeing its own target alone: y_r, or whether an
            example is of class r.
        scale: s_l before anything is learned; 0 begins at φ = θ.
        gaussian: φ_l ~ N(θ_l + s_l⊙Head_μ, (s_l⊙exp(Head_σ))²) under the noise that is given; without noise, its mean.
    """

    last = layers[-1]

    def cut(rows: Tensor, layer: GeneratedLayer) -> int:
        """How many rows of [R, W] make a block."""
        return 1 if layer is last else max(1, min(len(rows), size // rows.shape[1]))

    def init(theta: Params) -> Params:
        rng = randomness.generator(seed, "generator")
        psi = init_gru(rng, "gru", 3 * width, width)
        for number, layer in enumerate(layers):
            rows = _rows(theta, layer)
            each = cut(rows, layer)
            told, made = 1 if layer is last else len(_rows(theta, last)), each * rows.shape[1]
            psi |= init_mlp(rng, f"{number}.encode", (layer.width + told, width, width))
            psi |= init_dense(rng, f"{number}.told", told, width)
            psi |= init_mlp(rng, f"{number}.head", (2 * width, width, made * (2 if gaussian else 1)))
            psi |= init_dense(rng, f"{number}.back", made, width)
            psi |= {f"{number}.place": rows.new_zeros(-(-len(rows) // each), width)}
            psi |= {f"{number}.scale": torch.full_like(rows, scale)}
        return {**theta, **{PSI + n: p for n, p in tree.to_device_of(psi, theta).items()}}

    def generate(params: Params, support: Batch, noise: Tensor | None = None) -> Params:
        psi = {n.removeprefix(PSI): p for n, p in params.items() if n.startswith(PSI)}
        phi = {n: p for n, p in params.items() if not n.startswith(PSI)}
        targets = _targets(support.y, len(_rows(phi, last)), support.x.dtype)
        g = back = support.x.new_zeros(width)
        used = 0
        for number, layer in enumerate(layers):
            theta, scales, seen, blocks = _rows(phi, layer), psi[f"{number}.scale"], layer.sees(phi, support.x), []
            each = cut(theta, layer)
            for place in range(-(-len(theta) // each)):
                here = slice(place * each, (place + 1) * each)
                told = targets[:, here] if layer is last else targets
                code = apply_mlp(psi, f"{number}.encode", torch.cat([seen, told], 1)).relu()
                factor = apply_dense(psi, f"{number}.told", told)
                code = code * (1 + (factor.tanh() if support.y.is_floating_point() else factor))
                e = torch.tanh((code * support.mask[:, None]).sum(0) / support.mask.sum().clamp_min(1))
                g = apply_gru(psi, "gru", torch.cat([e, psi[f"{number}.place"][place], back]), g)
                count = len(theta[here])  # the last block of a layer may be short
                move, *spread = apply_mlp(psi, f"{number}.head", torch.cat([g, e])).view(-1, each, theta.shape[1])[
                    :, :count
                ]
                if noise is not None:
                    drawn = noise[used : used + move.numel()].view_as(move)
                    move, used = move + (INITIAL_LOG_SIGMA + spread[0]).exp() * drawn, used + drawn.numel()
                blocks.append(theta[here] + scales[here] * move)
                back = apply_dense(psi, f"{number}.back", F.pad(blocks[-1], (0, 0, 0, each - count)).flatten())
            phi |= _from_rows(torch.cat(blocks), phi, layer)
        return phi

    return Generator(init, generate)


def noise_length(theta: Params, layers: Sequence[GeneratedLayer]) -> int:
    """How many numbers are generated, and so how long the noise is."""
    return sum(_rows(theta, layer).numel() for layer in layers)


def _rows(params: Params, layer: GeneratedLayer) -> Tensor:
    """A layer's parameters side by side: [R, W]."""
    return torch.cat([params[n].reshape(len(params[n]), -1) for n in layer.names], 1)


def _from_rows(rows: Tensor, like: Params, layer: GeneratedLayer) -> Params:
    """[R, W] -> the layer's parameters by name."""
    widths = [like[n][0].numel() for n in layer.names]
    return {n: part.reshape(like[n].shape) for n, part in zip(layer.names, torch.split(rows, widths, 1), strict=True)}


def _targets(y: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    """[B] class numbers, centred, or [B, ...] numbers as they are -> [B, T]."""
    return y.reshape(len(y), -1) if y.is_floating_point() else outputs * one_hot(y, outputs, dtype) - 1
