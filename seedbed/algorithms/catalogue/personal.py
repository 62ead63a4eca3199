"""Personalised methods: clients keep a model, or a part of one, of their own."""

from seedbed.algorithms.apfl import apfl
from seedbed.algorithms.catalogue.entries import Axes, CatalogueEntry
from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fed_eb import fed_eb
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.fedrep import fedrep
from seedbed.algorithms.lg_fedavg import lg_fedavg
from seedbed.algorithms.pfedme import pfedme

ENTRIES = {
    "pfedme": CatalogueEntry(
        pfedme,
        "batches",
        "Dinh et al. 2020, arXiv 2006.08848, Alg. 1",
        "test_pfedme.py",
        Axes("Moreau envelope λ", "proximal steps", "K steps, then 1, an item", weight="1", server="SGD β", kept="θ̂_i"),
        number="Published figures",
        tunes=("eta",),
    ),
    "ditto": CatalogueEntry(
        ditto,
        "batches",
        "Li et al. 2021, arXiv 2012.04221, Alg. 1",
        "test_ditto.py",
        Axes("plain; for v + (λ/2)‖v − θ‖²", "proximal steps of v", "θ_i and v_i, a step an item", kept="v_i"),
    ),
    "fedper": CatalogueEntry(
        fedper,
        "batches",
        "Arivazhagan et al. 2019, arXiv 1912.00818, Alg. 1–2",
        "test_masks_of_parameters.py",
        Axes(adapt="gradient steps of the head", payload="Δ of the body", kept="head"),
        like_params=False,
    ),
    "fedrep": CatalogueEntry(
        fedrep,
        "batches",
        "Collins et al. 2021, arXiv 2102.07078, Alg. 1",
        "test_masks_of_parameters.py",
        Axes(adapt="gradient steps of the head", loop="the head, then the body", payload="Δ of the body", kept="head"),
        like_params=False,
    ),
    "fedbabu": CatalogueEntry(
        fedbabu,
        "batches",
        "Oh et al. 2022, arXiv 2106.06042, Alg. 1",
        "test_masks_of_parameters.py",
        Axes(adapt="gradient steps", loop="the body", payload="Δ of the body"),
        like_params=False,
    ),
    "lg_fedavg": CatalogueEntry(
        lg_fedavg,
        "batches",
        "Liang et al. 2020, arXiv 2001.01523, Alg. 1",
        "test_masks_of_parameters.py",
        Axes(adapt="gradient steps", payload="Δ of the head", kept="body"),
        like_params=False,
    ),
    "apfl": CatalogueEntry(
        apfl,
        "batches",
        "Deng et al. 2020, arXiv 2003.13461, Alg. 1",
        "test_apfl.py",
        Axes(
            "plain; for v the mixture αv + (1−α)w",
            "gradient steps of v",
            "w, v and α, a step an item",
            weight="1",
            kept="v_i, α_i",
        ),
    ),
    "fed_eb": CatalogueEntry(
        fed_eb,
        "batches",
        "Laird and Ware 1982; MacKay 1992, section 4",
        "test_fed_eb.py",
        Axes(
            adapt="the posterior of effects",
            payload="Δ; d, d² and 1 − V_jj",
            weight="1",
            server="any optimiser, SGD 1; fixed point of μ, τ², σ²",
        ),
        rounds=("synchronous",),
        same_labels=True,
        everyone=True,
        like_params=False,
        needs_mean="its fixed point is of sums over all clients",
    ),
}
