"""Models of different architectures as one: params {architecture: params} say which of them is meant.

Shapes: B examples, F features.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from seedbed.errors import InputError
from seedbed.models.model import Model, Params


class ModelZoo:
    """Architectures by name; of their params, those of one alone can be used to predict.

    >>> from seedbed.models.small import mlp
    >>> both = ModelZoo({"wide": Model(mlp((4,), 3)), "deep": Model(mlp((4,), 3, hidden=(8, 8)))})
    >>> import torch
    >>> both.predict({"deep": both.params["deep"]}, torch.ones(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, models: Mapping[str, Model]):
        self.models = dict(models)
        self.params: dict[str, Params] = {name: model.params for name, model in self.models.items()}
        self.module = nn.ModuleList(model.module for model in self.models.values())
        self.width = min(model.width for model in self.models.values())

    def predict(self, params: Mapping[str, Params], x: Tensor) -> Tensor:
        """[B, ...] -> [B, ...] by the one architecture whose params these are."""
        name = self.meant(params)
        return self.models[name].predict(params[name], x)

    def features(self, params: Mapping[str, Params], x: Tensor) -> Tensor:
        """What its head sees, [B, F]."""
        name = self.meant(params)
        return self.models[name].features(params[name], x)

    def meant(self, params: Mapping[str, Params]) -> str:
        """The name of the one architecture whose params these are."""
        if len(params) != 1:
            raise InputError(f"params of {', '.join(params)}: name one architecture, as {{name: params}}")
        return next(iter(params))

    def each(self, make: Callable[[Model], Callable[..., Any]]) -> Callable[..., dict[str, Any]]:
        """A function of (params, ...) -> params for every model, as one of {name: params}, ... -> {name: params}."""
        made = {name: make(model) for name, model in self.models.items()}

        def apply(params: Mapping[str, Params], *others: Any) -> dict[str, Any]:
            name = self.meant(params)
            return {name: made[name](params[name], *others)}

        return apply
