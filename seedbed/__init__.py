"""Seedbed: federated meta-learning for PyTorch.

Train, across clients that never share data, one start from which every client grows its own model in a few steps.
Begin with `seedbed.federated`. A name is imported when it is first used, so that `seedbed --help` needs no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seedbed.renamed import install, renamed_export

if TYPE_CHECKING:
    __version__: str
    from seedbed.algorithms.anil import anil
    from seedbed.algorithms.apfl import apfl
    from seedbed.algorithms.autoregressive import autoregressive
    from seedbed.algorithms.centralised import centralised
    from seedbed.algorithms.dif_maml import dif_maml
    from seedbed.algorithms.distill import distill
    from seedbed.algorithms.ditto import ditto
    from seedbed.algorithms.dpsgd import dpsgd
    from seedbed.algorithms.fd import fd
    from seedbed.algorithms.fed_eb import fed_eb
    from seedbed.algorithms.fed_lbfgs import fed_lbfgs
    from seedbed.algorithms.fed_lr import fed_lr
    from seedbed.algorithms.fed_metaoptnet import fed_metaoptnet
    from seedbed.algorithms.fed_proto import fed_proto
    from seedbed.algorithms.fed_ridge import fed_ridge
    from seedbed.algorithms.fedadagrad import fedadagrad
    from seedbed.algorithms.fedadam import fedadam
    from seedbed.algorithms.fedasync import fedasync
    from seedbed.algorithms.fedavg import fedavg
    from seedbed.algorithms.fedavgm import fedavgm
    from seedbed.algorithms.fedbabu import fedbabu
    from seedbed.algorithms.fedbn import fedbn
    from seedbed.algorithms.fedbuff import fedbuff
    from seedbed.algorithms.feddf import feddf
    from seedbed.algorithms.feddyn import feddyn
    from seedbed.algorithms.fedgkt import fedgkt
    from seedbed.algorithms.fedmd import fedmd
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
    from seedbed.algorithms.pfedhn import pfedhn
    from seedbed.algorithms.pfedme import pfedme
    from seedbed.algorithms.push_sum import push_sum
    from seedbed.algorithms.reptile import reptile
    from seedbed.algorithms.scaffold import scaffold
    from seedbed.api.estimators import FederatedClassifier, FederatedRegressor
    from seedbed.api.run import resume, run
    from seedbed.data.population import Population
    from seedbed.data.readers import read
    from seedbed.data.sampling import Sampled, batches, episodes, fresh_support, support_query, triples
    from seedbed.data.types import Batch, Episode, Task
    from seedbed.engines import OneByOne, Vectorised
    from seedbed.errors import InputError
    from seedbed.evaluation import evaluate, per_example
    from seedbed.federated import Algorithm, Message, Replies, ServerState, as_sent
    from seedbed.learning.adaptations import gradient_steps
    from seedbed.learning.distillation import distillation_loss, student_of, with_teacher
    from seedbed.learning.objectives import correct, cross_entropy, meta_objective, squared_error, supervised
    from seedbed.learning.optimizers import adagrad, adam, cosine, linear, sgd, yogi
    from seedbed.models import BatchNorm, Model, ModelZoo, conv, mlp
    from seedbed.randomness import seeded_init
    from seedbed.rounds import Round, equal_latency, lognormal_latency, topology_links
    from seedbed.rounds.asynchronous import asynchronous
    from seedbed.rounds.gossip import gossip
    from seedbed.rounds.mixing import mixing
    from seedbed.rounds.synchronous import synchronous

_EXPORTS = {  # by module
    "algorithms.anil": ("anil",),
    "algorithms.apfl": ("apfl",),
    "algorithms.autoregressive": ("autoregressive",),
    "algorithms.centralised": ("centralised",),
    "algorithms.dif_maml": ("dif_maml",),
    "algorithms.distill": ("distill",),
    "algorithms.ditto": ("ditto",),
    "algorithms.dpsgd": ("dpsgd",),
    "algorithms.fd": ("fd",),
    "algorithms.fed_eb": ("fed_eb",),
    "algorithms.fed_lbfgs": ("fed_lbfgs",),
    "algorithms.fed_lr": ("fed_lr",),
    "algorithms.fed_metaoptnet": ("fed_metaoptnet",),
    "algorithms.fed_proto": ("fed_proto",),
    "algorithms.fed_ridge": ("fed_ridge",),
    "algorithms.fedadagrad": ("fedadagrad",),
    "algorithms.fedadam": ("fedadam",),
    "algorithms.fedasync": ("fedasync",),
    "algorithms.fedavg": ("fedavg",),
    "algorithms.fedavgm": ("fedavgm",),
    "algorithms.fedbabu": ("fedbabu",),
    "algorithms.fedbn": ("fedbn",),
    "algorithms.fedbuff": ("fedbuff",),
    "algorithms.feddf": ("feddf",),
    "algorithms.fedgkt": ("fedgkt",),
    "algorithms.fedmd": ("fedmd",),
    "algorithms.fedmeta": ("fedmeta",),
    "algorithms.fednova": ("fednova",),
    "algorithms.fedper": ("fedper",),
    "algorithms.fedprox": ("fedprox",),
    "algorithms.fedrep": ("fedrep",),
    "algorithms.fedsgd": ("fedsgd",),
    "algorithms.fedyogi": ("fedyogi",),
    "algorithms.imaml": ("imaml",),
    "algorithms.lg_fedavg": ("lg_fedavg",),
    "algorithms.local": ("local",),
    "algorithms.meta_sgd": ("meta_sgd",),
    "algorithms.per_fedavg": ("per_fedavg",),
    "algorithms.pfedhn": ("pfedhn",),
    "algorithms.pfedme": ("pfedme",),
    "algorithms.push_sum": ("push_sum",),
    "algorithms.reptile": ("reptile",),
    "algorithms.scaffold": ("scaffold",),
    "algorithms.feddyn": ("feddyn",),
    "api.estimators": ("FederatedClassifier", "FederatedRegressor"),
    "api.run": ("resume", "run"),
    "data.population": ("Population",),
    "data.readers": ("read",),
    "data.sampling": ("Sampled", "batches", "episodes", "fresh_support", "support_query", "triples"),
    "data.types": ("Batch", "Episode", "Task"),
    "engines": ("OneByOne", "Vectorised"),
    "errors": ("InputError",),
    "evaluation": ("evaluate", "per_example"),
    "federated": ("Algorithm", "Message", "Replies", "ServerState", "as_sent"),
    "learning.adaptations": ("gradient_steps",),
    "learning.distillation": ("distillation_loss", "student_of", "with_teacher"),
    "learning.objectives": ("correct", "cross_entropy", "meta_objective", "squared_error", "supervised"),
    "learning.optimizers": ("adagrad", "adam", "cosine", "linear", "sgd", "yogi"),
    "models": ("BatchNorm", "Model", "ModelZoo", "conv", "mlp"),
    "randomness": ("seeded_init",),
    "rounds": (
        "Round",
        "asynchronous",
        "equal_latency",
        "gossip",
        "lognormal_latency",
        "mixing",
        "synchronous",
        "topology_links",
    ),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
_ROOMS = (
    *("aggregation", "algorithms", "attacks", "data", "engines", "evaluation", "executors", "federated", "learning"),
    *("lowrank", "models", "privacy", "randomness", "rounds", "serialization", "tree"),
)


def __getattr__(name: str) -> Any:
    """What is exported, or a room of the library, imported when it is first asked for."""
    if name in _ROOMS:
        return import_module(f"seedbed.{name}")
    if name == "__version__":
        return _version()
    if name in _MODULE_OF:
        return getattr(import_module(f"seedbed.{_MODULE_OF[name]}"), name)
    return renamed_export(name)


def __dir__() -> list[str]:
    return sorted({"__version__", *__all__, *_ROOMS})


def _version() -> str:
    """As installed; a bare checkout has none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("seedbed")
    except PackageNotFoundError:
        return "0+unknown"


install()

__all__ = [
    "Algorithm",
    "Batch",
    "BatchNorm",
    "Episode",
    "FederatedClassifier",
    "FederatedRegressor",
    "InputError",
    "Message",
    "Model",
    "ModelZoo",
    "OneByOne",
    "Population",
    "Replies",
    "Round",
    "Sampled",
    "ServerState",
    "Task",
    "Vectorised",
    "adagrad",
    "adam",
    "anil",
    "apfl",
    "as_sent",
    "asynchronous",
    "autoregressive",
    "batches",
    "centralised",
    "conv",
    "correct",
    "cosine",
    "cross_entropy",
    "dif_maml",
    "distill",
    "distillation_loss",
    "ditto",
    "dpsgd",
    "episodes",
    "equal_latency",
    "evaluate",
    "fd",
    "fed_eb",
    "fed_lbfgs",
    "fed_lr",
    "fed_metaoptnet",
    "fed_proto",
    "fed_ridge",
    "fedadagrad",
    "fedadam",
    "fedasync",
    "fedavg",
    "fedavgm",
    "fedbabu",
    "fedbn",
    "fedbuff",
    "feddf",
    "feddyn",
    "fedgkt",
    "fedmd",
    "fedmeta",
    "fednova",
    "fedper",
    "fedprox",
    "fedrep",
    "fedsgd",
    "fedyogi",
    "fresh_support",
    "gossip",
    "gradient_steps",
    "imaml",
    "lg_fedavg",
    "linear",
    "local",
    "lognormal_latency",
    "meta_objective",
    "meta_sgd",
    "mixing",
    "mlp",
    "per_example",
    "per_fedavg",
    "pfedhn",
    "pfedme",
    "push_sum",
    "read",
    "reptile",
    "resume",
    "run",
    "scaffold",
    "seeded_init",
    "sgd",
    "squared_error",
    "student_of",
    "supervised",
    "support_query",
    "synchronous",
    "topology_links",
    "triples",
    "with_teacher",
    "yogi",
]
