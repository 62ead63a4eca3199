"""What honest clients send, and the rules that reduce it: for the gate alone, and for the gate behind a transport."""

import torch

from seedbed.aggregation import RULES, make_rule, mean
from seedbed.federated import ClientId, Message

REDUCERS = {
    "mean": mean,
    **{name: make_rule(name) for name in RULES if name != "bulyan"},
    "bulyan": make_rule("bulyan", f=1),
} | {name: make_rule(name) for name in ("nnm+trimmed_mean", "norm_bounding+nnm+trimmed_mean")}


def honest(client: ClientId, round: int) -> Message:
    """An update of two leaves, of a norm of about 3."""
    g = torch.Generator().manual_seed(100 * round + client)
    value = {"w": torch.randn(2, 3, generator=g), "b": [torch.randn(3, generator=g)]}
    return Message(value, torch.tensor(float(5 + client)), {"loss": torch.rand((), generator=g)})
