"""The perceptron and LEAF's FEMNIST network in JAX, over parameters of PyTorch's names and layouts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]


def perceptron(params: Params, x: Any) -> Any:
    """[B, 60] -> [B, 10]."""
    hidden = jax.nn.relu(_dense(params, "body.1", x))
    return _dense(params, "head", hidden)


def femnist(params: Params, x: Any) -> Any:
    """[B, 1, 28, 28] -> [B, 62]."""
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(x, params[f"{name}.weight"], (1, 1), "SAME")
        x = jax.nn.relu(x + params[f"{name}.bias"][:, None, None])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    hidden = jax.nn.relu(_dense(params, "body", x.reshape(x.shape[0], -1)))
    return _dense(params, "head", hidden)


NETWORKS: dict[str, Callable[[Params, Any], Any]] = {"mlp": perceptron, "cnn": femnist}


def loss(name: str) -> Callable[[Params, Any, Any], Any]:
    """Mean cross entropy of this workload's network: (params, [B, ...], [B]) -> []."""
    network = NETWORKS[name]

    def of(params: Params, x: Any, y: Any) -> Any:
        logs = jax.nn.log_softmax(network(params, x))
        return -jnp.take_along_axis(logs, y[:, None], 1).mean()

    return of


def _dense(params: Params, name: str, x: Any) -> Any:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]
