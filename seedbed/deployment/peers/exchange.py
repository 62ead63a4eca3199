"""What an exchange adds to a peer's state. Shapes: N peers."""

from collections.abc import Sequence

from torch import Tensor

from seedbed.deployment.peers.messages import Offer, mixed_part, with_mixed_part
from seedbed.federated import ClientId, ServerState


def exchange_flow(weights: Tensor, own: ClientId, other: ClientId, mine: Offer, theirs: Offer) -> Offer:
    """W_ij x_j − W_ji x_i: at the other end the same with the other sign, to the last bit.

    Over all links this is x_i ← Σ_j W_ij x_j, for W symmetric with rows that sum to 1 and for W whose columns do; what
    a link does not carry stays where it is.

    Args:
        weights: W [N, N].
        theirs: empty where the other only takes.
    """

    def each(name: str, x: Tensor) -> Tensor:
        gives = weights[other, own].to(x) * x
        return weights[own, other].to(x) * theirs[name] - gives if theirs else -gives

    return {name: each(name, x) for name, x in mine.items()}


def add_flow(state: ServerState, flows: Sequence[Offer]) -> ServerState:
    """Added in the order that they are in: the same flows are the same sum."""
    mixed = dict(mixed_part(state))
    for one in flows:
        mixed = {name: x + one[name] for name, x in mixed.items()}
    return with_mixed_part(state, mixed)
