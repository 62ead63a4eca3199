"""Rows of the law table: parameters that are generated."""

from seedbed.algorithms.autoregressive import autoregressive
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.pfedhn import pfedhn
from seedbed.federated import uniform
from seedbed.learning.adaptations import unadapted
from seedbed.learning.objectives import meta_objective
from seedbed.learning.optimizers import sgd

from .bench import MOMENTUM, SIZES, Reduction, Row, Still, module

EACH = "compute reduce=each"  # its server steps on every message

ROWS = [
    Row(
        "pfedhn",
        lambda n: pfedhn(n.loss, clients=len(SIZES), width=8, depth=2, outer=sgd(0.1)),
        "batches",
        module,
        bare=EACH,
    ),
    Row(
        "pfedhn",
        lambda n: pfedhn(
            n.loss, clients=len(SIZES), personal_head=True, depth=0, local=sgd(0.2), outer=MOMENTUM, clip=0.5
        ),
        "full",
        variant="personal head, linear",
        bare=EACH,
    ),
    Row("autoregressive", lambda n: autoregressive(n.loss, n.layers, width=8), "parts", module),
    Row(
        "autoregressive",
        lambda n: autoregressive(n.loss, n.layers, width=8, size=20, steps=2, lr=0.1, outer=sgd(0.1)),
        "episodes",
        variant="blocks of rows, steps",
    ),
    Row(
        "autoregressive",
        lambda n: autoregressive(n.loss, n.layers, width=8, gaussian=True, outer=MOMENTUM),
        "noisy_episodes",
        module,
        "gaussian",
    ),
]

REDUCTIONS: dict[str, Reduction] = {
    "autoregressive scale=0: uniform fedsgd on queries": (
        lambda n: autoregressive(n.loss, n.layers, width=8, scale=0, outer=sgd(0.3)),
        lambda n: uniform(fedsgd(meta_objective(unadapted, n.loss), outer=sgd(0.3))),
        "parts",
    ),
}

STILL: dict[str, Still] = {
    "pfedhn, local": (lambda n: pfedhn(n.loss, clients=len(SIZES), local=sgd(0.0)), "batches"),
    "pfedhn, outer": (lambda n: pfedhn(n.loss, clients=len(SIZES), outer=sgd(0.0)), "batches"),
    "autoregressive": (lambda n: autoregressive(n.loss, n.layers, width=8, outer=sgd(0.0)), "parts"),
}
