"""Every algorithm by name: what the command line, settings files and comparisons can ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from seedbed.algorithms.anil import anil
from seedbed.algorithms.apfl import apfl
from seedbed.algorithms.centralised import centralised
from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fed_lr import fed_lr
from seedbed.algorithms.fed_metaoptnet import fed_metaoptnet
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.algorithms.fedadagrad import fedadagrad
from seedbed.algorithms.fedadam import fedadam
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedavgm import fedavgm
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedbn import fedbn
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fednova import fednova
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.fedrep import fedrep
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.fedyogi import fedyogi
from seedbed.algorithms.imaml import imaml
from seedbed.algorithms.lg_fedavg import lg_fedavg
from seedbed.algorithms.local import local
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.algorithms.pfedme import pfedme
from seedbed.algorithms.reptile import reptile
from seedbed.algorithms.scaffold import scaffold
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
        finetunes: its clients adapt by gradient steps; which layers, rates and numbers of steps is then chosen on
            validation clients, for it as for its rivals (unless `test_steps` is set).
        pooled: it runs on everybody's data in one place.
        solves: its clients solve a head over classes.
        normalises: its clients keep the statistics of batch normalisation, so that models may have it.
        paper: where it is from.
    """

    factory: Callable[..., Algorithm]
    items: Items
    paper: str
    finetunes: bool = False
    pooled: bool = False
    solves: bool = False
    normalises: bool = False

    def tuned(self, options: Mapping[str, Any]) -> bool:
        """Whether how its clients adapt is chosen on validation clients under these options."""
        return self.finetunes and "test_steps" not in options

    def items_for(self, options: Mapping[str, Any]) -> Items:
        """What clients work on under these options: Per-FedAvg's estimate of three batches takes triples."""
        return "triples" if options.get("batches") == 3 else self.items


CATALOGUE: dict[str, Entry] = {
    "local": Entry(local, "batches", "baseline: no federation", finetunes=True),
    "centralised": Entry(centralised, "batches", "baseline: pooled data", finetunes=True, pooled=True),
    "fedsgd": Entry(fedsgd, "full", "McMahan et al. 2017, arXiv 1602.05629", finetunes=True),
    "fedavg": Entry(fedavg, "batches", "McMahan et al. 2017, arXiv 1602.05629, Alg. 1", finetunes=True),
    "fedprox": Entry(fedprox, "batches", "Li et al. 2020, arXiv 1812.06127, Alg. 2", finetunes=True),
    "fednova": Entry(fednova, "batches", "Wang et al. 2020, arXiv 2007.07481, eq. 6–8, Alg. 1", finetunes=True),
    "scaffold": Entry(scaffold, "batches", "Karimireddy et al. 2020, arXiv 1910.06378, Alg. 1", finetunes=True),
    "fedavgm": Entry(fedavgm, "batches", "Hsu et al. 2019, arXiv 1909.06335, section 4.3", finetunes=True),
    "fedadagrad": Entry(fedadagrad, "batches", "Reddi et al. 2021, arXiv 2003.00295, Alg. 2", finetunes=True),
    "fedadam": Entry(fedadam, "batches", "Reddi et al. 2021, arXiv 2003.00295, Alg. 2", finetunes=True),
    "fedyogi": Entry(fedyogi, "batches", "Reddi et al. 2021, arXiv 2003.00295, Alg. 2", finetunes=True),
    "reptile": Entry(reptile, "episode_batches", "Nichol et al. 2018, arXiv 1803.02999, Alg. 2", finetunes=True),
    "fedmeta": Entry(
        fedmeta, "episodes", "Chen et al. 2018, arXiv 1802.07876, Alg. 1; MAML 1703.03400", finetunes=True
    ),
    "per_fedavg": Entry(per_fedavg, "episodes", "Fallah et al. 2020, arXiv 2002.07948, Alg. 1", finetunes=True),
    "meta_sgd": Entry(meta_sgd, "episodes", "Li et al. 2017, arXiv 1707.09835, eq. 4"),
    "anil": Entry(anil, "episodes", "Raghu et al. 2020, arXiv 1909.09157, eq. 2"),
    "imaml": Entry(imaml, "episodes", "Rajeswaran et al. 2019, arXiv 1909.04630, Alg. 1–2", finetunes=True),
    "fed_proto": Entry(fed_proto, "episodes", "Snell et al. 2017, arXiv 1703.05175, eq. 1–2", solves=True),
    "fed_ridge": Entry(fed_ridge, "episodes", "Bertinetto et al. 2019, arXiv 1805.08136, eq. 3–6", solves=True),
    "fed_lr": Entry(fed_lr, "episodes", "Bertinetto et al. 2019, arXiv 1805.08136, section 3.2", solves=True),
    "fed_metaoptnet": Entry(fed_metaoptnet, "episodes", "Lee et al. 2019, arXiv 1904.03758, eq. 8–12", solves=True),
    "pfedme": Entry(pfedme, "batches", "Dinh et al. 2020, arXiv 2006.08848, Alg. 1"),
    "ditto": Entry(ditto, "batches", "Li et al. 2021, arXiv 2012.04221, Alg. 1"),
    "fedper": Entry(fedper, "batches", "Arivazhagan et al. 2019, arXiv 1912.00818, Alg. 1–2"),
    "fedrep": Entry(fedrep, "batches", "Collins et al. 2021, arXiv 2102.07078, Alg. 1"),
    "fedbabu": Entry(fedbabu, "batches", "Oh et al. 2022, arXiv 2106.06042, Alg. 1"),
    "lg_fedavg": Entry(lg_fedavg, "batches", "Liang et al. 2020, arXiv 2001.01523, Alg. 1"),
    "fedbn": Entry(fedbn, "batches", "Li et al. 2021, arXiv 2102.07623, Alg. 1", normalises=True),
    "apfl": Entry(apfl, "batches", "Deng et al. 2020, arXiv 2003.13461, Alg. 1"),
}


def entry(name: str) -> Entry:
    """The entry of this name; an unknown one is refused with the nearest."""
    if name not in CATALOGUE:
        raise InputError(f"unknown algorithm {name!r}: {nearest(name, CATALOGUE)}")
    return CATALOGUE[name]
