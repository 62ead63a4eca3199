"""FLTrust: Cao, Fang, Liu and Gong, "FLTrust: Byzantine-robust federated learning via trust bootstrapping", NDSS 2021,
arXiv 2012.13995, Algorithm 2.
"""

from dataclasses import replace

from seedbed import tree
from seedbed.aggregation.no_reduce import no_reduce
from seedbed.aggregation.root_trust import fltrust_rule
from seedbed.data.types import Task
from seedbed.federated import Algorithm, Replies, ServerState

SERVER = -1  # the server as a client of its own


def fltrust(algorithm: Algorithm, root: Task) -> Algorithm:
    """Any algorithm with the value Σ TS_i·(‖g_0‖/‖g_i‖)·g_i / Σ TS_i, TS_i = max(0, cos(g_i, g_0)).

    g_0 is the message of the server's own client, which works on a few examples that the server trusts. It begins each
    round with what a new client keeps.

    Args:
        root: the server's task. Departure: the same batches in the same order in every round.
    """

    def server(state: ServerState, replies: Replies) -> ServerState:
        sent = algorithm.send(state, SERVER)
        own, _ = algorithm.client(sent, algorithm.remember(sent), root)
        value = fltrust_rule(replies.value, tree.detach(own.value))
        return algorithm.server(state, replies._replace(value=value))

    return replace(algorithm, server=server, reduce=no_reduce)
