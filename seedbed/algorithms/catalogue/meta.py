"""Meta-learning: starts from which a few steps, or a solved head, go far."""

from seedbed.algorithms.anil import anil
from seedbed.algorithms.catalogue.entries import Axes, CatalogueEntry
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.algorithms.reptile import reptile

META_ORDERS = "meta: exact, recomputed, first, hessian_free"
META_GRADIENT_COST = "1 meta-gradient"

ENTRIES = {
    "reptile": CatalogueEntry(
        reptile,
        "episode_batches",
        "Nichol et al. 2018, arXiv 1803.02999, Alg. 2",
        "test_reptile.py",
        Axes(weight="1", server="SGD ε"),
        finetunes=True,
    ),
    "fedmeta": CatalogueEntry(
        fedmeta,
        "episodes",
        "Chen et al. 2018, arXiv 1802.07876, Alg. 1; MAML 1703.03400",
        "test_fedmeta.py",
        Axes(META_ORDERS, "gradient steps", META_GRADIENT_COST, "gradient", weight="1", server="any optimiser, Adam"),
        number="Published figures",
        finetunes=True,
    ),
    "per_fedavg": CatalogueEntry(
        per_fedavg,
        "episodes",
        "Fallah et al. 2020, arXiv 2002.07948, Alg. 1",
        "test_per_fedavg.py",
        Axes(META_ORDERS, "1 gradient step", weight="1"),
        finetunes=True,
        number="Published figures",
    ),
    "meta_sgd": CatalogueEntry(
        meta_sgd,
        "episodes",
        "Li et al. 2017, arXiv 1707.09835, eq. 4",
        "test_meta_sgd.py",
        Axes(
            "meta: exact",
            "gradient steps of learned rates",
            META_GRADIENT_COST,
            "gradient, of the rates too",
            weight="1",
            server="any optimiser, Adam",
        ),
    ),
    "anil": CatalogueEntry(
        anil,
        "episodes",
        "Raghu et al. 2020, arXiv 1909.09157, eq. 2",
        "test_anil.py",
        Axes(
            "meta: exact, first",
            "gradient steps of the head",
            META_GRADIENT_COST,
            "gradient",
            weight="1",
            server="any optimiser, Adam",
        ),
    ),
    "fed_proto": CatalogueEntry(
        fed_proto,
        "episodes",
        "Snell et al. 2017, arXiv 1703.05175, eq. 1–2",
        "test_heads.py",
        Axes(
            "meta: exact",
            "prototypes",
            META_GRADIENT_COST,
            "gradient of the body",
            weight="1",
            server="any optimiser, Adam",
        ),
        number="Published figures",
        classes=True,
    ),
    "fed_ridge": CatalogueEntry(
        fed_ridge,
        "episodes",
        "Bertinetto et al. 2019, arXiv 1805.08136, eq. 3–6",
        "test_heads.py",
        Axes(
            "meta: exact",
            "ridge regression",
            META_GRADIENT_COST,
            "gradient of the body",
            weight="1",
            server="any optimiser, Adam",
        ),
        classes=True,
    ),
}
