"""FD: means by label, the teacher without oneself, who was in the last round."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed.algorithms.fd import LogitTable, by_label, fd
from seedbed.algorithms.local import local
from seedbed.data.types import Batch
from seedbed.engines import OneByOne, Vectorised
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd
from seedbed.rounds.synchronous import gather

from .bench import CLASSES, Given, apart, batch, final, task
from .test_feddf import begun, descended, either, inputs

NAMES = ("plain", "squared", "plain")
HELD = ([0, 1], [1, 2], [1])  # the labels of each client


def examples(c: int) -> Batch:
    """Six examples of a client's own labels in turn."""
    b, held = batch(c), torch.tensor(HELD[c])
    return b._replace(y=held[torch.arange(6) % len(held)])


def clients() -> list[Any]:
    return [task(examples(c), examples=c + 1) for c in range(3)]


def made(**settings: Any) -> Any:
    return fd(supervised(either, cross_entropy), either, ways=CLASSES, local=sgd(0.3), **settings)


def means(name: str, w: Tensor, c: int) -> dict[int, Tensor]:
    z, y = inputs(name, examples(c).x) @ w.T, examples(c).y
    return {label: z[y == label].mean(0) for label in HELD[c]}


def step(name: str, w: Tensor, c: int, teachers: dict[int, Tensor], gamma: float, t: float, lr: float = 0.3) -> Tensor:
    """W − lr·[Σ(σ(z) − y)xᵀ + γ Σ_taught T(σ(z/T) − σ(ẑ_y/T))xᵀ]/6."""
    b = examples(c)
    x, z = inputs(name, b.x), inputs(name, b.x) @ w.T
    gap = F.softmax(z, -1) - F.one_hot(b.y, CLASSES).double()
    for i, label in enumerate(b.y.tolist()):
        if label in teachers:
            gap[i] = gap[i] + gamma * t * (F.softmax(z[i] / t, -1) - F.softmax(teachers[label] / t, -1))
    return w - lr * gap.T @ x / 6


def others(said: dict[int, dict[int, Tensor]], me: int) -> dict[int, Tensor]:
    """The mean over the other clients that had the label."""
    found: dict[int, Tensor] = {}
    for label in range(CLASSES):
        theirs = [table[label] for c, table in said.items() if c != me and label in table]
        if theirs:
            found[label] = sum(theirs) / len(theirs)
    return found


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
def test_three_rounds_in_plain_pytorch(kind: Any) -> None:
    """Label 0 is client 0's alone, so that it has no teacher for it; label 1 everybody's; label 2 client 1's alone."""
    w, said = [begun()[name]["w"] for name in NAMES], {}
    for _ in range(3):
        w = [step(name, w[c], c, others(said, c), 0.7, 2.0) for c, name in enumerate(NAMES)]
        said = {c: means(name, w[c], c) for c, name in enumerate(NAMES)}
    assert others(said, 0).keys() == {1, 2}
    engine = kind(Given(clients()))
    state = final(made(gamma=0.7, temperature=2.0), clients(), begun(), 3, lambda _: engine)
    for c, name in enumerate(NAMES):
        assert apart(engine.memory()[c].params[name]["w"], w[c]) < 1e-13
    table = state.extra["table"]
    assert table.has.tolist() == pytest.approx([1, 3, 1])
    assert apart(table.scores[1], sum(s[1] for s in said.values())) < 1e-13


def test_who_was_not_in_the_last_round_is_not_taken_out() -> None:
    """Rounds of clients {0, 1}, then {0}, then {1}: in the third, client 1 is taught by client 0's table of the second
    round as it is, for its own of the first is no longer in it."""
    algorithm, engine = made(), OneByOne(Given(clients()))
    state, w, said = algorithm.init(begun()), [begun()[name]["w"] for name in NAMES], {}
    for cohort in ([0, 1], [0], [1]):
        groups = list(engine.ask(algorithm, {c: algorithm.send(state, c) for c in cohort}, 0))
        state = algorithm.server(state, gather(algorithm, groups, 3))
        w = [step(n, w[c], c, others(said, c), 1.0, 1.0) if c in cohort else w[c] for c, n in enumerate(NAMES)]
        said = {c: means(NAMES[c], w[c], c) for c in cohort}
    for c in (0, 1):
        assert apart(engine.memory()[c].params[NAMES[c]]["w"], w[c]) < 1e-13


def test_the_teacher_is_the_mean_of_the_others() -> None:
    """(Σ_j z̄_j − z̄_i)/(M − 1): of three tables of one label, client 0 is taught the mean of the other two. At a student
    that says exactly this the term's gradient is nothing, so that γ does not matter."""
    algorithm = made(gamma=100.0)
    state = algorithm.init({"plain": {"w": torch.zeros(CLASSES, 4)}})
    z = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 1.0], [5.0, 3.0, 1.0]])
    table = LogitTable(
        torch.zeros(CLASSES, CLASSES).index_fill(0, torch.tensor([1]), 1.0) * z.sum(0), torch.tensor([0.0, 3, 0])
    )
    state = state._replace(extra={"table": table, "version": torch.tensor(4.0)})
    sent = algorithm.send(state, 0)
    mine = LogitTable(torch.stack([z[0] * 0, z[0], z[0] * 0]), torch.tensor([0.0, 1, 0]))
    own = algorithm.remember(sent)._replace(said=mine, version=torch.tensor(4.0))
    x = torch.tensor([[1.0, 0, 0, 0]])
    one = Batch(x, torch.tensor([1]), torch.ones(1))
    at = {"plain": {"w": torch.zeros(CLASSES, 4).index_fill(1, torch.tensor([0]), 1.0) * ((z[1] + z[2]) / 2)[:, None]}}
    _, after = algorithm.client(sent, own._replace(params=at), task(one))
    plain = descended("plain", at["plain"]["w"], x, torch.tensor([[0.0, 1, 0]]), 0.3)
    assert apart(after.params["plain"]["w"], plain) < 1e-14


def test_means_by_label() -> None:
    """Over all real items and examples of a task; padding of a million is in none of them."""
    one, two = batch(0, size=5, padding=3), batch(1, size=5, padding=3)
    work = task(one, two)._replace(real=torch.tensor([1.0, 0.0]))
    table = by_label(either, {"plain": begun()["plain"]}, work, CLASSES)
    z = one.x[:5] @ begun()["plain"]["w"].T
    for label in range(CLASSES):
        assert apart(table.scores[label], z[one.y[:5] == label].mean(0)) < 1e-14
    assert table.has.tolist() == [1, 1, 1]


def test_gamma_of_zero_is_local_training() -> None:
    alone = local(supervised(either, cross_entropy), local=sgd(0.3))
    engine, own = OneByOne(Given(clients())), OneByOne(Given(clients()[:1]))
    final(made(gamma=0.0), clients(), begun(), 3, lambda _: engine)
    final(alone, clients()[:1], {"plain": begun()["plain"]}, 3, lambda _: own)
    assert apart(engine.memory()[0].params, own.memory()[0]) < 1e-14


def test_a_newcomer_learns_from_all() -> None:
    """It was in no round: nothing is taken out of the sum; a step on its support from the initial model."""
    algorithm = made(test_steps=1, test_lr=0.2)
    state = final(algorithm, clients(), begun(), 2)
    sent = algorithm.send(state, 0)
    table = state.extra["table"]
    teachers = {label: table.scores[label] / table.has[label] for label in range(CLASSES)}
    want = step("plain", begun()["plain"]["w"], 0, teachers, 1.0, 1.0, lr=0.2)
    got = algorithm.personalise(sent, algorithm.remember(sent), examples(0))
    assert apart(got["plain"]["w"], want) < 1e-14
