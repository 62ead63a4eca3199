"""Rows of the law table: heads solved by Newton's and interior point methods, implicit gradients, normalisation."""

import functools

from torch import nn

from seedbed.algorithms.fed_lr import fed_lr
from seedbed.algorithms.fed_metaoptnet import fed_metaoptnet
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedbn import fedbn
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.imaml import imaml
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.federated import uniform
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import cross_entropy, meta_objective, supervised
from seedbed.learning.optimizers import adam, sgd
from seedbed.models import Model, mlp
from seedbed.randomness import seeded_init

from .bench import CLASSES, HIDDEN, INPUTS, MOMENTUM, Net, Reduction, Row, Still, module


@functools.cache
def with_norm() -> Model:
    """A multilayer perceptron with batch normalisation."""
    with seeded_init(0):
        return Model(mlp((INPUTS,), CLASSES, hidden=(HIDDEN,), norm="batch"))


@functools.cache
def without_norm() -> Model:
    """The network of `by_hand`, as far as it matters here: it has no normalisation."""
    return Model(nn.Sequential(nn.Linear(INPUTS, CLASSES)))


def normalised() -> Net:
    model = with_norm()
    return Net(model.predict, model.features, supervised(model.predict, cross_entropy), model.params)


ROWS = [
    Row("imaml", lambda n: imaml(n.loss, lr=0.2, steps=4, cg_steps=3), "parts", module),
    Row("imaml", lambda n: imaml(n.loss, lam=3.0, outer=sgd(0.3), test_steps=2), "episodes", variant="sgd"),
    Row(
        "meta_sgd",
        lambda n: meta_sgd(n.loss, lr=0.2, steps=3, each="tensor_and_step", multi_step_rounds=2, test_steps=4),
        "parts",
        variant="maml++",
    ),
    Row("fed_lr", lambda n: fed_lr(n.loss, n.features, ways=CLASSES), "episodes", module),
    Row(
        "fed_lr",
        lambda n: fed_lr(n.loss, n.features, ways=CLASSES, newton_steps=2, outer=sgd(0.3), test_steps=2),
        "episodes",
        variant="finetuned",
    ),
    Row("fed_metaoptnet", lambda n: fed_metaoptnet(n.loss, n.features, ways=CLASSES), "episodes"),
    Row(
        "fed_metaoptnet",
        lambda n: fed_metaoptnet(
            n.loss, n.features, ways=CLASSES, c=1.0, epsilon=0.1, smoothing=0.1, outer=sgd(0.3), test_steps=2
        ),
        "episodes",
        module,
        "smoothed, finetuned",
    ),
    Row(
        "fed_metaoptnet",
        lambda n: fed_metaoptnet(n.loss, n.features, ways=CLASSES, form="ridge", lam=2.0, outer=sgd(0.3)),
        "parts",
        module,
        "ridge",
    ),
    Row("fedbn", lambda n: fedbn(n.loss, with_norm(), local=sgd(0.2), test_steps=2), "batches", normalised),
    Row("fedbn", lambda n: fedbn(n.loss, with_norm(), local=MOMENTUM, outer=adam(0.02)), "full", normalised, "adam"),
]

REDUCTIONS: dict[str, Reduction] = {
    "imaml steps=0, lam=1e12: uniform fedsgd on queries": (
        lambda n: imaml(n.loss, lam=1e12, steps=0, outer=sgd(0.3)),
        lambda n: uniform(fedsgd(meta_objective(unadapted, n.loss), outer=sgd(0.3))),
        "parts",
    ),
    "fedbn of a model without normalisation: fedavg": (
        lambda n: fedbn(n.loss, without_norm()),
        lambda n: fedavg(n.loss),
        "batches",
    ),
}

STILL: dict[str, Still] = {
    "imaml": (lambda n: imaml(n.loss, outer=sgd(0.0)), "parts"),
    "fed_lr": (lambda n: fed_lr(n.loss, n.features, ways=CLASSES, outer=sgd(0.0)), "episodes"),
    "fed_metaoptnet": (lambda n: fed_metaoptnet(n.loss, n.features, ways=CLASSES, outer=sgd(0.0)), "episodes"),
}
