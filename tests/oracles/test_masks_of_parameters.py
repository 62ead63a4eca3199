"""FedPer, FedRep, FedBABU and LG-FedAvg: which parameters are averaged, which stay, which do not move."""

import functools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedper import fedper, partly_shared
from seedbed.algorithms.fedrep import fedrep
from seedbed.algorithms.lg_fedavg import lg_fedavg
from seedbed.algorithms.local import local
from seedbed.data.types import Batch, Task
from seedbed.engines import OneByOne, Vectorised
from seedbed.errors import InputError
from seedbed.evaluation import as_newcomers
from seedbed.learning.adaptations import all_parameters, gradient_steps, unadapted
from seedbed.learning.heads import fresh_head
from seedbed.learning.optimizers import adam, sgd
from seedbed.learning.parameter_subsets import empty_part, inside_part, outside_part, part_named, train_part
from seedbed.learning.training import train

from .bench import ENGINES, HIDDEN, D, Given, apart, batch, bowls, final, loss, network, plain_loss, sent_by, task

EXAMPLES = (4.0, 1.0, 2.0)
BODY, HEAD = ("body.weight", "body.bias"), ("head.weight", "head.bias")
METHODS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {  # what makes it, shared, personal
    "fedper": (fedper, BODY, HEAD),
    "fedrep": (fedrep, BODY, HEAD),
    "fedbabu": (fedbabu, BODY, ()),
    "lg_fedavg": (lg_fedavg, HEAD, BODY),
}


@functools.cache
def work() -> list[list[Batch]]:
    """Three clients' batches."""
    return [[batch(0), batch(1)], [batch(2)], [batch(3), batch(4), batch(5)]]


@functools.cache
def clients() -> list[Task]:
    return [task(*mine, examples=n) for mine, n in zip(work(), EXAMPLES, strict=True)]


every_method = pytest.mark.parametrize("name", METHODS)


def run(algorithm: Any, count: int = 3, kind: Any = OneByOne, tasks: Any = None, params: Any = None) -> Any:
    """The state after so many rounds, and what clients keep."""
    tasks = tasks or clients()
    engine = kind(Given(tasks))
    state = final(algorithm, tasks, params or network(), count, lambda _: engine)
    return state, dict(engine.memory())


# ---- the same in ordinary PyTorch ------------------------------------------------------------------------


def plain_step(params: Any, b: Any, names: tuple[str, ...], lr: float) -> Any:
    """A gradient step of these parameters."""
    at = {n: p.clone().requires_grad_(n in names) for n, p in params.items()}
    slopes = torch.autograd.grad(plain_loss(at, b), [at[n] for n in names])
    return params | {n: params[n] - lr * s for n, s in zip(names, slopes, strict=True)}


def plain_learn(name: str, params: Any, mine: list[Any], lr: float) -> Any:
    """A client's round."""
    phases = {"fedrep": [HEAD, HEAD, BODY], "fedbabu": [BODY]}.get(name, [BODY + HEAD])
    for moving in phases:
        for b in mine:
            params = plain_step(params, b, moving, lr)
    return params


@every_method
@pytest.mark.parametrize("kind", ENGINES)
def test_rounds_as_in_plain_pytorch(name: str, kind: Any) -> None:
    """Three rounds, three clients of 4, 1 and 2 examples: the shared part is the weighted mean, the personal part
    each client's last, everything else as it began."""
    make, shared, personal = METHODS[name]
    theta, own = network(), [{n: network()[n] for n in personal} for _ in work()]
    for _ in range(3):
        ends = [plain_learn(name, theta | own[i], mine, 0.3) for i, mine in enumerate(work())]
        own = [{n: end[n] for n in personal} for end in ends]
        theta = theta | {n: sum(k / 7 * end[n] for k, end in zip(EXAMPLES, ends, strict=True)) for n in shared}
    algorithm = make(loss, local=sgd(0.3), **({"head_epochs": 2} if name == "fedrep" else {}))
    state, kept = run(algorithm, 3, kind)
    assert apart(state.params, theta) < 1e-13
    assert set(kept) == (set(range(3)) if personal else set())
    for c, mine in kept.items():
        assert apart(mine, own[c]) < 1e-13
    assert all(torch.equal(state.params[n], network()[n]) for n in network() if n not in shared)


# ---- what is sent ----------------------------------------------------------------------------------------


@every_method
def test_what_is_personal_is_never_sent(name: str) -> None:
    """The message holds the shared parameters' changes and no other name, not even zeros; the outer optimiser's
    state likewise. With the same shared part and other personal parameters it is of the same form."""
    make, shared, personal = METHODS[name]
    algorithm = make(loss, outer=adam(0.1))
    state = algorithm.init(network())
    message, kept = algorithm.client(state.params, algorithm.remember(state.params), clients()[0])
    assert tuple(message.value) == tuple(state.extra["mean"]) == shared
    assert tuple(kept) == tuple(algorithm.remember(state.params)) == personal
    assert message.info.keys() == {"loss"}
    assert apart(tree.zeros_like(message.value), message.value) > 1e-3


@every_method
def test_a_client_first_seen_has_the_initial_personal_part(name: str) -> None:
    """In whatever round: it is sent along unchanged, and is a function of what is sent alone."""
    make, _, personal = METHODS[name]
    algorithm = make(loss)
    state, _ = run(algorithm, 4)
    first = algorithm.remember(state.params)
    assert tuple(first) == personal
    assert all(torch.equal(first[n], network()[n]) for n in personal)


# ---- identities ------------------------------------------------------------------------------------------


def split(personal: Any, learn: Any = None, **settings: Any) -> Any:
    """The part of all these methods that says which parameters are whose."""
    learn = learn or partial(train, loss, settings.get("local", sgd(0.1)))
    outer = settings.get("outer", sgd(1.0))
    return partly_shared(learn, shared=lambda n: not personal(n), personal=personal, outer=outer, adapt=unadapted)


@pytest.mark.parametrize("kind", ENGINES)
def test_an_empty_personal_part_is_fedavg(kind: Any) -> None:
    """Params and the outer optimiser's state, bit for bit."""
    for settings in ({}, {"local": sgd(0.2, momentum=0.9), "outer": adam(0.1)}):
        state, kept = run(split(empty_part, **settings), 3, kind)
        assert apart(state, run(fedavg(loss, **settings), 3, kind)[0]) == 0
        assert kept == {}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_full_personal_part_is_local_training(kind: Any) -> None:
    """Nothing is sent: what clients keep is what local training gives, bit for bit, and the server's start never
    moves."""
    state, kept = run(split(all_parameters, local=sgd(0.2, momentum=0.9)), 3, kind)
    assert apart(kept, run(local(loss, local=sgd(0.2, momentum=0.9)), 3, kind)[1]) == 0
    assert apart(state.params, network()) == 0
    assert sent_by(split(all_parameters), clients()[0], network()) == {}


def test_fedreps_phases_at_their_ends() -> None:
    """With no head pass it is FedBABU's round; with parts empty or full its phases are FedAvg and local training."""
    state, kept = run(fedrep(loss, head_epochs=0))
    assert apart(state, run(fedbabu(loss))[0]) == 0
    assert apart(kept, dict.fromkeys(range(3), part_named(network(), inside_part("head")))) == 0

    def phases(personal: Any) -> Any:
        def learn(params: Any, t: Any) -> Any:
            fitted = train_part(loss, sgd(0.1), params, t, moves=personal)
            return train_part(loss, sgd(0.1), fitted.params, t, moves=lambda n: not personal(n))

        return split(personal, learn)

    assert apart(run(phases(empty_part))[0], run(fedavg(loss))[0]) == 0
    assert apart(run(phases(all_parameters))[1], run(local(loss))[1]) == 0


def test_fedper_and_lg_fedavg_share_each_others_parts() -> None:
    """In a first round all begin alike and train alike: together they send all that FedAvg sends."""
    both = sent_by(fedper(loss), clients()[2], network()) | sent_by(lg_fedavg(loss), clients()[2], network())
    assert apart(both, sent_by(fedavg(loss), clients()[2], network())) == 0


@pytest.mark.parametrize("optimizer", [sgd(0.2), sgd(0.2, momentum=0.9, weight_decay=0.1), adam(0.05)], ids=repr)
def test_training_a_part(optimizer: Any) -> None:
    """As training a loss of that part alone, the others constant: they stay bit for bit, weight decay and all; and
    passes over the items are one pass over the items repeated."""
    still = part_named(network(), inside_part("body"))
    alone = train(
        lambda p, b: loss(still | p, b), optimizer, part_named(network(), inside_part("head")), task(*work()[0] * 2)
    )
    trained = train_part(loss, optimizer, network(), clients()[0], moves=inside_part("head"), epochs=2)
    assert tuple(trained.params) == tuple(network())
    assert apart(part_named(trained.params, inside_part("head")), alone.params) == 0
    assert apart(part_named(trained.params, outside_part("head")), still) == 0


# ---- fixed points on quadratics of body [2] and head [1]: L = ½(w − c)ᵀA(w − c), w = (body, head) ---------

NAMES = {"body.w": slice(0, 2), "head.w": slice(2, D)}


def halves(params: Any, item: Any) -> Tensor:
    """The loss of a quadratic item in the body and the head."""
    away = torch.cat([params["body.w"], params["head.w"]]) - item["c"]
    return 0.5 * away @ item["A"] @ away


def schur(item: Any, kept: slice, gone: slice) -> Tensor:
    """The curvature of min over `gone` as a function of `kept`: A_kk − A_kg A_gg⁻¹ A_gk; the minimum is at c_k."""
    a = item["A"]
    return a[kept, kept] - a[kept, gone] @ torch.linalg.solve(a[gone, gone], a[gone, kept])


@pytest.mark.parametrize("name", ["fedper", "fedrep", "lg_fedavg"])
def test_the_shared_part_solves_the_joint_problem(name: str) -> None:
    """At rest every client's personal part is the best under the shared one, and Σp_i ∂L_i/∂shared = 0: so with one
    step a round the shared part minimises Σp_i min_own L_i, that is s = (Σp_iS_i)⁻¹Σp_iS_ic_i with the Schur
    complements S_i, and own_i = c_o − A_oo⁻¹A_os(s − c_s)."""
    shared, own = ("head.w", "body.w") if name == "lg_fedavg" else ("body.w", "head.w")
    s, o = NAMES[shared], NAMES[own]
    p = torch.tensor(EXAMPLES) / sum(EXAMPLES)
    complements = [q * schur(i, s, o) for q, i in zip(p, bowls(3), strict=True)]
    pulls = sum(m @ i["c"][s] for m, i in zip(complements, bowls(3), strict=True))
    want = torch.linalg.solve(sum(complements), pulls)  # type: ignore[call-overload]
    tasks = [task(i, examples=n) for i, n in zip(bowls(3), EXAMPLES, strict=True)]
    begin = {"body.w": torch.ones(2), "head.w": torch.ones(1)}
    state, kept = run(METHODS[name][0](halves, local=sgd(0.5)), 250, Vectorised, tasks, begin)
    assert apart(state.params[shared], want) < 1e-12
    for c, item in enumerate(bowls(3)):
        best = item["c"][o] - torch.linalg.solve(item["A"][o, o], item["A"][o, s] @ (want - item["c"][s]))
        assert apart(kept[c][own], best) < 1e-12


def test_fedbabus_body_solves_its_problem_under_the_first_head() -> None:
    """Σp_i[A_bb(b − c_b) + A_bh(h₀ − c_h)] = 0 with the head h₀ that all began with, which never moves."""
    b, h = NAMES["body.w"], NAMES["head.w"]
    p = torch.tensor(EXAMPLES) / sum(EXAMPLES)
    begin = {"body.w": torch.ones(2), "head.w": torch.full((1,), -0.7)}
    curvature, pulls = torch.zeros(2, 2), torch.zeros(2)
    for q, i in zip(p, bowls(3), strict=True):
        curvature = curvature + q * i["A"][b, b]
        pulls = pulls + q * (i["A"][b, b] @ i["c"][b] - i["A"][b, h] @ (begin["head.w"] - i["c"][h]))
    tasks = [task(i, examples=n) for i, n in zip(bowls(3), EXAMPLES, strict=True)]
    state, kept = run(fedbabu(halves, local=sgd(0.5)), 150, Vectorised, tasks, begin)
    assert apart(state.params["body.w"], torch.linalg.solve(curvature, pulls)) < 1e-12
    assert torch.equal(state.params["head.w"], begin["head.w"])
    assert kept == {}


# ---- adapting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "moving"),
    [
        (fedper, HEAD),
        (fedrep, HEAD),
        (fedbabu, BODY + HEAD),
        (partial(fedbabu, tunes="head"), HEAD),
        (partial(fedbabu, tunes="body"), BODY),
        (lg_fedavg, BODY + HEAD),
    ],
    ids=["fedper", "fedrep", "fedbabu", "fedbabu-head", "fedbabu-body", "lg_fedavg"],
)
def test_adapting_is_gradient_steps_of_what_moves(make: Any, moving: tuple[str, ...]) -> None:
    """On the whole support set, from the shared part and the client's own; a newcomer's own is the initial one."""
    algorithm = make(loss, test_steps=3, test_lr=0.4)
    state, kept = run(algorithm)
    for own in (algorithm.remember(state.params), kept.get(1, {})):
        want = state.params | own
        for _ in range(3):
            want = plain_step(want, batch(8, 9), moving, 0.4)
        assert apart(algorithm.personalise(state.params, own, batch(8, 9)), want) < 1e-14
        none = make(loss, test_steps=0).personalise(state.params, own, batch(8))
        assert apart(none, state.params | own) == 0
    steps = gradient_steps(loss, lr=0.4, steps=3, moves=lambda n: n in moving)
    assert apart(algorithm.personalise(state.params, {}, batch(8)), steps(state.params, batch(8))) == 0


@every_method
def test_where_the_classes_are_new_everybody_is_a_newcomer(name: str) -> None:
    """A fresh head goes in place of the one that was sent; what a client keeps is about other classes and is left
    out: known clients and others get the same model."""
    algorithm = METHODS[name][0](loss, test_steps=3, test_lr=0.4)
    state, kept = run(algorithm)
    adapt = as_newcomers(algorithm, fresh_head(ways=2, width=HIDDEN)).personalise
    begun = state.params | {"head.weight": torch.zeros(2, HIDDEN), "head.bias": torch.zeros(2)}
    support = batch(8)._replace(y=batch(8).y % 2)
    got = adapt(state.params, algorithm.remember(state.params), support)
    assert apart(got, adapt(state.params, kept.get(0, {}), support)) == 0
    assert apart(got, algorithm.personalise(begun, algorithm.remember(begun), support)) == 0
    assert apart(got["head.weight"], begun["head.weight"]) > 1e-2


@every_method
def test_a_model_without_both_parts_is_refused(name: str) -> None:
    make = METHODS[name][0]
    with pytest.raises(InputError, match="all head"):
        make(loss).init(part_named(network(), inside_part("head")))
    with pytest.raises(InputError, match="head='classifier' names no parameters"):
        make(loss, head="classifier").init(network())
