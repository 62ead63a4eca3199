"""Algorithms made for a server that does not wait, or for peers without one."""

from seedbed.algorithms.catalogue.entries import Axes, CatalogueEntry
from seedbed.algorithms.dif_maml import dif_maml
from seedbed.algorithms.dpsgd import dpsgd
from seedbed.algorithms.fedasync import fedasync
from seedbed.algorithms.fedbuff import fedbuff
from seedbed.algorithms.push_sum import push_sum

ENTRIES = {
    "fedasync": CatalogueEntry(
        fedasync,
        "batches",
        "Xie et al. 2020, arXiv 1903.03934, Alg. 1",
        "test_asynchronous.py",
        Axes(objective="+ (ρ/2)‖w − θ_τ‖²", payload="θ_i", weight="1", server="θ ← (1 − αs)θ + αs·payload"),
        finetunes=True,
        rounds=("asynchronous",),
    ),
    "fedbuff": CatalogueEntry(
        fedbuff,
        "batches",
        "Nguyen et al. 2022, arXiv 2106.06639, Alg. 1",
        "test_asynchronous.py",
        Axes(weight="s(staleness)", combiner="buffer of K"),
        finetunes=True,
        rounds=("asynchronous",),
    ),
    "dpsgd": CatalogueEntry(
        dpsgd,
        "full",
        "Lian et al. 2017, arXiv 1705.09056, Alg. 1",
        "test_gossip.py",
        Axes(loop="1 gradient", payload="θ_i to neighbours", weight="–", combiner="W", server="each peer's SGD γ"),
        finetunes=True,
        rounds=("gossip",),
    ),
    "push_sum": CatalogueEntry(
        push_sum,
        "full",
        "Nedić and Olshevsky 2016, arXiv 1406.2075, eq. 4; Assran et al. 2019, arXiv 1811.10792, Alg. 1",
        "test_gossip.py",
        Axes(
            loop="1 gradient at x_i/w_i",
            payload="x_i, w_i to neighbours",
            weight="–",
            combiner="P, columns sum to 1",
            server="each peer's SGD γ",
        ),
        finetunes=True,
        rounds=("gossip",),
        pushes=True,
    ),
    "dif_maml": CatalogueEntry(
        dif_maml,
        "episodes",
        "Kayaalp et al. 2022, arXiv 2010.02870, Alg. 1",
        "test_gossip.py",
        Axes(
            objective="query loss after adapting",
            adapt="gradient steps",
            loop="1 gradient",
            payload="θ_i to neighbours",
            weight="–",
            combiner="W",
            server="each peer's Adam μ",
        ),
        finetunes=True,
        rounds=("gossip",),
    ),
}
