"""FedDF: means within architectures, the ensemble across them, steps towards it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.feddf import assign_architectures, feddf
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.federated import Message, MessageBatch
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model, ModelZoo, mlp
from seedbed.rounds.synchronous import gather

from .bench import CLASSES, INPUTS, Given, apart, batch, final, loss, network, plain_loss, predict, task

ENGINES = [OneByOne, Vectorised]
EXAMPLES = (4.0, 1.0, 2.0, 3.0)


def public() -> Tensor:
    """[5, 4]."""
    return batch(50, size=5).x


def clients(count: int = 4) -> list[Any]:
    """Of one batch each, unlike numbers of examples."""
    return [task(batch(c), examples=n) for c, n in zip(range(count), EXAMPLES, strict=False)]


def either(params: Any, x: Tensor) -> Tensor:
    """Two linear architectures: z = Wx, or z = W[x, x²] of twice the inputs."""
    (name, own), *_ = params.items()
    return (x if name == "plain" else torch.cat([x, x**2], 1)) @ own["w"].T


def inputs(name: str, x: Tensor) -> Tensor:
    return x if name == "plain" else torch.cat([x, x**2], 1)


def begun() -> dict[str, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(2)
    shapes = {"plain": INPUTS, "squared": 2 * INPUTS}
    return {name: {"w": 0.5 * torch.randn(CLASSES, n, generator=g)} for name, n in shapes.items()}


def descended(name: str, w: Tensor, x: Tensor, p: Tensor, lr: float) -> Tensor:
    """A step on the mean cross-entropy, or KL, against p: W − lr·(σ(z) − p)ᵀx/B."""
    return w - lr * (F.softmax(inputs(name, x) @ w.T, -1) - p).T @ inputs(name, x) / len(x)


@pytest.mark.parametrize("kind", ENGINES)
def test_one_architecture_without_distillation_is_fedavg(kind: Any) -> None:
    """And so it is for each architecture over its own clients, whatever the others do."""

    def of(params: Any, x: Tensor) -> Tensor:
        return predict(params["net"], x)

    made = feddf(supervised(of, cross_entropy), of, public=public(), local=sgd(0.3), distil_steps=0)
    got = final(made, clients(), {"net": network()}, 3, kind).params["net"]
    assert apart(got, final(fedavg(loss, local=sgd(0.3)), clients(), network(), 3).params) < 1e-14
    two = feddf(supervised(either, cross_entropy), either, public=public(), local=sgd(0.3), distil_steps=0)
    for i, name in enumerate(begun()):
        one = feddf(supervised(either, cross_entropy), either, public=public(), local=sgd(0.3), distil_steps=0)
        alone = final(one, clients()[i::2], {name: begun()[name]}, 3)
        assert apart(final(two, clients(), begun(), 3, kind).params[name], alone.params[name]) < 1e-14


@pytest.mark.parametrize("kind", ENGINES)
def test_two_architectures_in_plain_pytorch(kind: Any) -> None:
    """Two rounds of the whole: a step of every client from its architecture's W; the mean by n_i within each; the plain
    mean of all four clients' logits on the public five; two steps towards it, rows 0–2 at rate 1, then 3, 4, 0 at rate
    (1 + cos(π/2))/2 = ½."""
    w = {name: p["w"] for name, p in begun().items()}
    for _ in range(2):
        own = [descended(assign_architectures(c, list(w)), w[assign_architectures(c, list(w))], batch(c).x,
                         F.one_hot(batch(c).y, CLASSES).to(public().dtype), 0.3) for c in range(4)]  # fmt: skip
        ensemble = sum(inputs(assign_architectures(c, list(w)), public()) @ own[c].T for c in range(4)) / 4
        p = F.softmax(ensemble, -1)
        w = {
            "plain": (4 * own[0] + 2 * own[2]) / 6,
            "squared": (1 * own[1] + 3 * own[3]) / 4,
        }
        for rows, rate in (([0, 1, 2], 0.2), ([3, 4, 0], 0.1)):
            w = {name: descended(name, own_w, public()[rows], p[rows], rate) for name, own_w in w.items()}
    made = feddf(
        supervised(either, cross_entropy), either, public=public(), local=sgd(0.3),
        distil=sgd(0.2), distil_steps=2, distil_size=3,
    )  # fmt: skip
    got = final(made, clients(), begun(), 2, kind).params
    assert apart({n: p["w"] for n, p in got.items()}, w) < 1e-13


def test_architecture_without_a_client_in_the_round_learns_from_the_others() -> None:
    """Only client 1, of the second architecture: the first keeps its params as they were, then is distilled."""
    made = feddf(
        supervised(either, cross_entropy), either, public=public(), distil=sgd(0.2), distil_steps=1, distil_size=5
    )
    state = made.init(begun())
    engine = OneByOne(Given(clients()))
    after = made.server(state, gather(made, list(engine.ask(made, {1: made.send(state, 1)}, 0)), 4))
    squared = descended("squared", begun()["squared"]["w"], batch(1).x, F.one_hot(batch(1).y, CLASSES).double(), 0.1)
    p = F.softmax(inputs("squared", public()) @ squared.T, -1)
    assert apart(after.params["plain"]["w"], descended("plain", begun()["plain"]["w"], public(), p, 0.2)) < 1e-14
    assert apart(after.params["squared"]["w"], squared) < 1e-14


def test_a_client_is_sent_its_own_architecture_alone() -> None:
    made = feddf(supervised(either, cross_entropy), either, public=public())
    state = made.init(begun())
    assert [list(made.send(state, c).params) for c in range(3)] == [["plain"], ["squared"], ["plain"]]
    chosen = feddf(loss, either, public=public(), assign=lambda client, names: names[client // 2])
    assert [list(chosen.send(state, c).params) for c in range(3)] == [["plain"], ["plain"], ["squared"]]


def test_several_models_are_one() -> None:
    """Each is itself; params of none or two of them are refused."""
    models = {"wide": Model(mlp((4,), 3)), "deep": Model(mlp((4,), 3, hidden=(5, 6)))}
    several, x = ModelZoo(models), batch(0).x
    for name, model in models.items():
        assert apart(several.predict({name: model.params}, x), model.predict(model.params, x)) == 0
        assert apart(several.features({name: model.params}, x), model.features(model.params, x)) == 0
        halved = several.each(lambda m: lambda p, s: tree.scale(s, p))({name: model.params}, 0.5)
        assert apart(halved, {name: tree.scale(0.5, model.params)}) == 0
    with pytest.raises(InputError, match="wide, deep"):
        several.predict(several.params, x)


def test_messages_of_other_keys_are_reduced_apart() -> None:
    """{a: 1} of weight 1, {a: 4, b: 10} of weight 2 and {b: 40} of weight 3: a = (1 + 8)/3, b = (20 + 120)/5."""
    messages = [({"a": 1.0}, 1.0), ({"a": 4.0, "b": 10.0}, 2.0), ({"b": 40.0}, 3.0)]
    groups = [
        MessageBatch([c], tree.map(lambda x: torch.tensor([x]), Message(value, weight, {"loss": 1.0})))
        for c, (value, weight) in enumerate(messages)
    ]
    for order in (groups, groups[::-1]):
        value = gather(fedavg(plain_loss), order, 3).value
        assert apart(value, {"a": torch.tensor(3.0), "b": torch.tensor(28.0)}) < 1e-14
