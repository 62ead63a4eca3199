"""Fine-tuning: a path is what separate runs give, the head alone is the head alone, and the best way is chosen."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import grad

from seedbed import Model, Population, Sampled, cross_entropy, fedavg, fresh_support, per_example, supervised
from seedbed.data.types import Batch
from seedbed.engines import OneByOne, Vectorised
from seedbed.experiments import tuning
from seedbed.experiments.tuning import Judge, choose_finetuning
from seedbed.learning.finetuning import FineTuning, Tunable, adapt_along_path, finetune
from seedbed.learning.objectives import Loss, correct, smoothed_cross_entropy

HOW = FineTuning("head_then_all", steps=3, lr=0.05, head_steps=4, head_lr=0.2)


@pytest.fixture(autouse=True)
def in_double_precision(float64: None) -> None:
    """See the fixture float64."""


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))


@pytest.fixture
def tunable(model: Model) -> Tunable:
    return Tunable(model.predict, model.features, cross_entropy, model.head)


@pytest.fixture
def support() -> Batch:
    """Eight examples, the last two of them padding."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    return Batch(x, (x.sum(1) > 0).long(), torch.tensor([1.0] * 6 + [0.0] * 2))


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], rtol=0, atol=1e-12) for n in a)


@pytest.mark.parametrize(
    ("layers", "at"), [("all", (0, 1, 3)), ("head", (0, 2, 4)), ("head_then_all", (0, 1, 3)), ("all", (3,))]
)
def test_points_of_a_path_are_separate_runs(
    model: Model, tunable: Tunable, support: Batch, layers: str, at: tuple[int, ...]
) -> None:
    how = replace(HOW, layers=layers)  # type: ignore[arg-type]
    stacked = finetune(tunable, how, at=at)(model.params, support)
    for i, steps in enumerate(at):
        counted = replace(how, head_steps=steps) if layers == "head" else replace(how, steps=steps)
        alone = finetune(tunable, counted)(model.params, support)
        assert close({n: p[i] for n, p in stacked.items()}, alone)


def test_all_layers_are_gradient_steps(model: Model, tunable: Tunable, support: Batch) -> None:
    loss, params = supervised(model.predict, cross_entropy), model.params
    for _ in range(3):
        gradient = grad(loss)(params, support)
        params = {n: p - 0.05 * gradient[n] for n, p in params.items()}
    assert close(finetune(tunable, replace(HOW, layers="all"))(model.params, support), params)


@pytest.mark.parametrize("each", [cross_entropy, smoothed_cross_entropy(0.1)], ids=["in closed form", "derived"])
def test_the_head_alone_is_gradient_steps_on_the_head_with_the_body_frozen(
    model: Model, tunable: Tunable, support: Batch, each: Loss
) -> None:
    """Features computed once change nothing: the gradient of the whole loss, used for the head only, gives the same."""
    tunable, loss, params = replace(tunable, loss=each), supervised(model.predict, each), model.params
    for _ in range(4):
        gradient = grad(loss)(params, support)
        params = {n: p - 0.2 * gradient[n] if model.is_head(n) else p for n, p in params.items()}
    tuned = finetune(tunable, replace(HOW, layers="head"))(model.params, support)
    assert close(tuned, params)
    assert not torch.equal(tuned[f"{model.head}.weight"], model.params[f"{model.head}.weight"])


def test_head_then_all_is_one_after_the_other(model: Model, tunable: Tunable, support: Batch) -> None:
    head = finetune(tunable, replace(HOW, layers="head"))(model.params, support)
    both = finetune(tunable, replace(HOW, layers="all"))(head, support)
    assert close(finetune(tunable, HOW)(model.params, support), both)


def test_padding_does_not_count(model: Model, tunable: Tunable, support: Batch) -> None:
    short = Batch(support.x[:6], support.y[:6], support.mask[:6])
    assert close(finetune(tunable, HOW)(model.params, support), finetune(tunable, HOW)(model.params, short))


def test_a_start_comes_first(model: Model, tunable: Tunable, support: Batch) -> None:
    zero = {n: torch.zeros_like(p) for n, p in model.params.items()}
    tuned = finetune(tunable, replace(HOW, layers="all", steps=0), start=lambda params, batch: zero)
    assert close(tuned(model.params, support), zero)


def test_along_scores_every_point(model: Model, tunable: Tunable, support: Batch) -> None:
    metric = per_example(model.predict, cross_entropy)
    stacked = finetune(tunable, replace(HOW, layers="all"), at=(0, 2))(model.params, support)
    scores = adapt_along_path(metric)(stacked, support)
    assert scores.shape == (2,)
    assert torch.allclose(scores[0], metric(model.params, support))


# ---- choosing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [OneByOne, Vectorised])
@pytest.mark.parametrize("better", [True, False])
def test_the_best_way_is_chosen(engine: type[OneByOne], better: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that has its signs wrong: no head can help (its features are all zero), but gradient steps on all layers
    can. Where less counts as better, what does not help wins."""
    for name, values in {"HEAD_RATES": (0.1,), "HEAD_STEPS": (1, 5), "RATES": (0.5, 2.0), "STEPS": (1, 30)}.items():
        monkeypatch.setattr(tuning, name, values)
    module = nn.Sequential(nn.Linear(1, 1), nn.Identity(), nn.Linear(1, 2))
    model = Model(module)
    params = {"0.weight": torch.zeros(1, 1), "0.bias": torch.zeros(1)}
    params |= {"2.weight": torch.tensor([[1.0], [-1.0]]), "2.bias": torch.zeros(2)}
    x = torch.linspace(-1, 1, 40)[torch.randperm(40, generator=torch.Generator().manual_seed(0)), None].repeat(2, 1)
    population = Population.from_arrays(x, (x[:, 0] > 0).long(), ["a"] * 40 + ["b"] * 40, classes=("no", "yes"))
    source = Sampled(population, fresh_support(20, draws=2))
    algorithm = fedavg(supervised(model.predict, cross_entropy))
    chosen = choose_finetuning(
        lambda how, at: finetune(Tunable(model.predict, model.features, cross_entropy, model.head), how, at=at),
        algorithm,
        Judge(engine(source), algorithm.init(params), source, per_example(model.predict, correct), better),
        has_head=True,
    ).how
    assert chosen is not None
    if better:
        assert chosen.layers in ("all", "head_then_all")
        assert chosen.steps == 30
    else:
        assert chosen.layers == "head" or chosen.steps == 1


def test_without_a_head_only_all_layers_are_tried(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    population = Population.from_arrays(torch.randn(20, 3), torch.arange(20) % 2, ["a"] * 20, classes=("no", "yes"))
    source = Sampled(population, fresh_support(5))
    algorithm = fedavg(supervised(model.predict, cross_entropy))
    chosen = choose_finetuning(
        lambda how, at: finetune(Tunable(model.predict, model.features, cross_entropy, ""), how, at=at),
        algorithm,
        Judge(OneByOne(source), algorithm.init(model.params), source, per_example(model.predict, correct), True),
        has_head=False,
    ).how
    assert chosen is not None
    assert chosen.layers == "all"


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ("all", "all layers, 3 steps of lr 0.05"),
        ("head", "the head, 4 steps of lr 0.2"),
        ("own", "its own, 3 steps of lr 0.05"),
        ("head_then_all", "the head, 4 steps of lr 0.2, then all layers, 3 steps of lr 0.05"),
    ],
)
def test_it_says_what_it_is(layers: str, text: str) -> None:
    assert str(replace(HOW, layers=layers)) == text  # type: ignore[arg-type]
