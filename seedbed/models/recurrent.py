"""PyTorch's recurrent layers step by step, in operations that can be vectorised, differentiated twice, and dropped out.

Shapes: B examples, T steps, F features, H hidden numbers, L layers, D directions (1 or 2).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Cell = Callable[..., tuple[Tensor, ...]]  # (x W + b [B, G·H], state, weight, bias) -> the new state
Drop = Callable[[Tensor], Tensor]


def _lstm_cell(given: Tensor, state: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    h, c = state
    i, f, g, o = (given + F.linear(h, weight, bias)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru_cell(given: Tensor, state: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    (h,) = state
    r, z, n = given.chunk(3, -1)
    hr, hz, hn = F.linear(h, weight, bias).chunk(3, -1)
    z = (z + hz).sigmoid()
    return ((1 - z) * (n + (r + hr).sigmoid() * hn).tanh() + z * h,)


def _tanh_cell(given: Tensor, state: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    return ((given + F.linear(state[0], weight, bias)).tanh(),)


def _relu_cell(given: Tensor, state: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    return ((given + F.linear(state[0], weight, bias)).relu(),)


RECURRENT_CELLS: dict[Any, Cell] = {
    torch.lstm: _lstm_cell,
    torch.gru: _gru_cell,
    torch.rnn_tanh: _tanh_cell,
    torch.rnn_relu: _relu_cell,
}


def run_recurrent(
    cell: Cell,
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    biased: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    drop: Drop,
) -> tuple[Tensor, ...]:
    """What torch.lstm, torch.gru, ... give: the output [T, B, D·H] or [B, T, D·H], the last states, each [L·D, B, H].

    Args:
        x: [T, B, F], or [B, T, F] if `batch_first`.
        state: the first states, each [L·D, B, H].
        weights: of each layer and direction: of inputs, of states, and perhaps their biases.
        drop: what is done between layers.
    """
    seen = x.transpose(0, 1) if batch_first else x
    directions, each = 2 if bidirectional else 1, 4 if biased else 2
    ends: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            w_x, w_h, *biases = weights[number * each : (number + 1) * each]
            b_x, b_h = biases or (None, None)
            now = tuple(s[number] for s in state)
            steps = F.linear(seen, w_x, b_x)
            found: list[Tensor] = []
            for t in range(len(seen))[:: -1 if direction else 1]:
                now = cell(steps[t], now, w_h, b_h)
                found.append(now[0])
            outputs.append(torch.stack(found[:: -1 if direction else 1]))
            ends.append(now)
        seen = torch.cat(outputs, -1)
        seen = drop(seen) if layer + 1 < layers else seen
    last = tuple(torch.stack(column) for column in zip(*ends, strict=True))
    return (seen.transpose(0, 1) if batch_first else seen, *last)
