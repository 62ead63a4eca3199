"""Seedbed: federated meta-learning for PyTorch.

Train, across clients that never share data, one start from which every client grows its own model in a few steps.
Begin with `seedbed.federated`.
"""

from importlib.metadata import version

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
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.evaluation import evaluate, per_example
from seedbed.federated import Algorithm, Message, Replies, ServerState
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.objectives import after, correct, cross_entropy, squared_error, supervised
from seedbed.learning.optimizers import adam, cosine, linear, sgd
from seedbed.models import Model, conv, mlp
from seedbed.rounds import Round, synchronous
from seedbed.tasks.population import Population
from seedbed.tasks.readers import read
from seedbed.tasks.sampling import Sampled, batches, episodes, fresh_support, support_query, triples
from seedbed.tasks.types import Batch, Episode, Task

__version__ = version("seedbed")

__all__ = [
    "Algorithm",
    "Batch",
    "Episode",
    "InputError",
    "Message",
    "Model",
    "OneByOne",
    "Population",
    "Replies",
    "Round",
    "Sampled",
    "ServerState",
    "Task",
    "Vectorised",
    "adam",
    "after",
    "anil",
    "batches",
    "centralised",
    "conv",
    "correct",
    "cosine",
    "cross_entropy",
    "episodes",
    "evaluate",
    "fed_proto",
    "fed_ridge",
    "fedavg",
    "fedmeta",
    "fedprox",
    "fedsgd",
    "fresh_support",
    "gradient_steps",
    "linear",
    "local",
    "meta_sgd",
    "mlp",
    "per_example",
    "per_fedavg",
    "read",
    "reptile",
    "sgd",
    "squared_error",
    "supervised",
    "support_query",
    "synchronous",
    "triples",
]
