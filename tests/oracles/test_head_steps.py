"""Steps of the head alone, by one pass of the body: what steps through the whole model give, and what is left to those.

Shapes: B examples, T places of a sequence, N classes.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

from seedbed import tree
from seedbed.algorithms.anil import anil
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.fedrep import fedrep
from seedbed.data.types import Batch, Episode
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import Moves, all_parameters, gradient_steps
from seedbed.learning.head_steps import NotALinearHead, head_steps
from seedbed.learning.objectives import (
    Adapt,
    Loss,
    Predict,
    cross_entropy,
    meta_objective,
    proximal,
    smoothed_cross_entropy,
    squared_error,
    supervised,
)
from seedbed.learning.parameter_subsets import inside_part
from seedbed.learning.training import Objective, Params, gradient
from seedbed.models import Model

from .bench import apart

pytestmark = pytest.mark.usefixtures("float64")
INPUTS, HIDDEN, CLASSES, LR = 6, 8, 3, 0.4


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def params(classes: int = CLASSES) -> Params:
    shapes = {"body.weight": (HIDDEN, INPUTS), "body.bias": (HIDDEN,), "head.weight": (classes, HIDDEN)}
    return {n: 0.5 * drawn(*s, seed=i) for i, (n, s) in enumerate((shapes | {"head.bias": (classes,)}).items())}


def body(p: Params, x: Tensor) -> Tensor:
    return torch.tanh(F.linear(x, p["body.weight"], p["body.bias"]))


def predict(p: Params, x: Tensor) -> Tensor:
    return F.linear(body(p, x), p["head.weight"], p["head.bias"])


def without_bias(p: Params, x: Tensor) -> Tensor:
    return F.linear(body(p, x), p["head.weight"])


def examples(size: int, *places: int) -> Batch:
    """The last is padding."""
    y = torch.arange(size) % CLASSES
    y = y if not places else (y[:, None] + torch.arange(*places)) % CLASSES
    return Batch(drawn(size, *places, INPUTS, seed=size), y, (torch.arange(size) < size - 1).double())


def steps_of(part: Params, rest: Params, support: Batch, loss: Objective, steps: int, first: bool) -> Params:
    """The definition, every step through the whole model: part ← part − α∇L({rest, part})."""
    for _ in range(steps):
        g = grad(lambda some: loss({**rest, **some}, support))(part)
        part = tree.axpy(-LR, tree.detach(g) if first else g, part)
    return part


def plainly(loss: Objective, moves: Moves, steps: int, first: bool) -> Adapt:
    def adapt(p: Params, support: Batch) -> Params:
        return {**p, **steps_of({n: w for n, w in p.items() if moves(n)}, p, support, loss, steps, first)}

    return adapt


def of_places(predictions: Tensor, y: Tensor) -> Tensor:
    """[B, T, N], [B, T] -> [B]."""
    right = y[..., None] == torch.arange(CLASSES)
    return -(predictions.log_softmax(-1) * right).sum(-1).mean(1)


def to_corners(predictions: Tensor, y: Tensor) -> Tensor:
    """[B, N], [B] -> [B]."""
    return squared_error(predictions, (y[:, None] == torch.arange(CLASSES)).double())


def weight_only(name: str) -> bool:
    return name == "head.weight"


CASES: dict[str, tuple[Predict, Loss, Moves, Batch]] = {
    "cross-entropy": (predict, cross_entropy, inside_part("head"), examples(5)),
    "many rows": (predict, cross_entropy, inside_part("head"), examples(40)),
    "no real rows": (predict, cross_entropy, inside_part("head"), examples(1)),
    "no bias": (without_bias, cross_entropy, weight_only, examples(5)),
    "a bias that stays, many rows": (predict, cross_entropy, weight_only, examples(40)),
    "squared error": (predict, to_corners, inside_part("head"), examples(5)),
    "softened labels": (predict, smoothed_cross_entropy(0.1), inside_part("head"), examples(5)),
    "sequences": (predict, of_places, inside_part("head"), examples(5, 2)),
}


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("first", [False, True], ids=["exact", "first"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_steps_through_the_whole_model_give(case: str, first: bool, steps: int) -> None:
    """The adapted params; and the gradient after them over body and head, by plain autograd, under `torch.func`, and
    under vmap."""
    model, loss, moves, support = CASES[case]
    one = supervised(model, loss)
    fast, slow = (
        gradient_steps(one, lr=LR, steps=steps, first_order=first, moves=moves),
        plainly(one, moves, steps, first),
    )
    moving = {n: p for n, p in params().items() if moves(n)}
    direct = head_steps(one, params(), moving, support, lr=LR, steps=steps, first_order=first)
    want = slow(params(), support)
    assert apart(direct, {n: want[n] for n in moving}) < 1e-12
    item = Episode(support, support._replace(x=drawn(*support.x.shape, seed=9)))
    want = grad(meta_objective(slow, one))(params(), item)
    with torch.no_grad():
        assert apart(fast(params(), support), slow(params(), support)) < 1e-12
        assert apart(gradient(meta_objective(fast, one), params(), item)[0], want) < 1e-12
    assert apart(grad(meta_objective(fast, one))(params(), item), want) < 1e-12
    several = tree.map(lambda x: torch.stack([x.flip(0), x]), item)
    assert apart(tree.index(vmap(grad(meta_objective(fast, one)), (None, 0))(params(), several), 1), want) < 1e-12


def test_it_can_be_differentiated_twice() -> None:
    """The gradient's own gradient, of the squared length."""
    loss = supervised(predict, cross_entropy)

    def length(adapt: Adapt) -> Callable[[Params], Tensor]:
        return lambda p: tree.squared_norm(grad(meta_objective(adapt, loss))(p, Episode(examples(5), examples(7))))

    ways = (
        gradient_steps(loss, lr=LR, steps=2, moves=inside_part("head")),
        plainly(loss, inside_part("head"), 2, False),
    )
    assert apart(*(grad(length(adapt))(params()) for adapt in ways)) < 1e-12


@pytest.mark.parametrize("make", [anil, fedper, fedrep, lambda loss, **more: fedbabu(loss, tunes="head", **more)])
def test_a_body_runs_once_for_all_steps(make: Callable[..., Algorithm]) -> None:
    """When a client personalises; and for ANIL's meta-gradient once for the support set and once for the query."""
    passes = []

    def counted(p: Params, x: Tensor) -> Tensor:
        passes.append(len(x))
        return predict(p, x)

    loss = supervised(counted, cross_entropy)
    algorithm = make(loss, test_steps=6)
    sent = algorithm.send(algorithm.init(params()), 0)
    with torch.no_grad():
        algorithm.personalise(sent, algorithm.remember(sent), examples(5))
        assert passes == [5]
        adapt = gradient_steps(loss, lr=LR, steps=6, moves=inside_part("head"))
        gradient(meta_objective(adapt, loss), params(), Episode(examples(5), examples(7)))
    assert passes == [5, 5, 7]


# ---- what is left to steps through the whole model ---------------------------------------------------------------


def dropping(p: Params, x: Tensor) -> Tensor:
    return F.linear(F.dropout(body(p, x), 0.5), p["head.weight"], p["head.bias"])


def used_twice(p: Params, x: Tensor) -> Tensor:
    return F.linear(torch.tanh(predict(p, x)) @ p["head.weight"], p["head.weight"], p["head.bias"])


def called_twice(p: Params, x: Tensor) -> Tensor:
    first = predict(p, x)
    return F.linear(first @ torch.ones(CLASSES, HIDDEN), p["head.weight"], p["head.bias"])


def in_a_list(p: Params, x: Tensor) -> Tensor:
    return F.linear(body(p, x) + torch.cat([p["head.bias"]] * 3)[:HIDDEN], p["head.weight"], p["head.bias"])


class Looked(torch.autograd.Function):
    """x + b, which no operation of PyTorch's is seen to compute."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, b: Tensor) -> Tensor:
        return x + b.sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.shape = inputs[1].shape

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        return g[0], g[0].sum().expand(ctx.shape)


def through_a_function(p: Params, x: Tensor) -> Tensor:
    return F.linear(Looked.apply(body(p, x), p["head.bias"]), p["head.weight"], p["head.bias"])


def written_over(p: Params, x: Tensor) -> Tensor:
    return predict(p, x).mul_(2)


def written_over_by_index(p: Params, x: Tensor) -> Tensor:
    y = predict(p, x)
    y[:, 0] = -1.0
    return y


def with_another_bias(p: Params, x: Tensor) -> Tensor:
    return F.linear(body(p, x), p["head.weight"], p["body.bias"][:CLASSES])


def by_hand(p: Params, x: Tensor) -> Tensor:
    return body(p, x) @ p["head.weight"].T + p["head.bias"]


def another_end(p: Params, x: Tensor) -> Tensor:
    return F.linear(x, p["body.weight"], p["body.bias"])[:, :CLASSES]


def in_bfloat16(p: Params, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return predict(p, x).to(x.dtype)


OTHERWISE, AFTER = "otherwise than as one linear layer", "after the layer that moves"
REFUSED: dict[Predict, str] = {
    dropping: "draws random numbers",
    used_twice: f"{OTHERWISE}|{AFTER}",
    called_twice: AFTER,
    in_a_list: OTHERWISE,
    through_a_function: OTHERWISE,
    written_over: AFTER,
    written_over_by_index: AFTER,
    with_another_bias: OTHERWISE,
    by_hand: OTHERWISE,
    another_end: "does not end in the layer",
    in_bfloat16: "another precision",
}


@pytest.mark.parametrize("model", REFUSED, ids=lambda f: f.__name__)
def test_models_that_are_left_to_steps_through_all_of_them(model: Predict) -> None:
    """Refused for this reason, also under `torch.func`; and the meta-gradient is that of the definition."""
    loss, item = supervised(model, cross_entropy), Episode(examples(5), examples(7))
    moving = {n: p for n, p in params().items() if inside_part("head")(n)}

    def direct(some: Params) -> Tensor:
        return tree.squared_norm(head_steps(loss, params(), some, item.support, lr=LR, steps=2))

    for ask in (direct, grad(direct)):
        with pytest.raises(NotALinearHead, match=REFUSED[model]):
            ask(moving)
    ways = (
        gradient_steps(loss, lr=LR, steps=2, moves=inside_part("head")),
        plainly(loss, inside_part("head"), 2, False),
    )
    found = []
    for adapt in ways:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found.append(grad(meta_objective(adapt, loss))(params(), item))
    assert apart(*found) < 1e-12


def test_objectives_and_parameters_that_are_left_to_them() -> None:
    loss = supervised(predict, cross_entropy)
    head = {n: p for n, p in params().items() if inside_part("head")(n)}
    for objective, moving, why in (
        (proximal(loss, params(), 0.1), head, "the loss is not supervised"),
        (loss, {}, "what moves is not"),
        (loss, params(), "what moves is not"),
        (loss, {**head, "scale": torch.ones(())}, "what moves is not"),
        (loss, {"an architecture": head}, "what moves is not"),
    ):
        with pytest.raises(NotALinearHead, match=why):
            head_steps(objective, params(), moving, examples(5), lr=LR, steps=2)
    every = gradient_steps(loss, lr=LR, steps=2, moves=all_parameters)
    assert apart(every(params(), examples(5)), plainly(loss, all_parameters, 2, False)(params(), examples(5))) < 1e-12


def test_a_model_in_another_precision_keeps_to_its_own() -> None:
    """The head's steps of a Model in bfloat16 are those that it takes through the whole model."""
    model = Model(nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)), precision="bf16")
    loss = supervised(model.predict, cross_entropy)
    ways = (gradient_steps(loss, lr=LR, steps=2, moves=model.is_head), plainly(loss, model.is_head, 2, False))
    assert apart(*(adapt(model.params, examples(5)) for adapt in ways)) == 0


def test_a_loss_that_averages_by_itself_is_refused_as_ever() -> None:
    loss = supervised(predict, lambda z, y: F.cross_entropy(z, y))
    with pytest.raises(ValueError, match="one number per example"):
        gradient_steps(loss, lr=LR, moves=inside_part("head"))(params(), examples(5))
