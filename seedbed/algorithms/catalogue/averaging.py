"""Baselines, FedAvg, and what changes its local or its server's step."""

from seedbed.algorithms.catalogue.entries import Axes, Entry
from seedbed.algorithms.centralised import centralised
from seedbed.algorithms.fed_lbfgs import fed_lbfgs
from seedbed.algorithms.fedadagrad import fedadagrad
from seedbed.algorithms.fedadam import fedadam
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedavgm import fedavgm
from seedbed.algorithms.fednova import fednova
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.fedyogi import fedyogi
from seedbed.algorithms.local import local
from seedbed.algorithms.scaffold import scaffold

HEART = "Published figures"

ENTRIES = {
    "local": Entry(
        local,
        "batches",
        "baseline: no federation",
        "test_averaging.py",
        Axes(payload="0", server="–", kept="θ_i"),
        finetunes=True,
        rounds=("synchronous",),
    ),
    "centralised": Entry(
        centralised,
        "batches",
        "baseline: pooled data",
        "test_averaging.py",
        Axes(payload="θ, optimiser", server="θ ← payload"),
        finetunes=True,
        pooled=True,
        rounds=("synchronous",),
    ),
    "fedsgd": Entry(
        fedsgd,
        "full",
        "McMahan et al. 2017, arXiv 1602.05629",
        "test_averaging.py",
        Axes(loop="1 gradient", payload="gradient", server="any optimiser, SGD η"),
        finetunes=True,
    ),
    "fed_lbfgs": Entry(
        fed_lbfgs,
        "full",
        "Liu and Nocedal 1989, Math. Programming 45",
        "test_fed_lbfgs.py",
        Axes(objective="+ (λ/2)‖W‖²", loop="1 gradient", payload="value, gradient", server="L-BFGS or Newton"),
        finetunes=True,
        everyone=True,
        rounds=("synchronous",),
    ),
    "fedavg": Entry(
        fedavg,
        "batches",
        "McMahan et al. 2017, arXiv 1602.05629, Alg. 1",
        "test_averaging.py",
        Axes(),
        number=HEART,
        finetunes=True,
    ),
    "fedprox": Entry(
        fedprox,
        "batches",
        "Li et al. 2020, arXiv 1812.06127, Alg. 2",
        "test_fedprox.py",
        Axes(objective="+ (μ/2)‖w − θ‖²"),
        number=HEART,
        finetunes=True,
    ),
    "fednova": Entry(
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
    ),
    "scaffold": Entry(
        scaffold,
        "batches",
        "Karimireddy et al. 2020, arXiv 1910.06378, Alg. 1",
        "test_scaffold.py",
        Axes(objective="gradient + c − c_i", loop="linear optimiser", payload="Δ, Δc", weight="1", kept="c_i"),
        number=HEART,
        finetunes=True,
    ),
    "fedavgm": Entry(
        fedavgm,
        "batches",
        "Hsu et al. 2019, arXiv 1909.06335, section 4.3",
        "test_fedopt.py",
        Axes(server="momentum"),
        finetunes=True,
    ),
    "fedadagrad": Entry(
        fedadagrad,
        "batches",
        "Reddi et al. 2021, arXiv 2003.00295, Alg. 2",
        "test_fedopt.py",
        Axes(server="Adagrad"),
        number=HEART,
        tunes=("eta",),
        finetunes=True,
    ),
    "fedadam": Entry(
        fedadam,
        "batches",
        "Reddi et al. 2021, arXiv 2003.00295, Alg. 2",
        "test_fedopt.py",
        Axes(server="Adam"),
        number=HEART,
        tunes=("eta",),
        finetunes=True,
    ),
    "fedyogi": Entry(
        fedyogi,
        "batches",
        "Reddi et al. 2021, arXiv 2003.00295, Alg. 2",
        "test_fedopt.py",
        Axes(server="Yogi"),
        number=HEART,
        tunes=("eta",),
        finetunes=True,
    ),
}
