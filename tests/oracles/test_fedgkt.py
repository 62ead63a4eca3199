"""FedGKT: both losses by hand, the order of the server's steps, what leaves a client."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed.algorithms.fedgkt import Uploaded, fedgkt
from seedbed.data.types import Batch
from seedbed.engines import OneByOne, Vectorised
from seedbed.learning.optimizers import sgd
from seedbed.models import Model
from seedbed.models.small import mlp
from seedbed.models.split import SplitHalves, SplitNet

from .bench import CLASSES, INPUTS, Given, apart, batch, final, task

WIDTH = 5


def extract(params: Any, x: Tensor) -> Tensor:
    return torch.tanh(x @ params["edge.w"].T)


def exit(params: Any, features: Tensor) -> Tensor:
    return features @ params["edge.v"].T


def tail(params: Any, features: Tensor) -> Tensor:
    return features @ params["tail.u"].T


def begun() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"edge.w": (WIDTH, INPUTS), "edge.v": (CLASSES, WIDTH), "tail.u": (CLASSES, WIDTH)}
    return {n: torch.randn(*s, generator=g) for n, s in shapes.items()}


def work() -> list[list[Batch]]:
    return [[batch(0), batch(1)], [batch(2)], [batch(3), batch(4)]]


def clients() -> list[Any]:
    return [task(*mine, examples=n) for mine, n in zip(work(), (4.0, 1.0, 2.0), strict=True)]


def mutual(own: Tensor, other: Tensor, y: Tensor, t: float) -> Tensor:
    """∂[CE + T²KL(other ‖ own)]/∂own logits, of each example."""
    return F.softmax(own, -1) - F.one_hot(y, CLASSES).double() + t * (F.softmax(own / t, -1) - F.softmax(other / t, -1))


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
def test_three_rounds_by_hand(kind: Any) -> None:
    """h = tanh(Wx), client logits Vh, server logits Uh. A client's step, d as above against the server's logits under
    the W that it last uploaded with: V ← V − ηdᵀh/B; W ← W − η((dV) ⊙ (1 − h²))ᵀx/B; in round 1 only CE. Then the
    server's step for each batch of each client, in order: U ← U − ζdᵀh/B against the client's logits."""
    t, eta, zeta = 2.0, 0.2, 0.3
    u, own = begun()["tail.u"], [(begun()["edge.w"], begun()["edge.v"]) for _ in range(3)]
    for number in range(3):
        uploaded = []
        for c, mine in enumerate(work()):
            (w, v), old = own[c], own[c][0]
            for b in mine:
                h = torch.tanh(b.x @ w.T)
                theirs = torch.tanh(b.x @ old.T) @ u.T
                d = mutual(h @ v.T, theirs if number else h @ v.T, b.y, t)
                w, v = w - eta * ((d @ v) * (1 - h**2)).T @ b.x / 6, v - eta * d.T @ h / 6
            own[c] = w, v
            uploaded += [(torch.tanh(b.x @ w.T), torch.tanh(b.x @ w.T) @ v.T, b.y) for b in mine]
        for _ in range(2):
            for h, logits, y in uploaded:
                u = u - zeta * mutual(h @ u.T, logits, y, t).T @ h / 6
    algorithm = fedgkt(extract, exit, tail, temperature=t, local=sgd(eta), outer=sgd(zeta), server_epochs=2)
    engine = kind(Given(clients()))
    state = final(algorithm, clients(), begun(), 3, lambda _: engine)
    assert apart(state.params, begun() | {"tail.u": u}) < 1e-13
    for c, (w, v) in enumerate(own):
        assert apart(engine.memory()[c], {"edge.w": w, "edge.v": v}) < 1e-13


def test_what_leaves_a_client() -> None:
    """Features, labels, mask and logits of every example under the trained edge; no parameters, no inputs."""
    algorithm = fedgkt(extract, exit, tail, local=sgd(0.2))
    sent = algorithm.send(algorithm.init(begun()), 0)
    message, edge = algorithm.client(sent, algorithm.remember(sent), clients()[0])
    for k, b in enumerate(work()[0]):
        features = extract(edge, b.x)
        want = Uploaded(features, b.y, b.mask, exit(edge, features))
        assert all(apart(a[k], w) < 1e-15 for a, w in zip(message.value.items, want, strict=True))
    assert edge.keys() == {"edge.w", "edge.v"}


def test_padding_leaves_no_trace_in_what_is_uploaded() -> None:
    """Rows that are not real hold a million; the server sees zeros."""
    algorithm = fedgkt(extract, exit, tail)
    sent = algorithm.send(algorithm.init(begun()), 0)
    message, _ = algorithm.client(sent, algorithm.remember(sent), task(batch(0, size=4, padding=3)))
    uploaded = message.value.items
    assert float(uploaded.features[0, 4:].abs().max()) == float(uploaded.logits[0, 4:].abs().max()) == 0


def test_the_model_is_the_client_s_extractor_and_the_server_s_tail() -> None:
    algorithm = fedgkt(extract, exit, tail)
    sent = algorithm.send(algorithm.init(begun()), 0)
    own = {"edge.w": torch.ones(WIDTH, INPUTS), "edge.v": torch.ones(CLASSES, WIDTH)}
    got = algorithm.personalise(sent, own, batch(0))
    assert apart([got["edge.w"], got["tail.u"]], [own["edge.w"], begun()["tail.u"]]) == 0


def test_halves_of_a_split_module_are_the_module() -> None:
    """tail(extract(x)) is the whole; exit is the edge's head on the same features."""
    split = SplitNet(mlp((INPUTS,), CLASSES, hidden=(WIDTH,)), mlp((WIDTH,), CLASSES, hidden=(7,)))  # type: ignore[arg-type]
    model, halves, x = Model(split, head="tail.head"), SplitHalves(split), batch(0).x
    features = halves.extract(model.params, x)
    assert apart(halves.tail(model.params, features), model.predict(model.params, x)) == 0
    assert apart(halves.exit(model.params, features), split.edge(x).detach()) < 1e-15
