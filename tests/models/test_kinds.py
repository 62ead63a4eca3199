"""Modules, losses, arrays and samplers as people have them: each works, or one line says what to do."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import seedbed as sb
from seedbed.data.types import Batch
from seedbed.learning.objectives import correct, cross_entropy, supervised

from .bench import ENGINES, Given, after, apart, encoder, head, mlp, recurrent, rows, source, trained


def one_line(error: Any) -> None:
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make",
    [lambda: encoder(batch_first=True), lambda: encoder(dropout=0.0, batch_first=True, norm_first=True),
     lambda: recurrent(nn.GRU, batch_first=True), lambda: mlp(nn.BatchNorm1d(16)),
     lambda: mlp(nn.BatchNorm1d(16, track_running_stats=False))],
    ids=["encoder", "norm first", "gru", "batch norm", "of the batch"],
)  # fmt: skip
def test_second_order_on_both_engines(make: Any) -> None:
    model = sb.Model(make())
    algorithm = sb.fedmeta(supervised(model.predict, cross_entropy), lr=0.1, steps=2, outer=sb.sgd(0.1))
    ends = [after(algorithm, engine(source(sb.support_query(0.5))), model.params, rounds=2) for engine in ENGINES]
    assert apart(*ends) < 1e-10
    items = sb.Sampled(source().population, sb.support_query(0.5), purpose="judge")
    state = algorithm.init(ends[0])
    scores = [
        engine(items).evaluate(algorithm, state, items, sb.per_example(model.predict, correct)) for engine in ENGINES
    ]
    assert all(torch.allclose(scores[0][c], scores[1][c]) for c in scores[0])


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


OUTPUTS: dict[str, tuple[Any, str | int, str]] = {
    "tuple": (lambda y, x: (y, x), 0, r"a tuple of 2.*output=0"),
    "list": (lambda y, x: [x, y], 1, r"a list of 2.*output=0"),
    "dict": (lambda y, x: {"logits": y}, "logits", r"a dict of logits.*output='logits'"),
    "dataclass": (lambda y, x: Output(y, x), "logits", r"a Output of logits, hidden.*output='logits'"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_one_of_several_outputs_is_named(kind: str, engine: Any) -> None:
    made, output, words = OUTPUTS[kind]
    module = Given(lambda m, x: made(m.out(x), x), out=head())
    with pytest.raises(sb.InputError, match=words) as error:
        trained(module, engine)
    one_line(error)
    with pytest.raises(sb.InputError, match="is no part of"):
        trained(module, engine, output="nothing")
    plain = Given(lambda m, x: m.out(x), out=module.out)
    assert apart(trained(module, engine, output=output)[1], trained(plain, engine)[1]) == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(16), head(16)), "lazy: run one batch"),
        (lambda: nn.LazyBatchNorm1d(), "lazy: run one batch"),
        (lambda: (lambda x: x), "takes an nn.Module, not a function"),
        (lambda: nn.Linear, "Linear is a class: call it"),
        (lambda: nn.ReLU(), "it has no parameters"),
        (lambda: torch.jit.script(mlp()), "scripted module"),
        (lambda: mlp(nn.BatchNorm1d(16, momentum=None)), "momentum=None.*set a momentum"),
        (lambda: Given(lambda m, x: m.out(x), out=head(), w=nn.Parameter(torch.ones(2, dtype=torch.complex64))),
         "'w' is complex"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_is_no_model_is_refused_at_once(make: Any, words: str) -> None:
    with pytest.raises(sb.InputError, match=words) as error:
        sb.Model(make())
    one_line(error)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_modules_of_any_precision(dtype: torch.dtype, engine: Any) -> None:
    torch.set_default_dtype(torch.float32)
    module = mlp()
    _, want = trained(module, engine)
    model, found = trained(module.to(dtype), engine)
    assert all(p.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) for p in found.values())
    assert apart({n: p.float() for n, p in found.items()}, want) < (1e-6 if dtype == torch.float64 else 0.05)
    assert model.predict(found, rows()[0].float()).dtype in (torch.float32, torch.float64)


def test_a_compiled_module_is_the_one_that_it_was_made_from() -> None:
    module = mlp()
    assert apart(trained(torch.compile(module, backend="eager"))[1], trained(module)[1]) == 0  # type: ignore[arg-type]


# ---- losses -------------------------------------------------------------------------------------------------------

X, MASK = torch.linspace(-1, 1, 12).reshape(4, 3).double(), torch.tensor([1.0, 1, 1, 0]).double()
LABELS, REALS = torch.tensor([0, 2, 1, 1]), torch.linspace(0.1, 0.9, 12).reshape(4, 3).double()
LOSSES: list[tuple[Any, Tensor]] = [
    (nn.CrossEntropyLoss(), LABELS),
    (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]).double()), LABELS),
    (nn.CrossEntropyLoss(ignore_index=2, label_smoothing=0.1), LABELS),
    (nn.CrossEntropyLoss(), REALS.softmax(-1)),
    (nn.NLLLoss(), LABELS),
    (nn.MultiMarginLoss(), LABELS),
    (nn.MSELoss(), REALS),
    (nn.L1Loss(), REALS),
    (nn.SmoothL1Loss(beta=0.3), REALS),
    (nn.HuberLoss(), REALS),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]).double()), REALS),
    (nn.PoissonNLLLoss(), REALS),
    (F.cross_entropy, LABELS),
    (F.mse_loss, REALS),
]


@pytest.mark.parametrize(("loss", "y"), LOSSES, ids=lambda v: type(v).__name__)
def test_pytorch_s_losses_average_over_real_rows(loss: Any, y: Tensor) -> None:
    found = supervised(lambda params, x: x, loss)({}, Batch(X, y, MASK))
    assert torch.allclose(found, loss(X[:3], y[:3]), rtol=0, atol=1e-12)


def test_targets_are_not_broadcast() -> None:
    """PyTorch makes [B, B] of [B, 1] and [B], with a warning."""
    found = supervised(lambda params, x: x[:, :1], nn.MSELoss())({}, Batch(X, REALS[:, 0], MASK))
    assert torch.allclose(found, ((X[:3, 0] - REALS[:3, 0]) ** 2).mean())
    with pytest.raises(sb.InputError, match="as many outputs as there are targets"):
        supervised(lambda params, x: x, nn.MSELoss())({}, Batch(X, REALS[:, 0], MASK))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (nn.CrossEntropyLoss, "is the class CrossEntropyLoss: call it"),
        (nn.MSELoss(reduction="sum"), "reduction='sum' grows with the batch"),
        (nn.KLDivLoss(reduction="batchmean"), "reduction='batchmean'"),
        (nn.TripletMarginLoss(), "takes anchor, positive, negative"),
        (nn.GaussianNLLLoss(), "takes input, target, var"),
    ],
)
def test_other_losses_say_what_to_do(loss: Any, words: str) -> None:
    with pytest.raises(sb.InputError, match=words):
        supervised(lambda params, x: x, loss)


def test_a_scalar_loss_is_refused_in_one_line() -> None:
    with pytest.raises(sb.InputError, match="one number per example"):
        supervised(lambda params, x: x, lambda p, y: (p - y).mean())({}, Batch(X, REALS, MASK))


@pytest.mark.parametrize("loss", [cross_entropy, nn.CrossEntropyLoss()], ids=["ours", "theirs"])
def test_class_maps(loss: Any) -> None:
    """Segmentation: [B, N, H, W] against [B, H, W]."""
    maps = torch.linspace(-1, 1, 4 * 3 * 4).reshape(4, 3, 2, 2).double()
    y = torch.tensor([0, 1, 2, 0]).repeat(4, 1).reshape(4, 2, 2)
    found = supervised(lambda params, x: x, loss)({}, Batch(maps, y, MASK))
    assert torch.allclose(found, F.cross_entropy(maps[:3], y[:3]), rtol=0, atol=1e-12)
    assert torch.equal(correct(maps, y), (maps.argmax(1) == y).double().mean((1, 2)))
    with pytest.raises(sb.InputError, match="the classes come second"):
        supervised(lambda params, x: x, cross_entropy)({}, Batch(maps.movedim(1, -1), y, MASK))


# ---- samplers, arrays, shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "sampler", "words"),
    [
        (sb.anil, sb.batches(4), "support_query"),
        (sb.fedmeta, sb.batches(4), "support_query"),
        (sb.per_fedavg, sb.batches(4), "sample"),
        (sb.fedavg, sb.support_query(0.5), r"sample batches\("),
        (sb.scaffold, sb.support_query(0.5), r"sample batches\("),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_wrong_sampler_is_said(algorithm: Any, sampler: Any, words: str, engine: Any) -> None:
    model = sb.Model(Given(lambda m, x: m.head(m.body(x)), body=nn.Linear(8, 8), head=head()))
    made = algorithm(supervised(model.predict, cross_entropy))
    with pytest.raises(sb.InputError, match=words) as error:
        after(made, engine(source(sampler)), model.params)
    one_line(error)


@pytest.mark.parametrize("kind", [np.asarray, lambda x: x.tolist(), lambda x: pd.DataFrame(x.numpy())])
def test_arrays_lists_and_frames_become_a_population(kind: Any) -> None:
    x, y = torch.arange(8.0).reshape(4, 2).double(), torch.tensor([0, 1, 1, 0])
    made = sb.Population.from_arrays(kind(x), y.numpy().astype(np.int8), list("aabb"), classes=2)
    assert torch.equal(made.x, x)
    assert torch.equal(made.y, y)
    assert made.classes == ("0", "1")


def test_words_and_frames_say_the_way_out() -> None:
    with pytest.raises(sb.InputError, match="encode words"):
        sb.Population.from_arrays([["a"], ["b"]], [0, 1], ["a", "b"])
    with pytest.raises(sb.InputError, match=r"not a DataFrame.*from_arrays"):
        sb.read(pd.DataFrame({"a": [1]}))  # type: ignore[arg-type]


def test_shapes_of_one_number() -> None:
    assert sb.mlp(4, 3, hidden=8)(torch.zeros(2, 4)).shape == (2, 3)
    with pytest.raises(sb.InputError, match="takes the shape of an input"):
        sb.mlp("4", 3)
    with pytest.raises(sb.InputError, match="use mlp for other inputs"):
        sb.conv(4, 3)  # type: ignore[arg-type]
