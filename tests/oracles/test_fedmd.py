"""FedMD: consensus, digest, revisit, public labels, students for newcomers."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedbed.algorithms.fedmd import CERTAIN_LOGIT, fedmd
from seedbed.algorithms.local import local
from seedbed.engines import OneByOne, Vectorised
from seedbed.learning.objectives import cross_entropy, supervised
from seedbed.learning.optimizers import sgd

from .bench import CLASSES, Given, apart, batch, final, rounds, task
from .test_feddf import begun, clients, descended, either, inputs, public

LABELS = torch.tensor([0, 1, 2, 0, 1])
NAMES = ("plain", "squared", "plain", "squared")


def made(**settings: Any) -> Any:
    loss = supervised(either, cross_entropy)
    return fedmd(loss, either, public=public(), local=sgd(0.3), digest=sgd(0.2), **settings)


def memory(algorithm: Any, count: int, kind: Any = OneByOne) -> Any:
    engine = kind(Given(clients()))
    final(algorithm, clients(), begun(), count, lambda _: engine)
    return {c: {n: p["w"] for n, p in kept.items()} for c, kept in engine.memory().items()}


def revisited(name: str, w: Tensor, c: int) -> Tensor:
    return descended(name, w, batch(c).x, F.one_hot(batch(c).y, CLASSES).double(), 0.3)


@pytest.mark.parametrize("kind", [OneByOne, Vectorised])
@pytest.mark.parametrize("labelled", [False, True])
def test_three_rounds_in_plain_pytorch(labelled: bool, kind: Any) -> None:
    """Two architectures, four clients. Round 1 digests the public labels' logits (10 for the label, 0 else) where there
    are labels, and nothing where not; later rounds the plain mean of all clients' scores, whatever their numbers of
    examples. A digest is two steps, on rows 0–2, then 3, 4, 0. A server's student of each architecture does the same
    with what is new."""
    w, student = [begun()[name]["w"] for name in NAMES], {n: p["w"] for n, p in begun().items()}
    consensus = CERTAIN_LOGIT * F.one_hot(LABELS, CLASSES).double() if labelled else None

    def digested(name: str, own: Tensor) -> Tensor:
        for rows in ([0, 1, 2], [3, 4, 0]) if consensus is not None else ():
            own = descended(name, own, public()[rows], F.softmax(consensus[rows], -1), 0.2)
        return own

    for _ in range(3):
        w = [revisited(name, digested(name, own), c) for c, (name, own) in enumerate(zip(NAMES, w, strict=True))]
        consensus = sum(inputs(name, public()) @ own.T for name, own in zip(NAMES, w, strict=True)) / 4
        student = {name: digested(name, own) for name, own in student.items()}
    algorithm = made(labels=LABELS if labelled else None, digest_steps=2, digest_size=3)
    state = final(algorithm, clients(), begun(), 3, kind)
    assert apart(state.extra["consensus"], consensus) < 1e-13
    assert apart({n: p["w"] for n, p in state.params.items()}, student) < 1e-13
    kept = memory(algorithm, 3, kind)
    assert apart([kept[c] for c in range(4)], [{name: own} for name, own in zip(NAMES, w, strict=True)]) < 1e-13


def test_without_digest_it_is_local_training() -> None:
    """No steps on public inputs: every client is alone, and the students stay as they began."""
    alone = local(supervised(either, cross_entropy), local=sgd(0.3))
    for c, name in enumerate(NAMES):
        engine = OneByOne(Given([clients()[c]]))
        final(alone, [clients()[c]], {name: begun()[name]}, 3, lambda _, engine=engine: engine)
        kept = memory(made(digest_steps=0), 3)[c]
        assert apart(kept[name], engine.memory()[0][name]["w"]) < 1e-14
    assert apart(final(made(digest_steps=0), clients(), begun(), 3).params, begun()) == 0


def test_scores_alone_leave_a_client() -> None:
    """[P, N] numbers of weight 1, whatever the client's examples and architecture."""
    algorithm = made()
    state = algorithm.init(begun())
    for c in (0, 1):
        sent = algorithm.send(state, c)
        message, own = algorithm.client(sent, algorithm.remember(sent), clients()[c])
        assert message.value.shape == (5, CLASSES)
        assert float(message.weight) == 1
        assert apart(message.value, either(own, public())) < 1e-15


def test_a_known_client_adapts_its_own_model_and_a_newcomer_the_student() -> None:
    algorithm = made()
    state = rounds(algorithm, clients(), begun(), 2)[-1].state
    sent = algorithm.send(state, 0)
    own = {"plain": {"w": torch.ones(CLASSES, 4)}}
    assert apart(algorithm.personalise(sent, own, batch(7)), own) == 0
    assert apart(algorithm.personalise(sent, algorithm.remember(sent), batch(7)), {"plain": state.params["plain"]}) == 0
    assert task(batch(0)).examples == 1
