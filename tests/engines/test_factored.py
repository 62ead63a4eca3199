"""Matrices that are not formed: their algebra, and what they do to training."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from seedbed import randomness, tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedprox import fedprox
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, batches
from seedbed.data.types import Batch, Episode, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.executors import factored
from seedbed.executors import lockstep as lockstep_module
from seedbed.executors.factored import FactoredExecutor, is_worthwhile
from seedbed.executors.grouped_step import ClientBatchTensor, NotGroupable
from seedbed.federated import Algorithm, MessageBatch
from seedbed.learning.adaptations import MetaGradient, gradient_steps, learned_steps, maml, rates_for
from seedbed.learning.objectives import cross_entropy, meta_objective, supervised
from seedbed.learning.optimizers import adam, cosine, sgd
from seedbed.learning.training import Executor, Objective, mean_gradient, use_executor
from seedbed.lowrank.factored_matrix import (
    Factored,
    GradRecorder,
    NotFactorable,
    OuterProducts,
    StackedFactored,
    UnformedMatrix,
    is_finite_leaf,
)
from seedbed.models import Model
from seedbed.privacy.differential import Independent, Noise, with_privacy
from seedbed.rounds.message_validation import MessageValidator
from seedbed.rounds.synchronous import gather


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def moved(float64: None) -> Factored:
    """W + 0.5·Σ d xᵀ over six rows: [5, 4]."""
    rows = OuterProducts()
    rows.add(drawn(4, 4, seed=1), drawn(4, 5, seed=2))
    rows.add(drawn(2, 4, seed=3), drawn(2, 5, seed=4))
    return Factored(((1.0, drawn(5, 4)),), ((0.5 * torch.ones(6), rows),), drawn(5, 4))


# ---- algebra -------------------------------------------------------------------------------------------------


def test_it_is_its_rows_outer_products(moved: Factored) -> None:
    (_, rows), (_, base) = moved.sums[0], moved.bases[0]
    x, d = rows.first(6)
    want = base + 0.5 * sum(torch.outer(d[r], x[r]) for r in range(6))
    torch.testing.assert_close(moved.dense(), want)


@pytest.mark.parametrize(
    "operation",
    [
        lambda f, w: 3 * f,
        lambda f, w: f * torch.tensor(3.0),
        lambda f, w: f / 3,
        lambda f, w: -f,
        lambda f, w: f + f,
        lambda f, w: f - 0.3 * f,
        lambda f, w: f + w,
        lambda f, w: w - f,
        lambda f, w: torch.sub(w, f),
        lambda f, w: torch.sub(f, w, alpha=2),
        lambda f, w: f + 0.3 * (w - f),
        lambda f, w: torch.where(torch.tensor(False), w + f, f),
        lambda f, w: torch.zeros_like(f) + f,
        lambda f, w: f.detach(),
        lambda f, w: torch.tensordot(torch.tensor([0.2, 0.8]), torch.stack([f, 2 * f]), 1),
        lambda f, w: torch.cat([torch.stack([f]), torch.stack([2 * f])])[1],
        lambda f, w: torch.stack([f, 2 * f, 3 * f])[[2, 0]][0],
        lambda f, w: f.unsqueeze(0)[0],
    ],
)
def test_what_is_linear_stays_unformed(moved: Factored, operation: Callable[[Any, Any], Any]) -> None:
    """Sums, multiples, choices, stacks: the same numbers as of the dense matrix, and not formed."""
    w = moved.bases[0][1]
    found = operation(moved, w)
    assert isinstance(found, Factored)
    torch.testing.assert_close(found.dense(), operation(moved.dense().clone(), w))


@pytest.mark.parametrize(
    "operation",
    [
        lambda f, w: f * f,
        lambda f, w: f.abs().max(),
        lambda f, w: f @ torch.ones(4),
        lambda f, w: torch.stack([f, f]).reshape(2, -1),
        lambda f, w: torch.linalg.vector_norm(f),
        lambda f, w: torch.func.vmap(torch.sum)(torch.stack([f, f])),
        lambda f, w: f.to(torch.float32),
        lambda f, w: torch.stack([f, torch.ones(5, 4)]),
        lambda f, w: f + 1.0,
        lambda f, w: f + torch.ones(4),
        lambda f, w: torch.where(torch.ones(5, 4) > 0, f, w),
        lambda f, w: f.tolist(),
    ],
)
def test_anything_else_is_done_to_the_dense_matrix(moved: Factored, operation: Callable[[Any, Any], Any]) -> None:
    w, dense = moved.bases[0][1], moved.dense().clone()
    found, want = operation(moved, w), operation(dense, w)
    assert not isinstance(found, Factored | StackedFactored)
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(want))


def test_inner_products_are_sums_over_gram_matrices(moved: Factored) -> None:
    other = 0.3 * moved - moved.bases[0][1]
    for x, y in ((moved, moved), (moved, other), (moved, drawn(5, 4, seed=7)), (drawn(5, 4, seed=7), other)):
        want = (tree.form_unformed(x) * tree.form_unformed(y)).sum()
        torch.testing.assert_close(tree.dot({"a": x}, {"a": y}), want)


def test_a_matrix_that_is_not_formed_is_never_changed(moved: Factored) -> None:
    for change in (lambda f: f.add_(1), lambda f: f.__setitem__(0, 1.0), lambda f: f.zero_()):
        with pytest.raises(TypeError, match="form it first"):
            change(moved)


def test_a_gradient_is_taken_of_weights_of_linear_layers_alone(moved: Factored) -> None:
    heard, x = GradRecorder(moved), drawn(3, 4, seed=8)
    (F.linear(x, heard, torch.zeros(5)) ** 2).sum().backward()
    dense = moved.dense().clone().requires_grad_()
    (F.linear(x, dense) ** 2).sum().backward()
    torch.testing.assert_close(heard.gradient().dense(), dense.grad)
    for use in (lambda w: x @ w.T, lambda w: w.sum(), lambda w: F.linear(w, torch.ones(2, 4)), lambda w: w.detach()):
        with pytest.raises(NotFactorable):
            use(GradRecorder(moved))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_found_unformed_too(moved: Factored, bad: float) -> None:
    """Also numbers that overflow only when the product is formed; what might overflow but does not is looked at."""
    wrong = moved + bad * torch.ones(5, 4)
    assert is_finite_leaf(torch.stack([moved, wrong, moved])).tolist() == [True, False, True]
    assert is_finite_leaf(torch.tensor([[1e300, 1e300], [bad, 1.0]])).tolist() == [True, False]
    large = 1e200 * torch.ones(1, 4), 1e200 * torch.ones(1, 5)
    rows = OuterProducts()
    rows.add(*large)
    assert is_finite_leaf(Factored((), ((torch.ones(1), rows),), moved).unsqueeze(0)).tolist() == [False]
    rows = OuterProducts()
    rows.add(large[0], torch.zeros(1, 5))
    assert is_finite_leaf(Factored((), ((torch.ones(1), rows),), moved).unsqueeze(0)).tolist() == [True]


# ---- training ------------------------------------------------------------------------------------------------


class Params(NamedTuple):
    """As much of a model as `a_round` looks at."""

    params: dict[str, Tensor]


class Small(nn.Module):
    """A convolution, then dense layers wide enough for a few rows to be fewer numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.body = nn.Linear(3 * 36, 90)
        self.head = nn.Linear(90, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.head(torch.tanh(self.body(x.flatten(1))))  # type: ignore[no-any-return]


def setting() -> tuple[Sampled, Model]:
    """Three ragged clients of 9 to 16 images, and the model."""
    sizes = (9, 12, 16)
    owner = [c for c, n in enumerate(sizes) for _ in range(n)]
    population = Population.from_arrays(drawn(sum(sizes), 1, 12, 12), torch.arange(sum(sizes)) % 4, owner)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Sampled(population, batches(4, epochs=2), seed=1), Model(Small())


LOCAL = {
    "plain": sgd(0.1),
    "momentum": sgd(0.05, momentum=0.9),
    "nesterov, decay": sgd(0.05, momentum=0.9, nesterov=True, weight_decay=0.02),
    "schedule": sgd(0.1, schedule=cosine(8)),
}


def a_round(algorithm: Algorithm, model: Model | Params, engine: OneByOne) -> tuple[list[MessageBatch], Any]:
    state = algorithm.init(model.params)
    groups = list(engine.ask(algorithm, dict.fromkeys(engine.population, state.params), 0))
    admitted, refused = MessageValidator().admit(groups, engine.population)
    assert not refused
    return groups, algorithm.server(state, gather(algorithm, admitted, 3)).params


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_a_factored_round_is_the_loops(kind: str, mu: float, dtype: torch.dtype, tolerance: float) -> None:
    """FedAvg and FedProx of a convolutional model on ragged clients, through the gate and the mean."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        source, model = setting()
        loss: Objective = supervised(model.predict, cross_entropy)
        algorithm = fedprox(loss, mu=mu, local=LOCAL[kind]) if mu else fedavg(loss, local=LOCAL[kind])
        executor = FactoredExecutor()
        groups, found = a_round(algorithm, model, OneByOne(source, executor=executor))
        _, want = a_round(algorithm, model, OneByOne(source))
    finally:
        torch.set_default_dtype(before)
    assert {n for n, x in groups[0].messages.value.items() if isinstance(x, StackedFactored)} == {"body.weight"}
    assert executor.trained == 3
    assert all(type(x) is Tensor and (x - want[n]).abs().max() <= tolerance for n, x in found.items())


def test_a_clipped_factored_message_is_not_formed() -> None:
    """Differential privacy's clip takes the norm from Gram matrices: what a client sends stays rows."""
    source, model = setting()
    loss = supervised(model.predict, cross_entropy)
    plain = with_privacy(fedavg(loss), Independent(Noise(bytes(32)), 0.0, 3, 3), clip=0.01)
    state = plain.init(model.params)
    engine = OneByOne(source, executor=FactoredExecutor(), lockstep=3)
    for group in engine.ask(plain, {c: plain.send(state, c) for c in engine.population}, 0):
        value = group.messages.value.value
        assert isinstance(value["body.weight"], StackedFactored)
        assert all(member._dense is None for member in value["body.weight"].members)
        assert float(tree.squared_norm(tree.form_unformed(value)).sqrt()) == pytest.approx(0.01, rel=1e-3)


def test_workers_change_nothing_of_a_factored_round() -> None:
    source, model = setting()
    algorithm = fedavg(supervised(model.predict, cross_entropy))
    one, three = (
        a_round(algorithm, model, OneByOne(source, workers=w, executor=FactoredExecutor()))[1] for w in (1, 3)
    )
    assert all(torch.equal(one[n], three[n]) for n in one)


class Checkpointed(nn.Module):
    """Whose middle is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 30), nn.Linear(30, 30), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = checkpoint(lambda h: self.middle(h).tanh(), self.first(x).tanh(), use_reentrant=False)
        return self.last(found)  # type: ignore[no-any-return]


@pytest.mark.parametrize("lockstep", [1, 16])
@pytest.mark.usefixtures("float64")
def test_a_model_that_checkpoints_trains_as_ever(lockstep: int) -> None:
    """Rows would be heard twice, and what is computed again would not be what was: such layers are formed."""
    with randomness.seeded_init(0):
        model = Model(Checkpointed())
    owner = [c for c in range(3) for _ in range(9)]
    x = torch.randn(len(owner), 4, generator=torch.Generator().manual_seed(0))
    source = Sampled(Population.from_arrays(x, torch.arange(len(owner)) % 3, owner), batches(4))
    algorithm, executor = fedavg(supervised(model.predict, cross_entropy)), FactoredExecutor(always=True)
    _, want = a_round(algorithm, model, OneByOne(source))
    _, found = a_round(algorithm, model, OneByOne(source, executor=executor, lockstep=lockstep))
    assert all((found[n] - want[n]).abs().max() <= 1e-12 for n in want)
    with pytest.raises(InputError, match=r"saved tensor hooks.* use the engine one_by_one"):
        a_round(algorithm, model, Vectorised(source))


@pytest.mark.parametrize("lockstep", [2, 3, 16])
@pytest.mark.usefixtures("float64")
def test_clients_in_lockstep_share_products_and_change_nothing(lockstep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ragged clients: who is done first leaves the others to themselves. However many compute at a time: bit for
    bit."""
    monkeypatch.setattr(lockstep_module, "NUMBERS", 0)
    rows, split_columns = [], lockstep_module.split_columns

    def counted(x: Tensor, *rest: Any) -> Tensor:
        rows.append(len(x))
        return split_columns(x, *rest)

    for module in (lockstep_module, factored):
        monkeypatch.setattr(module, "split_columns", counted)
    source, model = setting()
    algorithm = fedavg(supervised(model.predict, cross_entropy), local=LOCAL["nesterov, decay"])
    _, want = a_round(algorithm, model, OneByOne(source))
    executors = [FactoredExecutor() for _ in range(3)]
    found = [
        a_round(algorithm, model, OneByOne(source, workers=w, executor=executor, lockstep=lockstep))[1]
        for w, executor in enumerate(executors, 1)
    ]
    assert all((found[0][n] - want[n]).abs().max() <= 1e-12 for n in want)
    assert all(torch.equal(found[0][n], other[n]) for n in want for other in found[1:])
    assert set(rows) == ({2 * 4} if lockstep == 2 else {1 * 4, 3 * 4})  # 6, 6 and 8 steps of batch 4
    assert {executor.abreast for executor in executors} == {2 if lockstep == 2 else 3}


@pytest.mark.usefixtures("float64")
def test_who_meets_at_other_matrices_is_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square matrix and its transpose lie at one place."""
    monkeypatch.setattr(lockstep_module, "NUMBERS", 0)
    matrix, x = drawn(4, 4), drawn(3, 4, seed=1)
    matrices = [matrix, matrix.T, matrix, 2 * matrix]
    with ThreadPoolExecutor(4) as pool, ThreadPoolExecutor(2) as helpers:
        products = lockstep_module.SharedProducts(4, helpers)
        seats = [pool.submit(products.multiply, seat, x, which) for seat, which in enumerate(matrices)]
        for seat, which in zip(seats, matrices, strict=True):
            torch.testing.assert_close(seat.result(), x @ which)


def test_clients_abreast_are_clients_one_by_one() -> None:
    """An `Each` does to every client's tensor what is done to it, bit for bit; what would mix clients, hangs on their
    numbers or hides from the graph is refused."""
    xs, ws = [[drawn(3, 4, seed=s), drawn(3, 4, seed=s + 9)] for s in (1, 2)], [drawn(5, 4, seed=s) for s in (3, 4)]
    steps: list[Callable[[Any, Any], Any]] = [
        lambda x, w: F.linear(x, w).relu() + 1,
        lambda x, w: torch.cat([x, w]).reshape(2, -1).max(1).values,
        lambda x, w: torch.logsumexp(x, -1)[1:] * x.shape[1],
        lambda x, w: torch.stack([*x.unbind(1), x[:, 0]]).add_(1),
        lambda x, w: F.layer_norm(x, (4,)) @ w.T,
    ]
    for step in steps:
        found = step(ClientBatchTensor(xs[0]), ClientBatchTensor(ws))
        for i, one in enumerate(found.members):
            assert torch.equal(one, step(xs[0][i], ws[i])), step
    xs[0][1] = -xs[0][0]
    hidden: list[Callable[[Any, Any], Any]] = [
        lambda x, w: x.sum().item(),
        lambda x, w: x if x.sum() > 0 else -x,
        lambda x, w: x[x > 0],
        lambda x, w: torch.zeros(3, 4).add_(x),
        lambda x, w: torch.zeros(3, 4).__setitem__(0, x[0]),
        lambda x, w: torch.add(x, 1, out=torch.empty(3, 4)),
        lambda x, w: x.numpy(),
        lambda x, w: Doubled.apply(x),  # type: ignore[no-untyped-call]
        lambda x, w: torch.func.vmap(torch.sum)(x),
    ]
    for step in hidden:
        with pytest.raises(NotGroupable):
            step(ClientBatchTensor(xs[0]), ClientBatchTensor(ws))


class Doubled(torch.autograd.Function):
    """A model's own operation: no graph is made of what it does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return 2 * dy


@pytest.mark.parametrize("lockstep", [1, 3])
@pytest.mark.usefixtures("float64")
def test_a_model_whose_way_hangs_on_numbers_trains_client_by_client(lockstep: int) -> None:
    source, model = setting()

    def predict(params: Any, x: Tensor) -> Tensor:
        scores = model.predict(params, x)
        return scores if scores[0, 0].item() > 0 else 2 * scores

    algorithm = fedavg(supervised(predict, cross_entropy))
    executor = FactoredExecutor()
    _, found = a_round(algorithm, model, OneByOne(source, executor=executor, lockstep=lockstep, workers=2))
    _, want = a_round(algorithm, model, OneByOne(source))
    assert all((found[n] - want[n]).abs().max() <= 1e-12 for n in want)
    assert executor.trained == 3
    assert executor.abreast == 0


def test_a_client_that_fails_in_lockstep_fails_the_round_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockstep_module, "NUMBERS", 0)
    source, model = setting()
    loss = supervised(model.predict, cross_entropy)
    steps: list[int] = []

    def failing(params: Any, batch: Any) -> Tensor:
        steps.append(1)
        if len(steps) == 5:
            raise ArithmeticError("the fifth step")
        return loss(params, batch)

    engine = OneByOne(source, workers=2, executor=FactoredExecutor(), lockstep=3)
    with pytest.raises(ArithmeticError, match="the fifth step"):
        a_round(fedavg(failing), model, engine)
    a_round(fedavg(loss), model, engine)


@pytest.mark.usefixtures("float64")
def test_a_layer_that_is_used_otherwise_trains_dense() -> None:
    """Tied to its own transpose, or scaled: no factor is kept of it, and nothing changes."""

    def predict(params: Any, x: Tensor) -> Tensor:
        hidden = torch.tanh(F.linear(x.flatten(1), 2 * params["body"]))
        return F.linear(F.linear(hidden, params["body"].T), params["head"])

    source, _ = setting()
    params = {"body": 0.1 * drawn(90, 144), "head": 0.1 * drawn(80, 144, seed=1)}
    algorithm = fedavg(supervised(predict, cross_entropy))
    executor, model = FactoredExecutor(), Params(params)
    groups, found = a_round(algorithm, model, OneByOne(source, executor=executor))
    _, want = a_round(algorithm, model, OneByOne(source))
    kept = {n for n, x in groups[0].messages.value.items() if isinstance(x, StackedFactored)}
    assert kept <= {"head"}
    assert executor.refused == {
        "a dense layer is used otherwise than by torch.nn.functional.linear, or differentiated through"
    }
    assert all((found[n] - want[n]).abs().max() <= 1e-12 for n in params)


def test_matrices_that_rows_outgrow_are_formed() -> None:
    """108 × 90 numbers are as many as 49 rows are: of more examples none is kept."""
    source, model = setting()
    assert is_worthwhile(model.params["body.weight"]) == pytest.approx(49.09, abs=0.01)
    longer = Sampled(source.population, batches(4, epochs=8), seed=1)
    algorithm, executor = fedavg(supervised(model.predict, cross_entropy)), FactoredExecutor()
    groups, _ = a_round(algorithm, model, OneByOne(longer, executor=executor))
    assert not any(isinstance(x, StackedFactored) for x in groups[0].messages.value.values())
    sizes = (96, 96, 128)  # of eight passes in batches of 4, of which the last may be short
    assert executor.refused == {f"no dense layer is large enough for {n} examples of a client" for n in sizes}


def test_a_clients_state_is_a_sixth_of_a_copy_of_the_weights() -> None:
    """The dense layers of LEAF's FEMNIST network, ten steps of batch 10: their rows against their numbers. Its
    convolutions have 52,096 numbers of 6.6 million, which are copied."""
    numbers, kept = 52_096, 4 * 52_096
    for outputs, inputs in ((2048, 3136), (62, 2048)):
        rows = OuterProducts(room=10)
        for _ in range(10):
            rows.add(torch.zeros(10, inputs), torch.zeros(10, outputs))
        numbers, kept = numbers + outputs * inputs, kept + rows.bytes
    assert 4 * numbers / kept >= 6


def test_an_adaptive_local_optimiser_is_refused_in_a_line() -> None:
    source, model = setting()
    said: list[str] = []
    algorithm = fedavg(supervised(model.predict, cross_entropy), local=adam(0.01))
    a_round(algorithm, model, OneByOne(source, executor=FactoredExecutor(say=said.append)))
    reason = "the local optimiser adam is not linear in the gradients"
    assert said == [f"executor factored: {reason}, so that clients train in a loop there"]


# ---- fast weights --------------------------------------------------------------------------------------------------


class Made(TorchDispatchMode):
    """What operations make tensors of this shape, but for another view of one that is given."""

    def __init__(self, given: Tensor):
        super().__init__()
        self.given, self.by = given, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        plain = isinstance(found, Tensor) and not isinstance(found, UnformedMatrix) and found.shape == self.given.shape
        self.by += [str(func)] if plain and found.data_ptr() != self.given.data_ptr() else []
        return found


def meta_gradient(executor: Executor | None, objective: Objective, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of two episodes, of 5 support and 6 query examples of 30 numbers, in 3 classes."""

    def examples(count: int, seed: int) -> Batch:
        return Batch(drawn(2, count, 30, seed=seed), torch.arange(2 * count).reshape(2, -1) % 3, torch.ones(2, count))

    task = Task(Episode(examples(5, 1), examples(6, 2)), torch.ones(2), torch.tensor(2.0))
    with torch.no_grad(), use_executor(executor):
        return dict(mean_gradient(objective, params, task)[0])


def perceptron() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(nn.Sequential(nn.Linear(30, 50), nn.Tanh(), nn.Linear(50, 40), nn.Tanh(), nn.Linear(40, 3)))


@pytest.mark.parametrize("order", ["exact", "first"])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.usefixtures("float64")
def test_fast_weights_are_not_formed(order: MetaGradient, steps: int) -> None:
    """Through inner steps of all layers, of the last two with the first still in the way, or of the last alone: the
    reference's gradient, and no operation makes a matrix of a layer's shape."""
    model = perceptron()
    loss = supervised(model.predict, cross_entropy)

    def some(name: str) -> bool:
        return not name.startswith("0.")

    upper, head = (
        gradient_steps(loss, lr=0.3, steps=steps, first_order=order == "first", moves=moves)
        for moves in (some, model.is_head)
    )
    for objective in (
        maml(loss, lr=0.3, steps=steps, order=order),
        meta_objective(upper, loss),
        meta_objective(head, loss),
    ):
        want = meta_gradient(None, objective, model.params)
        for name in ("0.weight", "2.weight", "4.weight"):
            executor = FactoredExecutor(always=True)
            with Made(model.params[name]) as made:
                found = meta_gradient(executor, objective, model.params)
            assert not made.by
            with made:
                tree.form_unformed(found[name])
            assert made.by
            assert executor.trained == 3
            assert isinstance(found[name], Factored)
        assert all((tree.form_unformed(found[n]) - g).abs().max() <= 1e-10 * g.abs().max() for n, g in want.items())


@pytest.mark.usefixtures("float64")
def test_fast_weights_that_are_no_sums_of_rows_are_formed() -> None:
    """A learned rate for every number, and a Hessian by differences: refused by name, and the reference's gradient."""
    model = perceptron()
    loss = supervised(model.predict, cross_entropy)
    rated = {**model.params, **rates_for(model.params, 0.1)}
    hessian_free = maml(loss, lr=0.3, order="hessian_free")
    for objective, params in ((meta_objective(learned_steps(loss), loss), rated), (hessian_free, model.params)):
        executor = FactoredExecutor(always=True)
        found, want = (meta_gradient(e, objective, params) for e in (executor, None))
        assert "differentiated through" in next(iter(executor.refused))
        assert all((tree.form_unformed(found[n]) - g).abs().max() <= 1e-12 for n, g in want.items())
