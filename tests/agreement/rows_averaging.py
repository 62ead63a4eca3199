"""Rows of the law table: one model for all, averaged on a server, and the baselines."""

from dataclasses import replace

from seedbed.algorithms.centralised import centralised
from seedbed.algorithms.fed_lbfgs import fed_lbfgs
from seedbed.algorithms.fedadagrad import fedadagrad
from seedbed.algorithms.fedadam import fedadam
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedavgm import fedavgm
from seedbed.algorithms.feddyn import feddyn
from seedbed.algorithms.fednova import fednova
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.fedyogi import fedyogi
from seedbed.algorithms.local import local
from seedbed.algorithms.scaffold import scaffold
from seedbed.federated import Algorithm, uniform
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.optimizers import Optimizer, adam, cosine, linear, sgd

from .bench import MOMENTUM, Net, Reduction, Row, Still, module

ROWS = [
    Row("fedsgd", lambda n: fedsgd(n.loss, outer=sgd(0.3)), "full"),
    Row("fedsgd", lambda n: fedsgd(n.loss, outer=adam(0.02)), "batches", module, "adam"),
    Row("fed_lbfgs", lambda n: fed_lbfgs(n.loss, strengths=(0.1, 0.01)), "full"),
    Row("fedavg", lambda n: fedavg(n.loss, local=sgd(0.2)), "batches", module),
    Row("fedavg", lambda n: fedavg(n.loss, local=adam(0.02), outer=adam(0.05)), "batches", variant="adam"),
    Row(
        "fedavg",
        lambda n: fedavg(
            n.loss,
            local=MOMENTUM,
            outer=sgd(0.5, momentum=0.9),
            adapt=gradient_steps(n.loss, lr=0.1, steps=3),
        ),
        "batches",
        module,
        "momentum, finetuned",
    ),
    Row("fedprox", lambda n: fedprox(n.loss, mu=0.5, local=sgd(0.2)), "batches"),
    Row(
        "fedprox",
        lambda n: fedprox(n.loss, mu=2.0, local=adam(0.02, schedule=cosine(9))),
        "full",
        module,
        "adam",
    ),
    Row("fednova", lambda n: fednova(n.loss, local=sgd(0.2)), "batches"),
    Row(
        "fednova",
        lambda n: fednova(n.loss, mu=0.5, local=MOMENTUM, outer=adam(0.02)),
        "batches",
        module,
        "momentum, prox",
    ),
    Row(
        "fednova",
        lambda n: fednova(n.loss, local=sgd(0.2, schedule=linear(6))),
        "full",
        variant="schedule",
    ),
    Row("scaffold", lambda n: scaffold(n.loss, local=sgd(0.2)), "batches"),
    Row("scaffold", lambda n: scaffold(n.loss, option=1, local=sgd(0.2)), "batches", module, "option 1"),
    Row(
        "scaffold",
        lambda n: scaffold(n.loss, local=MOMENTUM, outer=sgd(0.5, momentum=0.9)),
        "batches",
        module,
        "momentum",
    ),
    Row("fedavgm", lambda n: fedavgm(n.loss, local=sgd(0.2)), "batches"),
    Row(
        "fedavgm",
        lambda n: fedavgm(n.loss, eta=0.5, beta=0.5, nesterov=True, schedule=linear(5)),
        "full",
        module,
        "nesterov",
    ),
    *(
        row
        for name, make in {"fedadagrad": fedadagrad, "fedadam": fedadam, "fedyogi": fedyogi}.items()
        for row in (
            Row(name, lambda n, make=make: make(n.loss, local=sgd(0.2)), "batches"),  # type: ignore[misc]
            Row(
                name,
                lambda n, make=make: make(n.loss, eta=0.02, tau=1e-8, initial=0.0, bias_correction=True),  # type: ignore[misc]
                "batches",
                module,
                "corrected",
            ),
        )
    ),
    Row("local", lambda n: local(n.loss, local=sgd(0.2)), "batches", module),
    Row("local", lambda n: local(n.loss, adapt=gradient_steps(n.loss, lr=0.1)), "full", variant="finetuned"),
    Row("feddyn", lambda n: feddyn(n.loss), "batches"),
    Row("centralised", lambda n: pooled_law(n, MOMENTUM), "batches"),
    Row("centralised", lambda n: pooled_law(n, adam(0.02)), "batches", module, "adam"),
]


def pooled_law(net: Net, local: Optimizer) -> Algorithm:
    """Centralised training for the table, whose clients are not pooled: its server is told of one."""
    base = centralised(net.loss, local=local)
    return replace(base, server=lambda state, replies: base.server(state, replies._replace(population=1)))


REDUCTIONS: dict[str, Reduction] = {
    "fedprox mu=0: fedavg": (lambda n: fedprox(n.loss, mu=0), lambda n: fedavg(n.loss), "batches"),
    "fednova, equal steps: fedavg": (lambda n: fednova(n.loss), lambda n: fedavg(n.loss), "full"),
    "scaffold's first round: uniform fedavg": (
        lambda n: scaffold(n.loss),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "scaffold's first round, option 1: uniform fedavg": (
        lambda n: scaffold(n.loss, option=1),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "fedavgm beta=0: fedavg": (lambda n: fedavgm(n.loss, beta=0), lambda n: fedavg(n.loss), "batches"),
}

STILL: dict[str, Still] = {
    "fedsgd": (lambda n: fedsgd(n.loss, outer=sgd(0.0)), "full"),
    "fedavg, local": (lambda n: fedavg(n.loss, local=sgd(0.0)), "batches"),
    "fedavg, outer": (lambda n: fedavg(n.loss, outer=sgd(0.0)), "batches"),
    "fedprox": (lambda n: fedprox(n.loss, local=sgd(0.0)), "batches"),
    "fednova, local": (lambda n: fednova(n.loss, mu=0.5, local=sgd(0.0)), "batches"),
    "fednova, outer": (lambda n: fednova(n.loss, outer=sgd(0.0)), "batches"),
    "scaffold": (lambda n: scaffold(n.loss, local=sgd(0.0)), "batches"),
    "fedavgm": (lambda n: fedavgm(n.loss, eta=0.0), "batches"),
    "fedadagrad": (lambda n: fedadagrad(n.loss, eta=0.0), "batches"),
    "fedadam": (lambda n: fedadam(n.loss, eta=0.0), "batches"),
    "fedyogi": (lambda n: fedyogi(n.loss, eta=0.0), "batches"),
    "local": (lambda n: local(n.loss, local=sgd(0.0)), "batches"),
    "centralised": (lambda n: pooled_law(n, sgd(0.0)), "batches"),
}
