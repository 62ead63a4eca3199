"""Rows of the law table: meta-learning."""

from dataclasses import replace

from seedbed.algorithms.anil import anil
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.algorithms.reptile import reptile
from seedbed.federated import uniform
from seedbed.learning.adaptations import gradient_steps, unadapted
from seedbed.learning.objectives import meta_objective
from seedbed.learning.optimizers import adam, linear, sgd

from .bench import CLASSES, MOMENTUM, Reduction, Row, Still, module

ROWS = [
    Row("reptile", lambda n: reptile(n.loss, epsilon=0.5, schedule=linear(5)), "episode_batches"),
    Row("reptile", lambda n: reptile(n.loss, local=adam(0.02, beta1=0.0)), "episode_batches", module, "adam"),
    Row("fedmeta", lambda n: fedmeta(n.loss, lr=0.3, steps=2), "parts", module, "exact"),
    Row(
        "fedmeta",
        lambda n: fedmeta(n.loss, lr=0.3, steps=2, order="first", outer=MOMENTUM),
        "episodes",
        variant="first",
    ),
    Row(
        "fedmeta",
        lambda n: fedmeta(n.loss, lr=0.3, steps=2, order="hessian_free"),
        "parts",
        variant="hessian_free",
    ),
    Row("fedmeta", lambda n: fedmeta(n.loss, lr=0.3, steps=3, order="recomputed"), "parts", variant="recomputed"),
    Row("per_fedavg", lambda n: per_fedavg(n.loss, alpha=0.1, test_steps=2), "parts", module, "exact"),
    Row("per_fedavg", lambda n: per_fedavg(n.loss, alpha=0.1, order="first"), "episodes", variant="first"),
    Row(
        "per_fedavg",
        lambda n: per_fedavg(n.loss, alpha=0.1, order="hessian_free"),
        "parts",
        variant="hessian_free",
    ),
    Row(
        "per_fedavg",
        lambda n: per_fedavg(n.loss, alpha=0.1, batches=3),
        "triples",
        variant="exact, 3 batches",
    ),
    Row(
        "per_fedavg",
        lambda n: per_fedavg(n.loss, alpha=0.1, batches=3, order="first", outer=adam(0.02)),
        "triples",
        variant="first, 3 batches",
    ),
    Row(
        "per_fedavg",
        lambda n: per_fedavg(n.loss, alpha=0.1, batches=3, order="hessian_free"),
        "triples",
        module,
        "hessian_free, 3 batches",
    ),
    Row("meta_sgd", lambda n: meta_sgd(n.loss, lr=0.2), "parts"),
    Row(
        "meta_sgd",
        lambda n: meta_sgd(n.loss, lr=0.2, steps=2, outer=sgd(0.3)),
        "episodes",
        module,
        "two steps",
    ),
    Row("anil", lambda n: anil(n.loss, lr=0.2, steps=3), "parts", module),
    Row("anil", lambda n: anil(n.loss, lr=0.2, steps=2, first_order=True), "episodes", variant="first"),
    Row("fed_proto", lambda n: fed_proto(n.loss, n.features, ways=CLASSES), "episodes", module),
    Row(
        "fed_proto",
        lambda n: fed_proto(n.loss, n.features, ways=CLASSES, outer=sgd(0.3), test_steps=2),
        "episodes",
        variant="finetuned",
    ),
    Row("fed_ridge", lambda n: fed_ridge(n.loss, n.features, ways=CLASSES), "episodes"),
    Row(
        "fed_ridge",
        lambda n: fed_ridge(n.loss, n.features, ways=CLASSES, outer=sgd(0.3), test_steps=2),
        "parts",
        module,
        "finetuned",
    ),
]

REDUCTIONS: dict[str, Reduction] = {
    "reptile: uniform fedavg with a server rate": (
        lambda n: reptile(n.loss, epsilon=0.4),
        lambda n: uniform(fedavg(n.loss, outer=sgd(0.4))),
        "episode_batches",
    ),
    **{
        f"fedmeta {order} {setting}=0: uniform fedsgd on queries": (
            lambda n, order=order, setting=setting: fedmeta(n.loss, order=order, outer=sgd(0.3), **{setting: 0}),  # type: ignore[misc]
            lambda n: uniform(fedsgd(meta_objective(unadapted, n.loss), outer=sgd(0.3))),
            "parts",
        )
        for order in ("exact", "recomputed", "first", "hessian_free")
        for setting in ("lr", "steps")
    },
    **{
        f"per_fedavg {order} alpha=0, {batches} batches: uniform fedavg on queries": (
            lambda n, order=order, batches=batches: per_fedavg(n.loss, alpha=0, order=order, batches=batches),  # type: ignore[misc]
            lambda n: uniform(fedavg(lambda p, item: n.loss(p, item.query))),
            "parts" if batches == 2 else "triples",
        )
        for order in ("exact", "recomputed", "first", "hessian_free")
        for batches in (2, 3)
    },
    "fedmeta recomputed: exact": (
        lambda n: fedmeta(n.loss, lr=0.3, steps=3, order="recomputed"),
        lambda n: fedmeta(n.loss, lr=0.3, steps=3),
        "parts",
    ),
    "anil steps=0: uniform fedsgd on queries": (
        lambda n: anil(n.loss, steps=0, outer=sgd(0.3)),
        lambda n: uniform(fedsgd(meta_objective(unadapted, n.loss), outer=sgd(0.3))),
        "parts",
    ),
    "meta_sgd steps=0: uniform fedsgd on queries": (
        lambda n: meta_sgd(n.loss, steps=0, outer=sgd(0.3)),
        lambda n: uniform(fedsgd(meta_objective(unadapted, n.loss), outer=sgd(0.3))),
        "parts",
    ),
    "fedmeta with one item and a server's sgd: per_fedavg": (
        lambda n: fedmeta(n.loss, lr=0.1, outer=sgd(0.3)),
        lambda n: uniform(
            replace(
                per_fedavg(n.loss, alpha=0.1),
                client=fedsgd(meta_objective(gradient_steps(n.loss, lr=0.1), n.loss)).client,
                server=fedsgd(n.loss, outer=sgd(0.3)).server,
            )
        ),
        "parts",
    ),
}

STILL: dict[str, Still] = {
    "reptile": (lambda n: reptile(n.loss, epsilon=0.0), "episode_batches"),
    "fedmeta": (lambda n: fedmeta(n.loss, outer=adam(0.0)), "parts"),
    "per_fedavg": (lambda n: per_fedavg(n.loss, local=sgd(0.0)), "parts"),
    "meta_sgd": (lambda n: meta_sgd(n.loss, outer=sgd(0.0)), "parts"),
    "anil": (lambda n: anil(n.loss, outer=sgd(0.0)), "parts"),
    "fed_proto": (lambda n: fed_proto(n.loss, n.features, ways=CLASSES, outer=sgd(0.0)), "episodes"),
    "fed_ridge": (lambda n: fed_ridge(n.loss, n.features, ways=CLASSES, outer=sgd(0.0)), "episodes"),
}
