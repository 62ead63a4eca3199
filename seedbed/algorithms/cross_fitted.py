"""Cross-fitting: a client works on a start that was trained without it.

Scores of a start on the clients that trained it are too good: a prior learned from them is too narrow (of three
hospitals a variance of .003 in place of .70). Stone, "Cross-validatory choice and assessment of statistical
predictions", JRSS B 1974.
"""

from collections.abc import Mapping
from dataclasses import replace

from seedbed import tree
from seedbed.federated import Algorithm, ClientId, Params, Replies, ServerState
from seedbed.tree import Tree


def cross_fitted(algorithm: Algorithm, folds: Mapping[ClientId, int]) -> Algorithm:
    """Any algorithm that leaves its params as they are (on `frozen()`), over starts of which each client has its own.

    Its state's params are the starts stacked by fold, [F, ...]; a client is sent the one of its fold, which was trained
    on the clients of the others.
    """

    def start(state: ServerState, fold: int) -> ServerState:
        return ServerState(tree.index(state.params, fold), state.extra)

    def init(starts: Params) -> ServerState:
        return ServerState(tree.detach(starts), algorithm.init(tree.index(starts, 0)).extra)

    def send(state: ServerState, client: ClientId) -> Tree:
        return algorithm.send(start(state, folds[client]), client)

    def server(state: ServerState, replies: Replies) -> ServerState:
        return ServerState(state.params, algorithm.server(start(state, 0), replies).extra)

    return replace(algorithm, init=init, send=send, server=server)
