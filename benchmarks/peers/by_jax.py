"""JAX without a library: a round is one compiled function, a scan over clients of a scan over steps.

A scan, not `vmap` over clients: for the perceptron and LEAF's network it is the faster of the two on a CPU. MAML is a
scan over episodes of the gradient through one inner step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from turns import Turns, Work


def main() -> None:
    turns = Turns()
    import jax

    work = turns.work
    round = jax.jit(fedavg(work) if work.query_x is None else maml(work))
    shared = {n: jax.numpy.asarray(p) for n, p in work.params.items()}
    given = [a for a in (work.x, work.y, work.query_x, work.query_y) if a is not None]
    data = [jax.numpy.asarray(a if a.dtype == np.float32 else a.astype(np.int32)) for a in given]
    while turns.wait(partial(dict, shared)):
        shared, value = round(shared, *data)
        float(value)
        jax.block_until_ready(shared)


def fedavg(work: Work) -> Callable[..., Any]:
    """(params, x [C, K, B, ...], y [C, K, B]) -> params after a round, the mean loss."""
    import jax
    from networks import loss

    def step(params: Any, batch: Any) -> tuple[Any, Any]:
        value, slopes = jax.value_and_grad(loss(work.name))(params, *batch)
        return jax.tree.map(lambda p, g: p - work.lr * g, params, slopes), value

    def round(shared: Any, x: Any, y: Any) -> tuple[Any, Any]:
        def client(total: Any, data: Any) -> tuple[Any, Any]:
            params, losses = jax.lax.scan(step, shared, data)
            return jax.tree.map(jax.numpy.add, total, params), losses.mean()

        total, losses = jax.lax.scan(client, jax.tree.map(jax.numpy.zeros_like, shared), (x, y))
        return jax.tree.map(lambda p: p / work.clients, total), losses.mean()

    return round


def maml(work: Work) -> Callable[..., Any]:
    """(params, x, y, query x, query y: [C, K, B, ...]) -> params after a step along the exact meta-gradient, the mean
    loss."""
    import jax
    from networks import loss

    of = loss(work.name)

    def adapted(params: Any, x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        fast = jax.tree.map(lambda p, g: p - work.inner_lr * g, params, jax.grad(of)(params, x, y))
        return of(fast, query_x, query_y)

    def round(shared: Any, *data: Any) -> tuple[Any, Any]:
        def episode(total: Any, data: Any) -> tuple[Any, Any]:
            value, slopes = jax.value_and_grad(adapted)(shared, *data)
            return jax.tree.map(jax.numpy.add, total, slopes), value

        every = [a.reshape(-1, *a.shape[2:]) for a in data]
        total, losses = jax.lax.scan(episode, jax.tree.map(jax.numpy.zeros_like, shared), every)
        return jax.tree.map(lambda p, g: p - work.lr * g / len(every[0]), shared, total), losses.mean()

    return round


if __name__ == "__main__":
    main()
