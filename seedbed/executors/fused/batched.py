"""What the kernel computes, in PyTorch's batched products: where there is no compiler, or too little to compile for.

Forward, backward and step are written out, so that a step of all clients is a dozen operations, most of them in place,
where automatic differentiation under vmap takes several times as many.

Shapes: C clients, K steps, B examples of a batch, I and O the sides of a layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from seedbed.executors.fused.mlp_tracer import RELU, TANH
from seedbed.executors.fused.spec import FusedSpec

CLIENT_PARTS = 2  # that the clients are dealt out in, to threads: the same however many there are


@dataclass
class BatchedLayer:
    """One layer of all clients: its weights [C, O, I] and biases [C, 1, O], and of each what the optimiser needs."""

    weight: Tensor
    bias: Tensor | None
    activation: int
    weight_velocity: Tensor | None = None
    bias_velocity: Tensor | None = None
    weight_anchor: Tensor | None = None
    bias_anchor: Tensor | None = None

    def of(self, clients: Tensor) -> "BatchedLayer":
        """A copy of some clients' layer."""
        chosen: dict[str, Any] = {name: t[clients] for name, t in self.tensors()}
        return replace(self, **chosen)

    def put(self, clients: Tensor, some: "BatchedLayer") -> None:
        """Write back what training has changed of what `of` gave."""
        for (name, whole), (_, part) in zip(self.tensors(), some.tensors(), strict=True):
            if not name.endswith("anchor"):
                whole[clients] = part

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ((name, value) for name, value in found if isinstance(value, Tensor))


def train_batched(plan: FusedSpec, tensors: Sequence[Tensor], own: Sequence[bool]) -> list[Tensor]:
    """What clients have after training, and their losses: see `fused._trained`."""
    clients, count = len(tensors[1]), plan.leaves
    start, anchor = (
        [leaf if o else leaf.expand(clients, *leaf.shape) for leaf, o in zip(leaves, owned, strict=True)]
        for leaves, owned in ((tensors[4 : 4 + count], own[4 : 4 + count]), (tensors[4 + count :], own[4 + count :]))
    )
    ends, losses = [leaf.clone(memory_format=torch.contiguous_format) for leaf in start], tensors[0].new_empty(clients)
    width = -(-clients // (CLIENT_PARTS if losses.device.type == "cpu" else 1))

    def part(first: int) -> None:
        mine = slice(first, first + width)
        layers = _layers(plan, [t[mine] for t in ends], [t[mine] for t in anchor])
        losses[mine] = _train(plan, layers, *(t[mine] for t in tensors[:4]))

    for _ in plan.run(part, range(0, clients, width)):
        pass
    return [*ends, losses]


def _layers(plan: FusedSpec, weights: Sequence[Tensor], anchors: Sequence[Tensor]) -> list[BatchedLayer]:
    """The layers of clients who train these weights in place."""
    left, towards = iter(weights), iter(anchors)
    layers = []
    for dense in plan.layers:
        layer = BatchedLayer(next(left), next(left)[:, None] if dense.bias else None, dense.activation)
        if plan.pull is not None:
            layer.weight_anchor = next(towards)
            layer.bias_anchor = next(towards)[:, None] if dense.bias else None
        if plan.momentum:
            layer.weight_velocity = torch.zeros_like(layer.weight)
            layer.bias_velocity = None if layer.bias is None else torch.zeros_like(layer.bias)
        layers.append(layer)
    return layers


def _train(plan: FusedSpec, layers: Sequence[BatchedLayer], x: Tensor, y: Tensor, mask: Tensor, real: Tensor) -> Tensor:
    """All steps, over the layers; the mean losses [C]."""
    x = x.flatten(3)
    losses = x.new_zeros(len(y))
    if not plan.looks:
        classes = plan.layers[-1].outputs
        mask, y = mask.masked_fill((y < 0) | (y >= classes), torch.nan), y.clamp(0, classes - 1)
    share = mask / mask.sum(2, keepdim=True).clamp_min(1)
    if not plan.looks:
        for k in range(real.shape[1]):
            losses += _step(plan, layers, x[:, k], y[:, k], share[:, k], real[:, k])
        return losses / real.sum(1)
    active = real != 0
    for k, (every, some_are) in enumerate(zip(active.all(0).tolist(), active.any(0).tolist(), strict=True)):
        if every:
            losses += _step(plan, layers, x[:, k], y[:, k], share[:, k])
        elif some_are:
            who = active[:, k].nonzero()[:, 0]
            some = [layer.of(who) for layer in layers]
            losses[who] += _step(plan, some, x[who, k], y[who, k], share[who, k])
            for layer, part in zip(layers, some, strict=True):
                layer.put(who, part)
    return losses / real.sum(1)


def _step(
    plan: FusedSpec, layers: Sequence[BatchedLayer], x: Tensor, y: Tensor, share: Tensor, real: Tensor | None = None
) -> Tensor:
    """One step of every client, over its layers; the losses before it [C].

    Args:
        x: [C, B, I].  y: [C, B].
        share: what each example counts in the mean [C, B].
        real: 1 for clients that take the step, 0 for those that it must not move [C]; None: all take it.
    """
    if real is not None:
        takes = real[:, None] != 0
        share, x = torch.where(takes, share, 0), torch.where(takes[:, None], x, 0)  # whatever lies there
    given = [x]
    for layer in layers:
        turned = layer.weight.transpose(1, 2)
        found = given[-1] @ turned if layer.bias is None else torch.baddbmm(layer.bias, given[-1], turned)
        if layer.activation == RELU:
            found.relu_()
        elif layer.activation == TANH:
            found.tanh_()
        given.append(found)
    logs = torch.log_softmax(given.pop(), -1)
    label = y.unsqueeze(-1)
    loss = -(logs.gather(-1, label).squeeze(-1) * share).sum(1)
    if plan.pull is not None:
        pulled = plan.pull / 2 * _distance(layers)
        loss = loss + (pulled if real is None else pulled * real)
    slope = logs.exp_().scatter_add_(-1, label, -torch.ones_like(label, dtype=x.dtype)).mul_(share.unsqueeze(-1))
    for i in range(len(layers) - 1, -1, -1):
        layer, into = layers[i], given[i]
        before = slope @ layer.weight if i else slope
        if i and layers[i - 1].activation == RELU:
            torch.ops.aten.threshold_backward.grad_input(before, into, 0, grad_input=before)
        elif i and layers[i - 1].activation == TANH:
            before.mul_(1 - into * into)
        turned = slope.transpose(1, 2)
        if layer.weight_velocity is None and layer.weight_anchor is None and not plan.decay:
            layer.weight.baddbmm_(turned, into, alpha=-plan.lr)  # the gradient is not formed
        else:
            _move(plan, layer.weight, turned @ into, layer.weight_velocity, layer.weight_anchor, real)
        if layer.bias is not None:
            _move(plan, layer.bias, slope.sum(1, keepdim=True), layer.bias_velocity, layer.bias_anchor, real)
        slope = before
    return loss


def _move(
    plan: FusedSpec, w: Tensor, g: Tensor, velocity: Tensor | None, anchor: Tensor | None, real: Tensor | None
) -> None:
    """A step of SGD, in place, along a gradient that is written over, of the clients that take it."""
    if anchor is not None:
        g.add_(w - anchor, alpha=plan.pull or 0.0)
    if plan.decay:
        g.add_(w, alpha=plan.decay)
    if velocity is not None:
        if real is None:
            velocity.mul_(plan.momentum).add_(g)
        else:
            velocity.add_((g + (plan.momentum - 1) * velocity) * real[:, None, None])
        g = g.add_(velocity, alpha=plan.momentum) if plan.nesterov else velocity
    w.sub_(g if real is None else g * real[:, None, None], alpha=plan.lr)


def _distance(layers: Sequence[BatchedLayer]) -> Tensor:
    """Σ (w − anchor)² of every client: [C]."""
    pairs = [(layer.weight, layer.weight_anchor) for layer in layers] + [(la.bias, la.bias_anchor) for la in layers]
    away = [(w - anchor).square().sum((1, 2)) for w, anchor in pairs if w is not None and anchor is not None]
    return torch.stack(away).sum(0)
