"""Rows of the law table: algorithms made for schedules without rounds, or without a server.

Here they are run in synchronous rounds like all others, where nobody is late and nobody is a peer; on their own
schedules they are in `test_schedules`.
"""

from seedbed.algorithms.dif_maml import dif_maml
from seedbed.algorithms.dpsgd import dpsgd
from seedbed.algorithms.fedasync import fedasync
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedbuff import fedbuff
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.push_sum import push_sum
from seedbed.federated import uniform
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.optimizers import adam, sgd

from .bench import MOMENTUM, Reduction, Row, Still, module

ROWS = [
    Row("fedasync", lambda n: fedasync(n.loss, local=sgd(0.2)), "batches", module),
    Row(
        "fedasync",
        lambda n: fedasync(n.loss, alpha=0.9, decay="hinge", b=0.5, rho=0.5, local=MOMENTUM),
        "full",
        variant="hinge",
    ),
    Row("fedbuff", lambda n: fedbuff(n.loss, local=sgd(0.2)), "batches"),
    Row(
        "fedbuff",
        lambda n: fedbuff(n.loss, local=adam(0.02), outer=MOMENTUM, adapt=gradient_steps(n.loss, lr=0.1)),
        "full",
        module,
        "adam",
    ),
    Row("dpsgd", lambda n: dpsgd(n.loss, outer=sgd(0.3)), "full", module),
    Row("dpsgd", lambda n: dpsgd(n.loss, outer=adam(0.02)), "batches", variant="adam"),
    Row("push_sum", lambda n: push_sum(n.loss, outer=sgd(0.3)), "full"),
    Row("push_sum", lambda n: push_sum(n.loss, outer=MOMENTUM), "batches", module, "momentum"),
    Row("dif_maml", lambda n: dif_maml(n.loss, outer=sgd(0.2)), "episodes", module),
    Row("dif_maml", lambda n: dif_maml(n.loss, steps=2, order="first"), "episodes", variant="first"),
]

REDUCTIONS: dict[str, Reduction] = {
    "fedasync alpha=1, rho=0: uniform fedavg": (
        lambda n: fedasync(n.loss, alpha=1, rho=0),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "fedasync alpha=1: uniform fedprox": (
        lambda n: fedasync(n.loss, alpha=1, rho=0.5),
        lambda n: uniform(fedprox(n.loss, mu=0.5)),
        "batches",
    ),
    "fedbuff, nobody late: uniform fedavg": (
        lambda n: fedbuff(n.loss),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "dpsgd with a server: uniform fedsgd": (lambda n: dpsgd(n.loss), lambda n: uniform(fedsgd(n.loss)), "full"),
    "push_sum with a server: uniform fedsgd": (lambda n: push_sum(n.loss), lambda n: uniform(fedsgd(n.loss)), "full"),
    "dif_maml with a server: fedmeta": (lambda n: dif_maml(n.loss), lambda n: fedmeta(n.loss), "episodes"),
}

STILL: dict[str, Still] = {
    "fedasync, local": (lambda n: fedasync(n.loss, local=sgd(0.0)), "batches"),
    "fedasync, alpha": (lambda n: fedasync(n.loss, alpha=0.0), "batches"),
    "fedbuff": (lambda n: fedbuff(n.loss, outer=sgd(0.0)), "batches"),
    "dpsgd": (lambda n: dpsgd(n.loss, outer=sgd(0.0)), "full"),
    "push_sum": (lambda n: push_sum(n.loss, outer=sgd(0.0)), "full"),
    "dif_maml": (lambda n: dif_maml(n.loss, outer=sgd(0.0)), "episodes"),
}
