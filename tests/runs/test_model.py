"""Any module as a function of its parameters."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from seedbed import InputError, Model
from seedbed.models import by_name, conv, mlp
from seedbed.models.layers import layers_of


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def test_the_head() -> None:
    model = Model(net())
    assert (model.head, model.width) == ("2", 5)
    assert model.is_head("2.weight")
    assert not model.is_head("20.weight")
    assert Model(net(), head="0").width == 3
    headless = Model(nn.Sequential(nn.Flatten(), nn.Bilinear(1, 1, 1)))
    assert (headless.head, headless.width) == ("", 0)
    with pytest.raises(InputError, match="no linear layer"):
        headless.features(headless.params, torch.ones(1, 1))
    for name in ("1", "nothing"):
        with pytest.raises(InputError, match=f"head='{name}' is not a linear layer"):
            Model(net(), head=name)


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_a_head_may_have_any_number_of_classes(classes: int) -> None:
    model = Model(net())
    params = model.params | {"2.weight": torch.randn(classes, 5), "2.bias": torch.randn(classes)}
    x = torch.randn(4, 3)
    expected = model.features(model.params, x) @ params["2.weight"].T + params["2.bias"]
    assert torch.allclose(model.predict(params, x), expected, atol=1e-6)


def test_a_missing_head_is_zero_and_strangers_are_ignored() -> None:
    model = Model(net())
    body = {n: p for n, p in model.params.items() if not model.is_head(n)}
    assert not model.predict(body, torch.randn(4, 3)).any()
    strange = {**model.params, "rate:0.weight": torch.ones(1)}
    x = torch.randn(4, 3)
    assert torch.equal(model.predict(strange, x), model.predict(model.params, x))


def test_the_module_is_copied_and_never_changed() -> None:
    module = net()
    before = {n: p.clone() for n, p in module.named_parameters()}
    model = Model(module)
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(model.params["0.weight"], before["0.weight"])
    model.predict({n: torch.zeros_like(p) for n, p in model.params.items()}, torch.ones(1, 3))
    assert torch.equal(model.predict(model.params, torch.ones(1, 3)), model.predict(before, torch.ones(1, 3)))


def test_threads_with_different_parameters_do_not_see_each_other_s() -> None:
    """Functional calls put parameters in and out of a module: each thread has a module of its own."""
    model = Model(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3)))
    x = torch.randn(8, 16)
    own = [{n: p + i for n, p in model.params.items()} for i in range(4)]
    expected = [(model.predict(params, x), model.features(params, x)) for params in own]

    def many(i: int) -> bool:
        return all(
            torch.equal(model.predict(own[i], x), expected[i][0])
            and torch.equal(model.features(own[i], x), expected[i][1])
            for _ in range(200)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [("auto", (1, 8, 8), "conv"), ("auto", (5,), "mlp"), ("auto", (1, 4, 4), "mlp"), ("mlp", (3, 9, 9), "mlp"),
     ("linear", (7,), "linear"), ("conv", (3, 20, 20), "conv")],
)  # fmt: skip
def test_models_by_name(name: str, shape: tuple[int, ...], kind: str) -> None:
    module = by_name(name, shape, 4)
    assert any(isinstance(m, nn.Conv2d) for m in module.modules()) == (kind == "conv")
    assert sum(isinstance(m, nn.Linear) for m in module.modules()) == (2 if kind == "mlp" else 1)
    model = Model(module, head="head")
    assert model.predict(model.params, torch.zeros(2, *shape)).shape == (2, 4)


def test_conv_needs_images() -> None:
    with pytest.raises(InputError, match="at least 8×8"):
        by_name("conv", (1, 4, 4), 2)


# ---- what its layers see ---------------------------------------------------------------------------------


def test_what_a_layer_sees_is_the_model_up_to_it() -> None:
    """Under any parameters, whatever those of it and of later layers are."""
    model, x = Model(net()), torch.randn(4, 3)
    params = {n: torch.randn_like(p) for n, p in model.params.items()}
    before = torch.relu(x @ params["0.weight"].T + params["0.bias"])
    assert torch.allclose(model.entering("2", params, x), before)
    assert torch.equal(model.entering("0", params, x), x)
    assert torch.equal(model.entering("2", {**params, "2.weight": torch.ones(1)}, x), model.features(params, x))
    assert torch.allclose(model.predict(params, x), before @ params["2.weight"].T + params["2.bias"])


def test_a_layer_that_is_not_used_sees_nothing() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    model = Model(Spare(), head="used")
    with pytest.raises(InputError, match="'spare' is not used"):
        model.entering("spare", model.params, torch.ones(1, 3))


def test_layers_that_can_be_generated() -> None:
    """All of a perceptron; of a convolutional network the head and what follows the normalisations, with the mean over
    positions of what each of them is given. The head is last, wherever it was registered; no head, no layers."""
    model = Model(mlp((1, 4, 4), 3, hidden=(5, 6)), head="head")
    layers = layers_of(model)
    assert [layer.width for layer in layers] == [16, 5, 6]
    assert {n for layer in layers for n in layer.names} == set(model.params)
    model = Model(conv((1, 8, 8), 3, channels=16), head="head")
    layers, x = layers_of(model), torch.randn(2, 1, 8, 8)
    assert [layer.width for layer in layers] == [8, 16, 16, 16, 256]
    assert [layer.names[0] for layer in layers] == [*(f"body.{i}.2.weight" for i in range(4)), "head.weight"]
    assert all(layer.sees(model.params, x).shape == (2, layer.width) for layer in layers)
    first = torch.nn.functional.conv2d(x, model.params["body.0.0.weight"], padding=1)
    assert torch.allclose(layers[0].sees(model.params, x), first.mean((2, 3)), atol=1e-6)
    assert layers_of(Model(net(), head="0"))[-1].names == ("0.weight", "0.bias")
    assert layers_of(Model(nn.Sequential(nn.Flatten(), nn.Bilinear(1, 1, 1)))) == []
    many = Model(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    positions = torch.randn(2, 5, 3)
    assert torch.allclose(layers_of(many)[0].sees(many.params, positions), positions.mean(1), atol=1e-6)
