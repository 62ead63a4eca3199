"""The workloads' networks in JAX, over parameters of PyTorch's names and layouts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]


def perceptron(params: Params, x: Any) -> Any:
    """[B, 60] -> [B, 10]."""
    hidden = jax.nn.relu(_dense(params, "body.1", x))
    return _dense(params, "head", hidden)


def two_convolutions(params: Params, x: Any, *, padding: str, first_pool: bool) -> Any:
    """[B, 1, 28, 28] -> [B, classes]."""
    x = jax.nn.relu(_convolution(params, "conv1", x, padding))
    x = _pool(x) if first_pool else x
    x = _pool(jax.nn.relu(_convolution(params, "conv2", x, padding)))
    hidden = jax.nn.relu(_dense(params, "body", x.reshape(x.shape[0], -1)))
    return _dense(params, "head", hidden)


def next_character(params: Params, x: Any) -> Any:
    """[B, T] -> [B, 80]."""
    x = params["embed.weight"][x].swapaxes(0, 1)
    for layer in ("l0", "l1"):
        x = _lstm(params, layer, x)
    return _dense(params, "head", x[-1])


def four_convolutions(params: Params, x: Any) -> Any:
    """[B, 1, 28, 28] -> [B, 5]; normalised by the batch's own statistics."""
    for block in range(4):
        x = _convolution(params, str(4 * block), x, "SAME")
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        scale, shift = (params[f"{4 * block + 1}.{n}"][:, None, None] for n in ("weight", "bias"))
        x = _pool(jax.nn.relu((x - mean) / jnp.sqrt(variance + 1e-5) * scale + shift))
    return _dense(params, "17", x.reshape(x.shape[0], -1))


NETWORKS: dict[str, Callable[[Params, Any], Any]] = {
    "mlp": perceptron,
    "cnn": partial(two_convolutions, padding="SAME", first_pool=True),
    "small_cnn": partial(two_convolutions, padding="VALID", first_pool=False),
    "lstm": next_character,
    "maml": four_convolutions,
}


def loss(name: str) -> Callable[[Params, Any, Any], Any]:
    """Mean cross entropy of this workload's network: (params, [B, ...], [B]) -> []."""
    network = NETWORKS[name]

    def of(params: Params, x: Any, y: Any) -> Any:
        logs = jax.nn.log_softmax(network(params, x))
        return -jnp.take_along_axis(logs, y[:, None], 1).mean()

    return of


def _dense(params: Params, name: str, x: Any) -> Any:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def _convolution(params: Params, name: str, x: Any, padding: str) -> Any:
    found = jax.lax.conv_general_dilated(x, params[f"{name}.weight"], (1, 1), padding)
    return found + params[f"{name}.bias"][:, None, None]


def _pool(x: Any) -> Any:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def _lstm(params: Params, layer: str, x: Any) -> Any:
    """[T, B, inputs] -> [T, B, H]; what does not depend on the state is one product for all T."""
    given = x @ params[f"lstm.weight_ih_{layer}"].T + params[f"lstm.bias_ih_{layer}"] + params[f"lstm.bias_hh_{layer}"]
    weight = params[f"lstm.weight_hh_{layer}"].T

    def step(state: Any, given: Any) -> Any:
        hidden, cell = state
        i, f, g, o = jnp.split(given + hidden @ weight, 4, axis=1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    nothing = jnp.zeros((x.shape[1], weight.shape[0]))
    return jax.lax.scan(step, (nothing, nothing), given)[1]
