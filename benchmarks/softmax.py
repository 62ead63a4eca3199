"""Softmax regression as plain functions, one linear map. Shapes: B examples, F features, N classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedbed import randomness, tree
from seedbed.federated import Params


def predict(params: Params, x: Tensor) -> Tensor:
    """[B, F] -> [B, N]."""
    return F.linear(x, params["weight"], params["bias"])


def first_weights(features: int, seed: int) -> Params:
    """What PyTorch draws for a linear layer to ten classes, by the seed."""
    with randomness.seeded_init(seed):
        params: Params = tree.map(torch.detach, dict(nn.Linear(features, 10).named_parameters()))
        return params
