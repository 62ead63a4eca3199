"""The law table: every algorithm × every engine × what must hold for all of them.

Adding an algorithm is adding a row. Everything is in float64; where "bit for bit" is not said, differences
are at most 1e-10. Clients are ragged: 9 to 17 examples, 1 to 5 items, short last batches; four of six take
part in a round.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from seedbed import tree
from seedbed.algorithms.anil import anil
from seedbed.algorithms.apfl import apfl
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.algorithms.centralised import centralised
from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.algorithms.fedadagrad import fedadagrad
from seedbed.algorithms.fedadam import fedadam
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedavgm import fedavgm
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fednova import fednova
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.fedprox import fedprox
from seedbed.algorithms.fedrep import fedrep
from seedbed.algorithms.fedsgd import fedsgd
from seedbed.algorithms.fedyogi import fedyogi
from seedbed.algorithms.lg_fedavg import lg_fedavg
from seedbed.algorithms.local import local
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.algorithms.pfedme import pfedme
from seedbed.algorithms.reptile import reptile
from seedbed.algorithms.scaffold import scaffold
from seedbed.engines import OneByOne, Vectorised
from seedbed.federated import Algorithm, Message, Replies, uniform
from seedbed.learning.adaptations import RATE, gradient_steps, unadapted
from seedbed.learning.objectives import after
from seedbed.learning.optimizers import adam, cosine, linear, sgd
from seedbed.rounds.synchronous import gather

from .bench import (
    CLASSES,
    KINDS,
    SIZES,
    TOLERANCE,
    Net,
    Padded,
    Row,
    apart,
    by_hand,
    clients,
    copied,
    first,
    judging,
    module,
    reference,
    run,
    runs_apart,
    trained,
)

MOMENTUM = sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)

ROWS = [
    Row("fedsgd", lambda n: fedsgd(n.loss, outer=sgd(0.3)), "full"),
    Row("fedsgd", lambda n: fedsgd(n.loss, outer=adam(0.02)), "batches", module, "adam"),
    Row("fedavg", lambda n: fedavg(n.loss, local=sgd(0.2)), "batches", module),
    Row("fedavg", lambda n: fedavg(n.loss, local=adam(0.02), outer=adam(0.05)), "batches", variant="adam"),
    Row(
        "fedavg",
        lambda n: fedavg(
            n.loss,
            local=MOMENTUM,
            outer=sgd(0.5, momentum=0.9),
            adapt=gradient_steps(n.loss, lr=0.1, steps=3),
        ),
        "batches",
        module,
        "momentum, finetuned",
    ),
    Row("fedprox", lambda n: fedprox(n.loss, mu=0.5, local=sgd(0.2)), "batches"),
    Row(
        "fedprox",
        lambda n: fedprox(n.loss, mu=2.0, local=adam(0.02, schedule=cosine(9))),
        "full",
        module,
        "adam",
    ),
    Row("fednova", lambda n: fednova(n.loss, local=sgd(0.2)), "batches"),
    Row(
        "fednova",
        lambda n: fednova(n.loss, mu=0.5, local=MOMENTUM, outer=adam(0.02)),
        "batches",
        module,
        "momentum, prox",
    ),
    Row(
        "fednova",
        lambda n: fednova(n.loss, local=sgd(0.2, schedule=linear(6))),
        "full",
        variant="schedule",
    ),
    Row("scaffold", lambda n: scaffold(n.loss, local=sgd(0.2)), "batches"),
    Row("scaffold", lambda n: scaffold(n.loss, option=1, local=sgd(0.2)), "batches", module, "option 1"),
    Row(
        "scaffold",
        lambda n: scaffold(n.loss, local=MOMENTUM, outer=sgd(0.5, momentum=0.9)),
        "batches",
        module,
        "momentum",
    ),
    Row("fedavgm", lambda n: fedavgm(n.loss, local=sgd(0.2)), "batches"),
    Row(
        "fedavgm",
        lambda n: fedavgm(n.loss, eta=0.5, beta=0.5, nesterov=True, schedule=linear(5)),
        "full",
        module,
        "nesterov",
    ),
    *(
        row
        for name, make in {"fedadagrad": fedadagrad, "fedadam": fedadam, "fedyogi": fedyogi}.items()
        for row in (
            Row(name, lambda n, make=make: make(n.loss, local=sgd(0.2)), "batches"),  # type: ignore[misc]
            Row(
                name,
                lambda n, make=make: make(n.loss, eta=0.02, tau=1e-8, initial=0.0, bias_correction=True),  # type: ignore[misc]
                "batches",
                module,
                "corrected",
            ),
        )
    ),
    Row("reptile", lambda n: reptile(n.loss, epsilon=0.5, schedule=linear(5)), "episode_batches"),
    Row("reptile", lambda n: reptile(n.loss, local=adam(0.02, beta1=0.0)), "episode_batches", module, "adam"),
    Row("fedmeta", lambda n: fedmeta(n.loss, lr=0.3, steps=2), "parts", module, "exact"),
    Row(
        "fedmeta",
        lambda n: fedmeta(n.loss, lr=0.3, steps=2, order="first", outer=MOMENTUM),
        "episodes",
        variant="first",
    ),
    Row(
        "fedmeta",
        lambda n: fedmeta(n.loss, lr=0.3, steps=2, order="hessian_free"),
        "parts",
        variant="hessian_free",
    ),
    Row("per_fedavg", lambda n: per_fedavg(n.loss, alpha=0.1, test_steps=2), "parts", module, "exact"),
    Row("per_fedavg", lambda n: per_fedavg(n.loss, alpha=0.1, order="first"), "episodes", variant="first"),
    Row(
        "per_fedavg",
        lambda n: per_fedavg(n.loss, alpha=0.1, order="hessian_free"),
        "parts",
        variant="hessian_free",
    ),
    Row(
        "per_fedavg",
        lambda n: per_fedavg(n.loss, alpha=0.1, batches=3),
        "triples",
        variant="exact, 3 batches",
    ),
    Row(
        "per_fedavg",
        lambda n: per_fedavg(n.loss, alpha=0.1, batches=3, order="first", outer=adam(0.02)),
        "triples",
        variant="first, 3 batches",
    ),
    Row(
        "per_fedavg",
        lambda n: per_fedavg(n.loss, alpha=0.1, batches=3, order="hessian_free"),
        "triples",
        module,
        "hessian_free, 3 batches",
    ),
    Row("meta_sgd", lambda n: meta_sgd(n.loss, lr=0.2), "parts"),
    Row(
        "meta_sgd",
        lambda n: meta_sgd(n.loss, lr=0.2, steps=2, outer=sgd(0.3)),
        "episodes",
        module,
        "two steps",
    ),
    Row("anil", lambda n: anil(n.loss, lr=0.2, steps=3), "parts", module),
    Row("anil", lambda n: anil(n.loss, lr=0.2, steps=2, first_order=True), "episodes", variant="first"),
    Row("fed_proto", lambda n: fed_proto(n.loss, n.features, ways=CLASSES), "episodes", module),
    Row(
        "fed_proto",
        lambda n: fed_proto(n.loss, n.features, ways=CLASSES, outer=sgd(0.3), test_steps=2),
        "episodes",
        variant="finetuned",
    ),
    Row("fed_ridge", lambda n: fed_ridge(n.loss, n.features, ways=CLASSES), "episodes"),
    Row(
        "fed_ridge",
        lambda n: fed_ridge(n.loss, n.features, ways=CLASSES, outer=sgd(0.3), test_steps=2),
        "parts",
        module,
        "finetuned",
    ),
    Row("pfedme", lambda n: pfedme(n.loss, lam=2.0, eta=0.1), "batches", module),
    Row(
        "pfedme",
        lambda n: pfedme(n.loss, lam=5.0, eta=0.1, inner=MOMENTUM, steps=3, beta=1.5, test_steps=2),
        "full",
        variant="momentum",
    ),
    Row("ditto", lambda n: ditto(n.loss, lam=0.5), "batches"),
    Row(
        "ditto",
        lambda n: ditto(n.loss, lam=2.0, local=MOMENTUM, personal=adam(0.02), outer=adam(0.05), test_steps=2),
        "full",
        module,
        "adam",
    ),
    Row("fedper", lambda n: fedper(n.loss, local=sgd(0.2), test_steps=2), "batches", module),
    Row("fedper", lambda n: fedper(n.loss, local=MOMENTUM, outer=adam(0.05), test_steps=0), "full", variant="adam"),
    Row("fedrep", lambda n: fedrep(n.loss, local=sgd(0.2), test_steps=2), "batches"),
    Row("fedrep", lambda n: fedrep(n.loss, head_epochs=3, local=adam(0.02)), "batches", module, "adam"),
    Row("fedbabu", lambda n: fedbabu(n.loss, local=sgd(0.2), test_steps=2), "batches", module),
    Row("fedbabu", lambda n: fedbabu(n.loss, tunes="head", local=MOMENTUM, outer=adam(0.05)), "full", variant="head"),
    Row("lg_fedavg", lambda n: lg_fedavg(n.loss, local=sgd(0.2), test_steps=2), "batches"),
    Row("lg_fedavg", lambda n: lg_fedavg(n.loss, local=adam(0.02), outer=MOMENTUM), "full", module, "adam"),
    Row("apfl", lambda n: apfl(n.loss, local=sgd(0.2), test_steps=2), "batches", module),
    Row(
        "apfl",
        lambda n: apfl(n.loss, alpha=0.2, alpha_lr=0.0, local=MOMENTUM, personal=adam(0.02)),
        "full",
        variant="fixed, adam",
    ),
    Row("local", lambda n: local(n.loss, local=sgd(0.2)), "batches", module),
    Row("local", lambda n: local(n.loss, adapt=gradient_steps(n.loss, lr=0.1)), "full", variant="finetuned"),
    Row("centralised", lambda n: centralised(n.loss, local=MOMENTUM), "batches"),
    Row("centralised", lambda n: centralised(n.loss, local=adam(0.02)), "batches", module, "adam"),
]

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
every_engine = pytest.mark.parametrize("kind", KINDS)


def test_the_table_is_complete() -> None:
    """Every algorithm that can be asked for by name has a row, on the kind of items that the catalogue gives
    it."""
    found = {(row.name, "episodes" if row.items == "parts" else row.items) for row in ROWS}
    wanted = {(name, entry.items) for name, entry in CATALOGUE.items()}
    assert wanted <= found, f"no row in ROWS for {sorted(wanted - found)}"
    assert len({str(row) for row in ROWS}) == len(ROWS)


@every_row
def test_engines_agree(row: Row) -> None:
    """Three rounds: params, the server's extra state, what clients keep, and info. And they are not trivial:
    params, or what clients keep, move in every round."""
    slow, fast = (reference(row, kind) for kind in KINDS)
    assert runs_apart(slow, fast) <= TOLERANCE
    seen = [(row.start, {})] + [(r.state, m) for r, m in zip(*slow, strict=True)]
    for (state, kept), (later, kept_later) in pairwise(seen):
        assert len(kept) < len(kept_later) or apart((state, kept), (later, kept_later)) > 1e-4


@every_row
def test_workers_change_nothing(row: Row) -> None:
    """Threads of one_by_one: bit for bit."""
    side_by_side = run(row, OneByOne(clients(row.items), workers=3), count=2)
    assert runs_apart(first(2, reference(row, OneByOne)), side_by_side) == 0


@every_row
def test_chunks_change_nothing(row: Row) -> None:
    """How many clients are computed at once: 3 and 1 instead of 4."""
    chunked = run(row, Vectorised(clients(row.items), chunk=3), count=2)
    assert runs_apart(first(2, reference(row, Vectorised)), chunked) <= TOLERANCE


@every_row
@every_engine
def test_padding_changes_nothing(row: Row, kind: type[OneByOne]) -> None:
    """Items that are not real and examples that are masked, full of large numbers."""
    padded = run(row, kind(Padded(clients(row.items))), count=1)
    assert runs_apart(first(1, reference(row, kind)), padded) <= TOLERANCE


@every_row
@every_engine
def test_the_order_of_clients_changes_nothing(row: Row, kind: type[OneByOne]) -> None:
    """Clients asked in another order give the same replies and keep the same: bit for bit."""
    algorithm, state, found = row.algorithm, reference(row, kind).rounds[-1].state, []
    for order in ([0, 2, 4, 5], [4, 0, 5, 2]):
        engine = trained(row, kind)
        groups = list(engine.ask(algorithm, {c: algorithm.send(state, c) for c in order}, 7))
        replies = gather(algorithm, groups, len(SIZES))
        found.append((replies._replace(clients=0, population=0), sorted(engine.memory()), engine))
    assert apart(found[0][0], found[1][0]) == 0
    assert found[0][1] == found[1][1]
    assert apart([found[0][2].memory()[c] for c in found[0][1]], [found[1][2].memory()[c] for c in found[0][1]]) == 0


@every_row
def test_scaling_all_weights_changes_nothing(row: Row) -> None:
    """Σ w·value / Σ w does not feel a common factor, summed in parts or not."""
    algorithm = row.algorithm

    def client(sent: Any, kept: Any, task: Any) -> tuple[Message, Any]:
        message, kept = algorithm.client(sent, kept, task)
        return message._replace(weight=0.3 * message.weight), kept

    scaled = run(row, Vectorised(clients(row.items), chunk=3), algorithm=replace(algorithm, client=client), count=2)
    assert runs_apart(first(2, reference(row, OneByOne)), scaled) <= TOLERANCE


@every_row
@every_engine
def test_stop_and_resume_is_not_stopping(row: Row, kind: type[OneByOne]) -> None:
    """After round 1 the state and the clients' memory go to a new engine and a new schedule: bit for bit."""
    past = reference(row, kind)
    engine = kind(clients(row.items))
    engine.recall(copied(past.memories[0]))
    resumed = run(row, engine, count=2, state=copied(past.rounds[0].state), done=1)
    assert runs_apart(type(past)(past.rounds[1:], past.memories[1:]), resumed) == 0


@every_row
@every_engine
def test_a_cohort_of_one_is_that_client_alone(row: Row, kind: type[OneByOne]) -> None:
    """The mean over one is that one: server(state, client's message), the client run by hand."""
    algorithm, state, engine = row.algorithm, row.start, kind(clients(row.items))
    got = run(row, engine, count=1, cohort=1)
    [c] = got.rounds[0].clients
    sent = algorithm.send(state, c)
    task = tree.index(clients(row.items).tasks([c], 0), 0)
    message, kept = algorithm.client(sent, algorithm.remember(sent), task)
    replies = Replies(message.value, [c], len(SIZES), torch.zeros(1), message.weight[None], dict(message.info))
    error = apart(
        (got.rounds[0].state, dict(got.rounds[0].info)),
        (algorithm.server(state, replies), dict(message.info)),
    )
    if tree.leaves(kept):
        error = max(error, apart(got.memories[0], {c: kept}))
    assert error <= (0 if kind is OneByOne else TOLERANCE)


@every_row
@every_engine
def test_nothing_is_drawn_from_global_generators_and_nothing_given_is_changed(row: Row, kind: type[OneByOne]) -> None:
    """A round and an evaluation leave the generators of torch, numpy and Python where they were; and the
    states and memories handed in as they were, so that an earlier round may still be used."""
    past = reference(row, kind)
    given = (past.rounds[0].state, past.memories[0])
    before = copied(given)
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    engine = kind(clients(row.items))
    engine.recall(given[1])
    run(row, engine, count=1, state=given[0], done=1)
    engine.evaluate(row.algorithm, given[0], judging(), row.net().loss)
    assert torch.equal(generators[0], torch.get_rng_state())
    assert generators[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]  # noqa: NPY002
    assert apart(given, before) == 0


@every_row
def test_evaluation_agrees(row: Row) -> None:
    """Each client's score of each of its own 1 to 3 episodes, after training: the query loss of its personal
    model."""
    state, algorithm, loss = reference(row, OneByOne).rounds[-1].state, row.algorithm, row.net().loss
    slow = trained(row, OneByOne).evaluate(algorithm, state, judging(), loss)
    threads = trained(row, OneByOne)
    threads.workers = 3
    small = Vectorised(clients(row.items), chunk=32)
    for engine in (trained(row, Vectorised), small):
        engine.recall(reference(row, OneByOne).memories[-1])
        fast = engine.evaluate(algorithm, state, judging(), loss)
        assert list(fast) == list(slow) == list(range(len(SIZES)))
        assert {c: s.shape for c, s in fast.items()} == {c: (1 + SIZES[c] % 3,) for c in slow}
        assert apart(dict(slow), dict(fast)) <= TOLERANCE
    assert apart(dict(slow), dict(threads.evaluate(algorithm, state, judging(), loss))) == 0


@every_row
@every_engine
def test_everything_is_finite_double_and_cut_from_the_graph(row: Row, kind: type[OneByOne]) -> None:
    """States, messages and memories hold finite float64 numbers and drag no autograd graph along."""
    past, algorithm = reference(row, kind), row.algorithm
    state, engine = past.rounds[-1].state, trained(row, kind)
    messages = [g.messages for g in engine.ask(algorithm, dict.fromkeys((1, 4), algorithm.send(state, 0)), 3)]
    found = tree.leaves((state, messages, past.memories[-1]))
    assert all(torch.isfinite(x).all() for x in found)
    assert {x.dtype for x in found} == {torch.float64}
    assert not any(x.requires_grad for x in found)
    assert all((m.weight > 0).all() for m in messages)


# ---- a hyper-parameter of zero is the parent -------------------------------------------------------------

Make = Callable[[Net], Algorithm]

REDUCTIONS: dict[str, tuple[Make, Make, str]] = {
    "fedprox mu=0: fedavg": (lambda n: fedprox(n.loss, mu=0), lambda n: fedavg(n.loss), "batches"),
    "fednova, equal steps: fedavg": (lambda n: fednova(n.loss), lambda n: fedavg(n.loss), "full"),
    "scaffold's first round: uniform fedavg": (
        lambda n: scaffold(n.loss),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "scaffold's first round, option 1: uniform fedavg": (
        lambda n: scaffold(n.loss, option=1),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "fedavgm beta=0: fedavg": (lambda n: fedavgm(n.loss, beta=0), lambda n: fedavg(n.loss), "batches"),
    "reptile: uniform fedavg with a server rate": (
        lambda n: reptile(n.loss, epsilon=0.4),
        lambda n: uniform(fedavg(n.loss, outer=sgd(0.4))),
        "episode_batches",
    ),
    **{
        f"fedmeta {order} {setting}=0: uniform fedsgd on queries": (
            lambda n, order=order, setting=setting: fedmeta(n.loss, order=order, outer=sgd(0.3), **{setting: 0}),  # type: ignore[misc]
            lambda n: uniform(fedsgd(after(unadapted, n.loss), outer=sgd(0.3))),
            "parts",
        )
        for order in ("exact", "first", "hessian_free")
        for setting in ("lr", "steps")
    },
    **{
        f"per_fedavg {order} alpha=0, {batches} batches: uniform fedavg on queries": (
            lambda n, order=order, batches=batches: per_fedavg(n.loss, alpha=0, order=order, batches=batches),  # type: ignore[misc]
            lambda n: uniform(fedavg(lambda p, item: n.loss(p, item.query))),
            "parts" if batches == 2 else "triples",
        )
        for order in ("exact", "first", "hessian_free")
        for batches in (2, 3)
    },
    "anil steps=0: uniform fedsgd on queries": (
        lambda n: anil(n.loss, steps=0, outer=sgd(0.3)),
        lambda n: uniform(fedsgd(after(unadapted, n.loss), outer=sgd(0.3))),
        "parts",
    ),
    "meta_sgd steps=0: uniform fedsgd on queries": (
        lambda n: meta_sgd(n.loss, steps=0, outer=sgd(0.3)),
        lambda n: uniform(fedsgd(after(unadapted, n.loss), outer=sgd(0.3))),
        "parts",
    ),
    "ditto lam=0: fedavg": (lambda n: ditto(n.loss, lam=0), lambda n: fedavg(n.loss), "batches"),
    "apfl alpha=0: uniform fedavg": (
        lambda n: apfl(n.loss, alpha=0, alpha_lr=0),
        lambda n: uniform(fedavg(n.loss)),
        "batches",
    ),
    "fedrep head_epochs=0: fedbabu": (lambda n: fedrep(n.loss, head_epochs=0), lambda n: fedbabu(n.loss), "batches"),
    "pfedme beta=0: reptile epsilon=0": (
        lambda n: pfedme(n.loss, beta=0),
        lambda n: reptile(n.loss, epsilon=0),
        "batches",
    ),
    "fedmeta with one item and a server's sgd: per_fedavg": (
        lambda n: fedmeta(n.loss, lr=0.1, outer=sgd(0.3)),
        lambda n: uniform(
            replace(
                per_fedavg(n.loss, alpha=0.1),
                client=fedsgd(after(gradient_steps(n.loss, lr=0.1), n.loss)).client,
                server=fedsgd(n.loss, outer=sgd(0.3)).server,
            )
        ),
        "parts",
    ),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@every_engine
def test_zero_hyper_parameters(name: str, kind: type[OneByOne]) -> None:
    """The parameters after a round are the parent's."""
    child, parent, items = REDUCTIONS[name]
    a, b = (
        run(Row(name, make, items), kind(clients(items)), count=1).rounds[-1].state.params for make in (child, parent)
    )
    assert apart({n: p for n, p in a.items() if not n.startswith(RATE)}, b) <= TOLERANCE


STILL: dict[str, tuple[Make, str]] = {
    "fedsgd": (lambda n: fedsgd(n.loss, outer=sgd(0.0)), "full"),
    "fedavg, local": (lambda n: fedavg(n.loss, local=sgd(0.0)), "batches"),
    "fedavg, outer": (lambda n: fedavg(n.loss, outer=sgd(0.0)), "batches"),
    "fedprox": (lambda n: fedprox(n.loss, local=sgd(0.0)), "batches"),
    "fednova, local": (lambda n: fednova(n.loss, mu=0.5, local=sgd(0.0)), "batches"),
    "fednova, outer": (lambda n: fednova(n.loss, outer=sgd(0.0)), "batches"),
    "scaffold": (lambda n: scaffold(n.loss, local=sgd(0.0)), "batches"),
    "fedavgm": (lambda n: fedavgm(n.loss, eta=0.0), "batches"),
    "fedadagrad": (lambda n: fedadagrad(n.loss, eta=0.0), "batches"),
    "fedadam": (lambda n: fedadam(n.loss, eta=0.0), "batches"),
    "fedyogi": (lambda n: fedyogi(n.loss, eta=0.0), "batches"),
    "reptile": (lambda n: reptile(n.loss, epsilon=0.0), "episode_batches"),
    "fedmeta": (lambda n: fedmeta(n.loss, outer=adam(0.0)), "parts"),
    "per_fedavg": (lambda n: per_fedavg(n.loss, local=sgd(0.0)), "parts"),
    "meta_sgd": (lambda n: meta_sgd(n.loss, outer=sgd(0.0)), "parts"),
    "anil": (lambda n: anil(n.loss, outer=sgd(0.0)), "parts"),
    "fed_proto": (lambda n: fed_proto(n.loss, n.features, ways=CLASSES, outer=sgd(0.0)), "episodes"),
    "fed_ridge": (lambda n: fed_ridge(n.loss, n.features, ways=CLASSES, outer=sgd(0.0)), "episodes"),
    "pfedme": (lambda n: pfedme(n.loss, inner=sgd(0.0)), "batches"),
    "ditto": (lambda n: ditto(n.loss, local=sgd(0.0), personal=sgd(0.0)), "batches"),
    "fedper": (lambda n: fedper(n.loss, local=sgd(0.0)), "batches"),
    "fedrep": (lambda n: fedrep(n.loss, local=sgd(0.0)), "batches"),
    "fedbabu": (lambda n: fedbabu(n.loss, outer=sgd(0.0)), "batches"),
    "lg_fedavg": (lambda n: lg_fedavg(n.loss, local=sgd(0.0)), "batches"),
    "apfl": (lambda n: apfl(n.loss, alpha_lr=0.0, local=sgd(0.0), personal=sgd(0.0)), "batches"),
    "local": (lambda n: local(n.loss, local=sgd(0.0)), "batches"),
    "centralised": (lambda n: centralised(n.loss, local=sgd(0.0)), "batches"),
}


@pytest.mark.parametrize("name", STILL)
@every_engine
def test_with_a_rate_of_zero_nothing_moves(name: str, kind: type[OneByOne]) -> None:
    """Up to rounding of the mean: Σp·θ with Σp = 1. And clients keep what they began with."""
    make, items = STILL[name]
    row = Row(name, make, items, by_hand)
    past = run(row, kind(clients(items)), count=1)
    assert apart(past.rounds[-1].state.params, row.start.params) <= 1e-15
    for kept in past.memories[-1].values():
        assert apart(kept, row.algorithm.remember(row.algorithm.send(row.start, 0))) == 0


@every_engine
def test_one_client_is_plain_training(kind: type[OneByOne]) -> None:
    """FedAvg of one client with a server rate of 1 is centralised training of that client, and local training
    too."""
    rows = [
        Row("fedavg", lambda n: fedavg(n.loss), "batches"),
        Row("centralised", lambda n: centralised(n.loss), "batches"),
        Row("local", lambda n: local(n.loss), "batches"),
    ]
    only = clients("batches")
    only.clients = range(1)
    averaged, pooled, alone = (run(row, kind(only), cohort=None) for row in rows)
    assert apart(averaged.rounds[-1].state.params, pooled.rounds[-1].state.params) <= 1e-14
    assert apart(alone.memories[-1][0], pooled.rounds[-1].state.params) <= 1e-14
