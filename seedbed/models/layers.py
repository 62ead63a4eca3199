"""Which layers of a model can be generated, and what each of them sees.

Shapes: B examples, F features.
"""

from torch import Tensor, nn

from seedbed.learning.objectives import Predict
from seedbed.learning.parameter_generation import GeneratedLayer
from seedbed.models.model import Model, Params


def layers_of(model: Model) -> list[GeneratedLayer]:
    """Linear layers, and the scales and shifts of group normalisations, in the module's order and the head last.

    All of a perceptron is generated then; of a convolutional network all but the kernels, which stay the same for all
    clients. A model without a head has none.
    """
    widths: dict[str, int] = {}
    for name, m in model.module.named_modules():
        if isinstance(m, nn.Linear):
            widths[name] = m.in_features
        elif isinstance(m, nn.GroupNorm) and m.affine:
            widths[name] = m.num_channels
    if not model.head:
        return []
    names = [*(name for name in widths if name != model.head), model.head]
    return [GeneratedLayer(_parameters(model, name), _pooled(model, name), widths[name]) for name in names]


def _parameters(model: Model, layer: str) -> tuple[str, ...]:
    return tuple(n for n in model.params if n.startswith(f"{layer}."))


def _pooled(model: Model, layer: str) -> Predict:
    """A layer's input, its mean over positions: [B, F]."""
    linear = isinstance(model.module.get_submodule(layer), nn.Linear)

    def sees(params: Params, x: Tensor) -> Tensor:
        given = model.entering(layer, params, x)
        if given.ndim == 2:
            return given
        return given.flatten(1, -2).mean(1) if linear else given.flatten(2).mean(2)

    return sees
