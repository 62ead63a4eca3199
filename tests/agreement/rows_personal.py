"""Rows of the law table: personalised methods."""

from seedbed.algorithms.apfl import apfl
from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fed_eb import fed_eb
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.fedrep import fedrep
from seedbed.algorithms.lg_fedavg import lg_fedavg
from seedbed.algorithms.pfedme import pfedme
from seedbed.algorithms.reptile import reptile
from seedbed.federated import uniform
from seedbed.learning.objectives import squared_error, supervised
from seedbed.learning.optimizers import adam, sgd

from .bench import MOMENTUM, Net, Reduction, Row, Still, by_hand, module


def numbers() -> Net:
    """The first output of the network, for the class as a number."""
    net = by_hand()
    params = {n: p[:1] if n.startswith("head.") else p for n, p in net.params.items()}
    return Net(net.predict, net.features, supervised(net.predict, squared_error), params)


ROWS = [
    Row("pfedme", lambda n: pfedme(n.loss, lam=2.0, eta=0.1), "batches", module),
    Row(
        "pfedme",
        lambda n: pfedme(n.loss, lam=5.0, eta=0.1, inner=MOMENTUM, steps=3, beta=1.5, test_steps=2),
        "full",
        variant="momentum",
    ),
    Row("ditto", lambda n: ditto(n.loss, lam=0.5), "batches"),
    Row(
        "ditto",
        lambda n: ditto(n.loss, lam=2.0, local=MOMENTUM, personal=adam(0.02), outer=adam(0.05), test_steps=2),
        "full",
        module,
        "adam",
    ),
    Row("fedper", lambda n: fedper(n.loss, local=sgd(0.2), test_steps=2), "batches", module),
    Row("fedper", lambda n: fedper(n.loss, local=MOMENTUM, outer=adam(0.05), test_steps=0), "full", variant="adam"),
    Row("fedrep", lambda n: fedrep(n.loss, local=sgd(0.2), test_steps=2), "batches"),
    Row("fedrep", lambda n: fedrep(n.loss, head_epochs=3, local=adam(0.02)), "batches", module, "adam"),
    Row("fedbabu", lambda n: fedbabu(n.loss, local=sgd(0.2), test_steps=2), "batches", module),
    Row("fedbabu", lambda n: fedbabu(n.loss, tunes="head", local=MOMENTUM, outer=adam(0.05)), "full", variant="head"),
    Row("lg_fedavg", lambda n: lg_fedavg(n.loss, local=sgd(0.2), test_steps=2), "batches"),
    Row("lg_fedavg", lambda n: lg_fedavg(n.loss, local=adam(0.02), outer=MOMENTUM), "full", module, "adam"),
    Row("apfl", lambda n: apfl(n.loss, local=sgd(0.2), test_steps=2), "batches", module),
    Row(
        "apfl",
        lambda n: apfl(n.loss, alpha=0.2, alpha_lr=0.0, local=MOMENTUM, personal=adam(0.02)),
        "full",
        variant="fixed, adam",
    ),
    Row("fed_eb", lambda n: fed_eb(n.loss, n.predict, n.features, local=sgd(0.2)), "batches", module),
    Row(
        "fed_eb",
        lambda n: fed_eb(n.loss, n.predict, n.features, columns="slopes", start=0.1, local=MOMENTUM, outer=adam(0.02)),
        "full",
        variant="slopes",
    ),
    Row(
        "fed_eb",
        lambda n: fed_eb(n.loss, n.predict, n.features, columns="slopes", start=0.1, local=sgd(0.05)),
        "full",
        numbers,
        "numbers",
    ),
]

REDUCTIONS: dict[str, Reduction] = {
    "fed_eb: uniform fedavg": (
        lambda n: fed_eb(n.loss, n.predict, n.features),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "ditto lam=0: fedavg": (lambda n: ditto(n.loss, lam=0), lambda n: fedavg(n.loss), "batches"),
    "apfl alpha=0: uniform fedavg": (
        lambda n: apfl(n.loss, alpha=0, alpha_lr=0),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "fedrep head_epochs=0: fedbabu": (lambda n: fedrep(n.loss, head_epochs=0), lambda n: fedbabu(n.loss), "batches"),
    "pfedme beta=0: reptile epsilon=0": (
        lambda n: pfedme(n.loss, beta=0),
        lambda n: reptile(n.loss, epsilon=0),
        "batches",
    ),
}

STILL: dict[str, Still] = {
    "pfedme": (lambda n: pfedme(n.loss, inner=sgd(0.0)), "batches"),
    "ditto": (lambda n: ditto(n.loss, local=sgd(0.0), personal=sgd(0.0)), "batches"),
    "fedper": (lambda n: fedper(n.loss, local=sgd(0.0)), "batches"),
    "fedrep": (lambda n: fedrep(n.loss, local=sgd(0.0)), "batches"),
    "fedbabu": (lambda n: fedbabu(n.loss, outer=sgd(0.0)), "batches"),
    "lg_fedavg": (lambda n: lg_fedavg(n.loss, local=sgd(0.0)), "batches"),
    "apfl": (lambda n: apfl(n.loss, alpha_lr=0.0, local=sgd(0.0), personal=sgd(0.0)), "batches"),
}
