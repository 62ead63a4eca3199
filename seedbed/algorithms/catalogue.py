"""Every algorithm by name: what the command line, settings files and comparisons can ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from seedbed.algorithms.anil import anil
from seedbed.algorithms.centralised import centralised
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.local import local
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.algorithms.reptile import reptile
from seedbed.errors import InputError, nearest
from seedbed.federated import Algorithm

Items = Literal["batches", "full", "episodes", "episode_batches", "triples"]


@dataclass(frozen=True)
class Entry:
    """An algorithm as it can be asked for.

    Attributes:
        factory: what makes it, from built objects.
        items: what its clients work on: mini-batches, the whole client as one batch, episodes, mini-batches of one
            episode, or triples.
        finetunes: its clients adapt by plain fine-tuning, because training taught them no way of its own.
        pooled: it runs on everybody's data in one place.
        paper: where it is from.
    """

    factory: Callable[..., Algorithm]
    items: Items
    paper: str
    finetunes: bool = False
    pooled: bool = False

    def items_for(self, options: Mapping[str, Any]) -> Items:
        """What clients work on under these options: Per-FedAvg's estimate of three batches takes triples."""
        return "triples" if options.get("batches") == 3 else self.items


CATALOGUE: dict[str, Entry] = {
    "local": Entry(local, "batches", "baseline: no federation", finetunes=True),
    "centralised": Entry(centralised, "batches", "baseline: pooled data", finetunes=True, pooled=True),
    "fedsgd": Entry(fedsgd, "full", "McMahan et al. 2017, arXiv 1602.05629", finetunes=True),
    "fedavg": Entry(fedavg, "batches", "McMahan et al. 2017, arXiv 1602.05629, Alg. 1", finetunes=True),
    "fedprox": Entry(fedprox, "batches", "Li et al. 2020, arXiv 1812.06127, Alg. 2", finetunes=True),
    "reptile": Entry(reptile, "episode_batches", "Nichol et al. 2018, arXiv 1803.02999, Alg. 2", finetunes=True),
    "fedmeta": Entry(fedmeta, "episodes", "Chen et al. 2018, arXiv 1802.07876, Alg. 1; MAML 1703.03400"),
    "per_fedavg": Entry(per_fedavg, "episodes", "Fallah et al. 2020, arXiv 2002.07948, Alg. 1"),
    "meta_sgd": Entry(meta_sgd, "episodes", "Li et al. 2017, arXiv 1707.09835, eq. 4"),
    "anil": Entry(anil, "episodes", "Raghu et al. 2020, arXiv 1909.09157, eq. 2"),
    "fed_proto": Entry(fed_proto, "episodes", "Snell et al. 2017, arXiv 1703.05175, eq. 1–2"),
    "fed_ridge": Entry(fed_ridge, "episodes", "Bertinetto et al. 2019, arXiv 1805.08136, eq. 3–6"),
}


def entry(name: str) -> Entry:
    """The entry of this name; an unknown one is refused with the nearest."""
    if name not in CATALOGUE:
        raise InputError(f"unknown algorithm {name!r}: {nearest(name, CATALOGUE)}")
    return CATALOGUE[name]
