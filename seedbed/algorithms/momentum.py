"""Momentum on the clients: Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", ICML
2021, arXiv 2012.10333, Algorithm 1.
"""

from dataclasses import replace

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, Message, Params, ServerState
from seedbed.tree import Tree


def with_momentum(algorithm: Algorithm, *, beta: float = 0.9) -> Algorithm:
    """m_i ← β m_i + (1 − β) g_i; a client sends m_i/(1 − βᵗ) in its t-th round in place of its g_i, and keeps m_i.

    What honest clients send then varies less from round to round, so that robust rules, centered clipping above all,
    tell liars from them. It is for clients that take part in most rounds (an old m_i is of an old model), and for
    algorithms whose message has the structure of the params, as FedAvg's.

    Args:
        beta: β, 0 ≤ β < 1; 0: the algorithm itself. Departure: 1 − βᵗ makes the first m_i no smaller than g_i; the
            paper has β = 0 in the first round for it.
    Raises:
        InputError: in the first round, if messages have another structure.
    """

    def remember(sent: Tree) -> Tree:
        params = sent.params if isinstance(sent, ServerState) else sent
        return {
            "kept": algorithm.remember(sent),
            "m": tree.zeros_like(params),
            "rounds": tree.leaves(params)[0].new_zeros(()),
        }

    def client(sent: Tree, kept: Tree, task: Task) -> tuple[Message, Tree]:
        message, inner = algorithm.client(sent, kept["kept"], task)
        if tree.structure_of(message.value) != tree.structure_of(kept["m"]):
            raise InputError(
                "momentum on the clients needs messages of the structure of the params, but this algorithm sends "
                f"{', '.join(tree.named_leaves(message.value))[:80]}: leave reduce.momentum out"
            )
        m, t = tree.lerp(message.value, kept["m"], beta), kept["rounds"] + 1
        value = tree.scale(1 / (1 - beta**t), m)
        return message._replace(value=value), {"kept": inner, "m": m, "rounds": t}

    def personalise(sent: Tree, kept: Tree, support: Batch) -> Params:
        return algorithm.personalise(sent, kept["kept"], support)

    return replace(algorithm, client=client, remember=remember, personalise=personalise)
