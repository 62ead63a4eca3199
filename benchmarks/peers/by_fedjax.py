"""FedJAX: its federated averaging on its jit backend; batches in the order given, no shuffling."""

from functools import partial

import numpy as np
from turns import Turns


def main() -> None:
    turns = Turns()
    import fedjax
    import jax
    from networks import loss

    work = turns.work
    value = loss(work.name)
    clients, steps, batch = work.y.shape
    x, y = work.x.reshape(clients, steps * batch, *work.x.shape[3:]), work.y.reshape(clients, -1).astype(np.int32)
    data = [fedjax.ClientDataset({"x": x[c], "y": y[c]}) for c in range(clients)]
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        jax.grad(lambda params, batch, rng: value(params, batch["x"], batch["y"])),
        fedjax.optimizers.sgd(work.lr),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=batch, num_epochs=1, skip_shuffle=True),
    )
    state = algorithm.init({n: jax.numpy.asarray(p) for n, p in work.params.items()})
    keys = jax.random.split(jax.random.PRNGKey(0), clients)
    cohort = [(c, data[c], keys[c]) for c in range(clients)]
    while turns.wait(partial(dict, state.params)):
        state, _ = algorithm.apply(state, cohort)
        jax.block_until_ready(state.params)


if __name__ == "__main__":
    main()
