"""Baselines, FedAvg, and what changes its local or its server's step."""

from seedbed.algorithms.catalogue.entries import Axes, CatalogueEntry
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

PUBLISHED_FIGURES = "Published figures"

ENTRIES = {
    "local": CatalogueEntry(
        local,
        "batches",
        "baseline: no federation",
        "test_averaging.py",
        Axes(payload="0", server="–", kept="θ_i"),
        finetunes=True,
        rounds=("synchronous",),
    ),
    "centralised": CatalogueEntry(
        centralised,
        "batches",
        "baseline: pooled data",
        "test_averaging.py",
        Axes(payload="θ, optimiser", server="θ ← payload"),
        finetunes=True,
        pooled=True,
        rounds=("synchronous",),
        like_params=False,
    ),
    "fedsgd": CatalogueEntry(
        fedsgd,
        "full",
        "McMahan et al. 2017, arXiv 1602.05629",
        "test_averaging.py",
        Axes(loop="1 gradient", payload="gradient", server="any optimiser, SGD η"),
        finetunes=True,
    ),
    "fed_lbfgs": CatalogueEntry(
        fed_lbfgs,
        "full",
        "Liu and Nocedal 1989, Math. Programming 45",
        "test_fed_lbfgs.py",
        Axes(objective="+ (λ/2)‖W‖²", loop="1 gradient", payload="value, gradient", server="L-BFGS or Newton"),
        finetunes=True,
        everyone=True,
        rounds=("synchronous",),
        like_params=False,
        needs_mean="a line search compares values and gradients of one function, the mean over all clients",
    ),
    "fedavg": CatalogueEntry(
        fedavg,
        "batches",
        "McMahan et al. 2017, arXiv 1602.05629, Alg. 1",
        "test_averaging.py",
        Axes(),
        number=PUBLISHED_FIGURES,
        finetunes=True,
    ),
    "fedprox": CatalogueEntry(
        fedprox,
        "batches",
        "Li et al. 2020, arXiv 1812.06127, Alg. 2",
        "test_fedprox.py",
        Axes(objective="+ (μ/2)‖w − θ‖²"),
        number=PUBLISHED_FIGURES,
        finetunes=True,
    ),
    "fednova": CatalogueEntry(
        fednova,
        "batches",
        "Wang et al. 2020, arXiv 2007.07481, eq. 6–8, Alg. 1",
        "test_fednova.py",
        Axes(
            objective="+ (μ/2)‖w − θ‖²",
            loop="linear optimiser",
            payload="Δ/‖a‖₁, ‖a‖₁",
            server="τ_eff, then any optimiser",
        ),
        finetunes=True,
        like_params=False,
    ),
    "scaffold": CatalogueEntry(
        scaffold,
        "batches",
        "Karimireddy et al. 2020, arXiv 1910.06378, Alg. 1",
        "test_scaffold.py",
        Axes(objective="gradient + c − c_i", loop="linear optimiser", payload="Δ, Δc", weight="1", kept="c_i"),
        number=PUBLISHED_FIGURES,
        finetunes=True,
        like_params=False,
    ),
    "feddyn": CatalogueEntry(
        feddyn,
        "batches",
        "Acar et al. 2021, arXiv 2111.04263, Alg. 1",
        "test_feddyn.py",
        Axes(objective="− ⟨g_i, w⟩ + (α/2)‖w − θ‖²", weight="1", server="θ ← mean θ_i − h/α", kept="g_i"),
        finetunes=True,
    ),
    "fedavgm": CatalogueEntry(
        fedavgm,
        "batches",
        "Hsu et al. 2019, arXiv 1909.06335, section 4.3",
        "test_fedopt.py",
        Axes(server="momentum"),
        finetunes=True,
    ),
    "fedadagrad": CatalogueEntry(
        fedadagrad,
        "batches",
        "Reddi et al. 2021, arXiv 2003.00295, Alg. 2",
        "test_fedopt.py",
        Axes(server="Adagrad"),
        number=PUBLISHED_FIGURES,
        tunes=("eta",),
        finetunes=True,
    ),
    "fedadam": CatalogueEntry(
        fedadam,
        "batches",
        "Reddi et al. 2021, arXiv 2003.00295, Alg. 2",
        "test_fedopt.py",
        Axes(server="Adam"),
        number=PUBLISHED_FIGURES,
        tunes=("eta",),
        finetunes=True,
    ),
    "fedyogi": CatalogueEntry(
        fedyogi,
        "batches",
        "Reddi et al. 2021, arXiv 2003.00295, Alg. 2",
        "test_fedopt.py",
        Axes(server="Yogi"),
        number=PUBLISHED_FIGURES,
        tunes=("eta",),
        finetunes=True,
    ),
}
