"""ANIL: the head alone adapts, body and head are meta-learned."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed import tree
from seedbed.algorithms.anil import anil
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.data.types import Episode
from seedbed.federated import uniform
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd

from .bench import ENGINES, apart, batch, episode, final, loss, network, plain_loss, plain_maml, sent_by, task


def episodes() -> list[list[Episode]]:
    """Of three clients: one, two and three."""
    return [[episode(4 * c + k) for k in range(c + 1)] for c in range(3)]


@pytest.mark.parametrize("first", [False, True], ids=["exact", "first"])
@pytest.mark.parametrize("engine", ENGINES)
def test_federated_gradient_is_that_of_plain_pytorch(engine: Any, first: bool) -> None:
    """∇_θ L_B(body, head − α∇_head L_A …) over body *and* head, by torch.autograd on the concatenated tasks:
    the body's gradient goes through the head's inner steps."""
    each = [plain_maml(network(), es, lr=0.3, steps=3, second_order=not first, moving="head") for es in episodes()]
    want = tree.map(lambda *g: sum(g) / 3, *each)
    algorithm = anil(loss, lr=0.3, steps=3, first_order=first, outer=sgd(1.0))
    tasks = [task(*es, examples=c + 1) for c, es in enumerate(episodes())]
    got = tree.sub(network(), final(algorithm, tasks, network(), 1, engine).params)
    assert apart(got, want) < 1e-14


def test_only_the_head_adapts() -> None:
    """personalise leaves the body as it was, bit for bit, and moves the head by gradient steps with the body
    fixed: those of torch.optim.SGD over the head's parameters alone."""
    got = anil(loss, lr=0.3, steps=4).personalise(network(), {}, batch(0))
    want = network()
    head = [want[n].requires_grad_() for n in ("head.weight", "head.bias")]
    step = torch.optim.SGD(head, 0.3)
    for _ in range(4):
        step.zero_grad()
        plain_loss(want, batch(0)).backward()
        step.step()
    assert apart(got, {n: p.detach() for n, p in want.items()}) < 1e-14
    assert all(torch.equal(got[n], network()[n]) for n in ("body.weight", "body.bias"))
    assert list(got) == list(network()), "the order of names is the model's"


def linear(params: Any, x: Tensor) -> Tensor:
    return F.linear(x, params["head.weight"], params["head.bias"])


def test_with_everything_in_the_head_it_is_maml() -> None:
    """A model that is a head only: ANIL = MAML."""
    only = supervised(linear, cross_entropy)
    params = {"head.weight": network()["body.weight"][:3], "head.bias": network()["head.bias"]}
    tasks = [task(*es) for es in episodes()]
    a = final(anil(only, lr=0.3, steps=2, outer=sgd(0.5)), tasks, params, 3)
    b = final(fedmeta(only, lr=0.3, steps=2, outer=sgd(0.5)), tasks, params, 3)
    assert apart(a.params, b.params) < 1e-15


def test_with_nothing_in_the_head_it_is_plain() -> None:
    """No parameter moves in the inner loop: uniform FedSGD on the query sets."""
    a = final(anil(loss, head="none", lr=0.3, outer=sgd(0.5)), [task(*es) for es in episodes()], network(), 2)
    queries = [task(*[e.query for e in es]) for es in episodes()]
    b = final(uniform(fedsgd(loss, outer=sgd(0.5))), queries, network(), 2)
    assert apart(a.params, b.params) < 1e-15


def test_a_head_is_named_by_its_module() -> None:
    """`head` is a module's name, so "head" does not take in a module called "header"."""
    params = {**network(), "header.bias": torch.zeros(3)}

    def shifted(p: Any, x: Tensor) -> Tensor:
        return linear({"head.weight": p["head.weight"][:, :4], "head.bias": p["head.bias"]}, x) + p["header.bias"]

    got = anil(supervised(shifted, cross_entropy), lr=0.3).personalise(params, {}, batch(0))
    assert torch.equal(got["header.bias"], params["header.bias"])
    assert not torch.equal(got["head.bias"], params["head.bias"])


def test_exact_and_first_order_differ() -> None:
    """The head's curvature counts: the graph through the inner steps is not cut."""
    exact, first = (sent_by(anil(loss, lr=0.3, first_order=f), task(episode(0)), network()) for f in (False, True))
    assert apart(exact, first) > 1e-2
