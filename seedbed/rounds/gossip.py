"""No server: peers that exchange with their neighbours.

Each peer is its own server: it steps on its own message alone, and its state is mixed with its neighbours' by the
round's mixing matrix W. There are two orders, which are different sequences:

adapt_then_combine   y_i = server(x_i, message(x_i));  x_i ← Σ_j W_ij y_j
    Diffusion, ATC: Kayaalp, Vlaski and Sayed's Dif-MAML; with gradients x_i ← Σ_j W_ij (x_j − γ g_j(x_j)).
combine_then_adapt   z_i = Σ_j W_ij x_j;  x_i ← server(z_i, message(x_i))
    D-PSGD, Lian et al., NeurIPS 2017, Algorithm 1: x_i ← Σ_j W_ij x_j − γ g_i(x_i). The message is of the point
    *before* mixing, so that peers can work while states travel. (Diffusion's own combine-then-adapt, with the message
    of the mixed point, is no third sequence: its mixed points are those of adapt_then_combine.)

Shapes: N peers.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from seedbed import tree
from seedbed.federated import Algorithm, ClientId, Engine, Message, MessageBatch, ServerState, params_of
from seedbed.rounds.mixing import Mixing, second_eigenvalue
from seedbed.rounds.round import (
    Rest,
    Round,
    by_client_id,
    by_client_name,
    gather,
    mean_info,
    one_by_one,
    refuse_infinite,
    refuse_own_cohorts,
)
from seedbed.tree import Tree

GossipOrder = Literal["adapt_then_combine", "combine_then_adapt"]


def gossip(
    algorithm: Algorithm,
    engine: Engine,
    start: ServerState,
    *,
    mixing: Mixing,
    order: GossipOrder = "adapt_then_combine",
    done: int = 0,
    rest: Rest | None = None,
) -> Iterator[Round]:
    """Endless rounds in which all peers that are up work and exchange; stop by leaving the loop.

    A round's `state` is the mean of the peers' states: what a client that was never a peer starts from. Only leaves of
    floating-point numbers are mixed. Info: `consensus`, √(mean_i ‖x_i − x̄‖²) over the peers' models; `lambda2`, |λ_2|
    of the round's W; the rest are means over peers, weighted as messages are.

    Args:
        start: `algorithm.init(params)`, where all peers start; or the state of an earlier round.
        mixing: each round's matrix, by number; along directed links it must be an algorithm that counts what was
            pushed (push_sum).
        done: rounds that `start` has behind it.
        rest: what the earlier round's `rest()` gave: the peers' own states.
    Raises:
        InputError: a peer's model became NaN or infinite.
    """
    refuse_own_cohorts(algorithm, "gossip")
    peers, number = engine.population, done
    states = [start] * len(peers) if rest is None else _each(by_client_id("peers", start, rest), len(peers))
    while True:
        mix = mixing(number)
        asked = [c for c, up in zip(peers, mix.up, strict=True) if up]
        at = dict(zip(peers, states, strict=True))
        messages = _messages(algorithm, engine, {c: at[c] for c in asked}, number)
        if order == "combine_then_adapt":
            states = _mixed(mix.matrix, states)
        states = [
            local_server_step(algorithm, c, state, messages[c]) if c in messages else state
            for c, state in zip(peers, states, strict=True)
        ]
        if order == "adapt_then_combine":
            states = _mixed(mix.matrix, states)
        number += 1
        info = _info(list(messages.values()))
        stacked = tree.stack(states)
        refuse_infinite(stacked, number, info)
        info |= {"consensus": consensus_distance([algorithm.send(s, c) for c, s in zip(peers, states, strict=True)])}
        numbers = {name: float(value) for name, value in info.items()} | {"lambda2": second_eigenvalue(mix.matrix)}
        yield Round(number, _mean(stacked), asked, numbers, partial(by_client_name, "peers", stacked))


def local_server_step(algorithm: Algorithm, peer: ClientId, state: ServerState, message: Message) -> ServerState:
    """A peer's state after the server's step on its own message alone."""
    return algorithm.server(state, gather(algorithm, [MessageBatch([peer], tree.stack([message]))], 1))


def _messages(
    algorithm: Algorithm, engine: Engine, states: Mapping[ClientId, ServerState], number: int
) -> dict[ClientId, Message]:
    """Of each peer that is up, from its own state."""
    sent = {c: algorithm.send(state, c) for c, state in states.items()}
    return one_by_one(engine.ask(algorithm, sent, number)) if sent else {}


def _info(messages: Sequence[Message]) -> dict[str, Tensor]:
    if not messages:
        return {}
    stacked = tree.stack([(dict(message.info), message.weight) for message in messages])
    return mean_info(*stacked)


def _mixed(matrix: Tensor, states: Sequence[ServerState]) -> list[ServerState]:
    """x_i ← Σ_j W_ij x_j of floating leaves; others stay each peer's own."""
    stacked = tree.stack(states)
    return _each(tree.map(lambda x: torch.tensordot(matrix.to(x), x, 1) if is_mixed(x) else x, stacked), len(states))


def _each(stacked: Tree, count: int) -> list[Tree]:
    return [tree.index(stacked, i) for i in range(count)]


def _mean(stacked: Tree) -> Tree:
    """The mean of floating leaves [N, ...]; of others the first peer's."""
    return tree.map(lambda x: x.mean(0) if is_mixed(x) else x[0], stacked)


def consensus_distance(sent: Sequence[Tree]) -> Tensor:
    """√(mean_i ‖x_i − x̄‖²) of the models in what peers would send: []."""
    models = tree.stack([params_of(one) for one in sent])
    away = tree.map(lambda x: x - x.mean(0) if is_mixed(x) else torch.zeros_like(x), models)
    return (tree.squared_norm(away) / len(sent)).sqrt()


def is_mixed(x: Tensor) -> bool:
    """Whether a leaf of a state is exchanged; others, such as counts of steps, stay each peer's own."""
    return x.is_floating_point()
