"""The effect of an exchange on a peer's state. Shapes: N peers."""

from collections.abc import Sequence

from torch import Tensor

from seedbed.deployment.peers.messages import Offer, mixed_part, with_mixed_part
from seedbed.federated import ClientId, ServerState


def exchange_flow(weights: Tensor, own: ClientId, other: ClientId, mine: Offer, theirs: Offer) -> Offer:
    """W_ij x_j − W_ji x_i. At the other end it has the opposite sign, to the last bit.

    Over all links this gives x_i ← Σ_j W_ij x_j if W is symmetric with rows that sum to 1, or if its columns do. What a
    failed link does not carry stays with its owner.

    Args:
        weights: W [N, N].
        own, other: i and j.
        mine: x_i.
        theirs: x_j; empty if the other only receives.
    """

    def leaf_flow(name: str, x: Tensor) -> Tensor:
        gives = weights[other, own].to(x) * x
        return weights[own, other].to(x) * theirs[name] - gives if theirs else -gives

    return {name: leaf_flow(name, x) for name, x in mine.items()}


def add_flow(state: ServerState, flows: Sequence[Offer]) -> ServerState:
    """Add flows in the given order, so that the same flows give the same sum."""
    mixed = dict(mixed_part(state))
    for flow in flows:
        mixed = {name: x + flow[name] for name, x in mixed.items()}
    return with_mixed_part(state, mixed)
