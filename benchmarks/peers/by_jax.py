"""JAX without a library. The perceptron's round is one compiled function, a scan over clients of a scan over steps.

Of the other networks a step is compiled, and called from Python: on a CPU, convolutions inside a scan are many times
slower than outside. Of MAML it is the gradient through one inner step, for an episode.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from turns import Turns, Work

Round = Callable[..., tuple[Any, Any]]  # (params, then x, y, ...: [C, K, B, ...]) -> params after a round, mean loss


def main() -> None:
    turns = Turns()
    import jax

    work = turns.work
    round = maml(work) if work.query_x is not None else scanned(work) if work.name == "mlp" else stepped(work)
    shared = {n: jax.numpy.asarray(p) for n, p in work.params.items()}
    given = [a for a in (work.x, work.y, work.query_x, work.query_y) if a is not None]
    data = [a if a.dtype == np.float32 else a.astype(np.int32) for a in given]
    data = [jax.numpy.asarray(a) for a in data]
    while turns.wait(partial(dict, shared)):
        shared, value = round(shared, *data)
        float(value)
        jax.block_until_ready(shared)


def step(work: Work) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Local SGD's: (params, (x [B, ...], y [B])) -> params, loss."""
    import jax
    from networks import loss

    def of(params: Any, batch: Any) -> tuple[Any, Any]:
        value, slopes = jax.value_and_grad(loss(work.name))(params, *batch)
        return jax.tree.map(lambda p, g: p - work.lr * g, params, slopes), value

    return of


def scanned(work: Work) -> Round:
    """A round in one compiled function."""
    import jax

    def round(shared: Any, x: Any, y: Any) -> tuple[Any, Any]:
        def client(total: Any, data: Any) -> tuple[Any, Any]:
            params, losses = jax.lax.scan(step(work), shared, data)
            return jax.tree.map(jax.numpy.add, total, params), losses.mean()

        total, losses = jax.lax.scan(client, jax.tree.map(jax.numpy.zeros_like, shared), (x, y))
        return jax.tree.map(lambda p: p / work.clients, total), losses.mean()

    return jax.jit(round)


def stepped(work: Work) -> Round:
    """A round as Python's loop over clients and steps."""
    import jax

    one, add = jax.jit(step(work)), jax.jit(partial(jax.tree.map, jax.numpy.add))
    mean = jax.jit(partial(jax.tree.map, lambda p: p / work.clients))

    def round(shared: Any, x: Any, y: Any) -> tuple[Any, Any]:
        total, value = None, 0.0
        for client in range(work.clients):
            params = shared
            for k in range(x.shape[1]):
                params, value = one(params, (x[client, k], y[client, k]))
            total = params if total is None else add(total, params)
        return mean(total), value

    return round


def maml(work: Work) -> Round:
    """A round as Python's loop over episodes; an outer step along the mean of their exact meta-gradients."""
    import jax
    from networks import loss

    of = loss(work.name)

    def adapted(params: Any, x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        fast = jax.tree.map(lambda p, g: p - work.inner_lr * g, params, jax.grad(of)(params, x, y))
        return of(fast, query_x, query_y)

    one, add = jax.jit(jax.value_and_grad(adapted)), jax.jit(partial(jax.tree.map, jax.numpy.add))
    outer = jax.jit(partial(jax.tree.map, lambda p, g: p - work.lr * g / work.y[..., 0].size))

    def round(shared: Any, *data: Any) -> tuple[Any, Any]:
        total, value = None, 0.0
        for client, k in np.ndindex(work.y.shape[:2]):
            value, slopes = one(shared, *(a[client, k] for a in data))
            total = slopes if total is None else add(total, slopes)
        return outer(shared, total), value

    return round


if __name__ == "__main__":
    main()
