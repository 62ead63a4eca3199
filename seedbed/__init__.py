"""Seedbed: federated meta-learning for PyTorch.

Train, across clients that never share data, one start from which every client grows its own model in a few steps.
Begin with `seedbed.federated`.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

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
from seedbed.renamed import install, renamed_export
from seedbed.rounds import (
    Round,
    asynchronous,
    equal_latency,
    gossip,
    lognormal_latency,
    mixing,
    synchronous,
    topology_links,
)

__version__ = version("seedbed")
install()

if TYPE_CHECKING:
    from seedbed.api.estimators import FederatedClassifier, FederatedRegressor
    from seedbed.api.run import resume, run


def __getattr__(name: str) -> Any:
    """Runs from Python, which are loaded when they are first asked for; and names of 0.1.0."""
    if name in ("resume", "run"):
        from seedbed.api.run import resume, run

        return {"resume": resume, "run": run}[name]
    if name in ("FederatedClassifier", "FederatedRegressor"):
        from seedbed.api.estimators import FederatedClassifier, FederatedRegressor

        return FederatedClassifier if name == "FederatedClassifier" else FederatedRegressor
    return renamed_export(name)


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
