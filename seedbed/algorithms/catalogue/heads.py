"""Heads that a client solves by a few iterations, implicit gradients, and normalisation of a client's own."""

from seedbed.algorithms.catalogue.entries import Axes, Entry
from seedbed.algorithms.fed_lr import fed_lr
from seedbed.algorithms.fed_metaoptnet import fed_metaoptnet
from seedbed.algorithms.fedbn import fedbn
from seedbed.algorithms.imaml import imaml

ONE = "1 gradient an item, at θ"
ADAM = "any optimiser, Adam"

ENTRIES = {
    "imaml": Entry(
        imaml,
        "episodes",
        "Rajeswaran et al. 2019, arXiv 1909.04630, Alg. 1–2",
        "test_imaml.py",
        Axes("meta: implicit", "proximal steps", ONE, "gradient", weight="1", server=ADAM),
        finetunes=True,
    ),
    "fed_lr": Entry(
        fed_lr,
        "episodes",
        "Bertinetto et al. 2019, arXiv 1805.08136, section 3.2",
        "test_heads.py",
        Axes("meta: exact", "softmax regression", ONE, "gradient of the body", weight="1", server=ADAM),
        classes=True,
    ),
    "fed_metaoptnet": Entry(
        fed_metaoptnet,
        "episodes",
        "Lee et al. 2019, arXiv 1904.03758, eq. 8–12",
        "test_heads.py",
        Axes(
            "meta: exact, through the optimum",
            "support vector machine",
            ONE,
            "gradient of the body",
            weight="1",
            server=ADAM,
        ),
        classes=True,
    ),
    "fedbn": Entry(
        fedbn,
        "batches",
        "Li et al. 2021, arXiv 2102.07623, Alg. 1",
        "test_fedbn.py",
        Axes(adapt="gradient steps", payload="Δ of all but normalisation", kept="γ, β and statistics"),
        normalises=True,
    ),
}
