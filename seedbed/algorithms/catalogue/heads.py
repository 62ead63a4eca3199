"""Heads that a client solves by a few iterations, implicit gradients, and normalisation of a client's own."""

from seedbed.algorithms.catalogue.entries import Axes, CatalogueEntry
from seedbed.algorithms.fed_lr import fed_lr
from seedbed.algorithms.fed_metaoptnet import fed_metaoptnet
from seedbed.algorithms.fedbn import fedbn
from seedbed.algorithms.imaml import imaml

HEAD_GRADIENT_COST = "1 gradient an item, at θ"
ADAM = "any optimiser, Adam"

ENTRIES = {
    "imaml": CatalogueEntry(
        imaml,
        "episodes",
        "Rajeswaran et al. 2019, arXiv 1909.04630, Alg. 1–2",
        "test_imaml.py",
        Axes("meta: implicit", "proximal steps", HEAD_GRADIENT_COST, "gradient", weight="1", server=ADAM),
        finetunes=True,
    ),
    "fed_lr": CatalogueEntry(
        fed_lr,
        "episodes",
        "Bertinetto et al. 2019, arXiv 1805.08136, section 3.2",
        "test_heads.py",
        Axes("meta: exact", "softmax regression", HEAD_GRADIENT_COST, "gradient of the body", weight="1", server=ADAM),
        classes=True,
    ),
    "fed_metaoptnet": CatalogueEntry(
        fed_metaoptnet,
        "episodes",
        "Lee et al. 2019, arXiv 1904.03758, eq. 8–12",
        "test_heads.py",
        Axes(
            "meta: exact, through the optimum",
            "support vector machine",
            HEAD_GRADIENT_COST,
            "gradient of the body",
            weight="1",
            server=ADAM,
        ),
        classes=True,
    ),
    "fedbn": CatalogueEntry(
        fedbn,
        "batches",
        "Li et al. 2021, arXiv 2102.07623, Alg. 1",
        "test_fedbn.py",
        Axes(adapt="gradient steps", payload="Δ of all but normalisation", kept="γ, β and statistics"),
        normalises=True,
        like_params=False,
    ),
}
