"""Rows of the law table: distillation, mostly among clients of two architectures."""

import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from seedbed.algorithms.distill import distill
from seedbed.algorithms.fd import fd
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.feddf import feddf
from seedbed.algorithms.fedgkt import fedgkt
from seedbed.algorithms.fedmd import fedmd
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import adam, sgd
from seedbed.models import Model, ModelZoo, mlp
from seedbed.models.small import WithHead
from seedbed.models.split import SplitHalves, SplitNet
from seedbed.randomness import seeded_init

from .bench import CLASSES, HIDDEN, INPUTS, MOMENTUM, Net, Reduction, Row, Still, module


def two(*names: str) -> Net:
    """One or two architectures: `wide` of one hidden layer, `deep` of two with other names and shapes."""
    with seeded_init(0):
        wide = nn.Sequential(
            OrderedDict(body=nn.Linear(INPUTS, HIDDEN), tanh=nn.Tanh(), head=nn.Linear(HIDDEN, CLASSES))
        )
        made = {"wide": Model(wide), "deep": Model(mlp((INPUTS,), CLASSES, hidden=(5, 6), activation=nn.Tanh))}
    several = ModelZoo({name: made[name] for name in names or made})
    return Net(several.predict, several.features, supervised(several.predict, cross_entropy), several.params)


both = functools.cache(two)


@functools.cache
def halves() -> SplitHalves:
    return SplitHalves(split())


@functools.cache
def split() -> SplitNet:
    """A net of 4 → 5 on the client, 5 → 8 → 3 on the server."""
    with seeded_init(3):
        body = nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh())
        tail = nn.Sequential(nn.Linear(5, HIDDEN), nn.Tanh())
        return SplitNet(WithHead(body, 5, CLASSES), WithHead(tail, HIDDEN, CLASSES))


@functools.cache
def whole() -> Net:
    """The split net as one."""
    model = Model(split(), head="tail.head")
    return Net(model.predict, model.features, supervised(model.predict, cross_entropy), model.params)


@functools.cache
def public() -> Tensor:
    """Eleven inputs that everybody has: [11, 4]."""
    return 2 * torch.randn(11, INPUTS, generator=torch.Generator().manual_seed(4))


def teacher(x: Tensor) -> Tensor:
    """The other of the two networks, of fixed parameters."""
    return module().predict(module().params, x)


TWO = "(different|unlike) structure"  # two architectures: there is no one sum over the cohort


def gkt(n: Net, **settings: Any) -> Any:
    return fedgkt(halves().extract, halves().exit, halves().tail, **settings)


ROWS = [
    Row("distill", lambda n: distill(n.loss, n.predict, teacher=teacher, local=sgd(0.2)), "batches"),
    Row(
        "distill",
        lambda n: distill(
            n.loss, n.predict, teacher=teacher, alpha=1.0, temperature=4.0, local=MOMENTUM, outer=adam(0.05)
        ),
        "full",
        module,
        "adam",
    ),
    Row(
        "feddf",
        lambda n: feddf(n.loss, n.predict, public=public(), distil=sgd(0.2), distil_steps=3, distil_size=4),
        "batches",
        both,
        bare=TWO,
    ),
    Row(
        "feddf",
        lambda n: feddf(n.loss, n.predict, public=public(), distil=sgd(0.2), distil_steps=2),
        "batches",
        lambda: both("wide"),
        "one architecture",
    ),
    Row(
        "feddf",
        lambda n: feddf(
            n.loss,
            n.predict,
            public=public(),
            local=adam(0.02),
            distil=adam(0.05, epsilon=0.01),  # a smaller ε would make steps of the rounding where all agree
            distil_steps=4,
            assign=lambda client, names: names[client // 4],
            adapt=gradient_steps(n.loss, lr=0.1, steps=2),
        ),
        "full",
        both,
        "adam, finetuned",
        bare=TWO,
    ),
    Row("fedmd", lambda n: fedmd(n.loss, n.predict, public=public(), digest_steps=3, digest_size=4), "batches", both),
    Row(
        "fedmd",
        lambda n: fedmd(
            n.loss,
            n.predict,
            public=public(),
            labels=torch.arange(11) % CLASSES,
            temperature=3.0,
            local=MOMENTUM,
            digest=MOMENTUM,
            digest_steps=2,
            adapt=gradient_steps(n.loss, lr=0.1, steps=2),
        ),
        "full",
        both,
        "labels, momentum",
    ),
    Row("fd", lambda n: fd(n.loss, n.predict, ways=CLASSES, local=sgd(0.2), test_steps=2), "batches", both),
    Row(
        "fd",
        lambda n: fd(n.loss, n.predict, ways=CLASSES, gamma=0.5, temperature=2.0, local=adam(0.02), test_steps=1),
        "full",
        lambda: both("deep"),
        "adam",
    ),
    Row("fedgkt", lambda n: gkt(n, local=sgd(0.2), outer=sgd(0.1)), "batches", whole, bare="compute reduce=each"),
    Row(
        "fedgkt",
        lambda n: gkt(
            n,
            temperature=3.0,
            local=MOMENTUM,
            outer=adam(0.01),
            server_epochs=2,
            adapt=gradient_steps(n.loss, lr=0.1, steps=2),
        ),
        "full",
        whole,
        "adam, finetuned",
        bare="compute reduce=each",
    ),
]

REDUCTIONS: dict[str, Reduction] = {
    "distill alpha=0: fedavg": (
        lambda n: distill(n.loss, n.predict, teacher=teacher, alpha=0.0),
        lambda n: fedavg(n.loss),
        "batches",
    ),
}

STILL: dict[str, Still] = {
    "distill": (lambda n: distill(n.loss, n.predict, teacher=teacher, local=sgd(0.0)), "batches"),
}
