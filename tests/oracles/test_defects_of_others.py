"""Defects that were found in other projects, and what here would catch each of them.

| defect | where | caught by |
|---|---|---|
| "MAML" is first-order: the graph is cut (`param.data = ...`) | Flower, FedMeta | here; test_fedmeta, test_anil |
| Meta-SGD's rates are given θ's gradient | Flower, FedMeta | here; test_meta_sgd: a_rate_has_its_own_gradient |
| the server's Adam is made anew in each round | Flower, FedMeta | here; test_fedmeta: the_servers_adam_goes_on |
| bias correction with the exponent round + 1 | Flower, FedAdam | here |
| FedAsync, FedBuff, CFL: files without a line | FedLab | agreement: engines_agree, every round moves something |
| FedNova's length counts the pull twice | authors, FedNova.py | test_fednova: momentum_and_pull_are_not_counted_twice |
| FedNova's τ_eff counts steps under the pull | authors, FedNova.py | test_fednova: of_equal_steps_it_is_fedprox |
| Per-FedAvg: first order only, weights n_i, epochs twice | PFLlib | here |
| Per-FedAvg adapts on a batch of the test set | authors of pFedMe | here, for all that adapt |
| a weight decay of 1e-3 that no paper has | authors of pFedMe | test_pfedme: no_hidden_weight_decay |
| Reptile is FedAvg with another evaluation | pfl-research | test_reptile: outer_steps_on_quadratics |
| MAML stands in a benchmark's settings only | FederatedScope | end_to_end: every_algorithm_runs_end_to_end |
| SCAFFOLD's control variates stay 0 | FL-bench | here; test_scaffold: rounds_are_algorithm_1 |
| SCAFFOLD's server variate is not in the checkpoint | pfl-research | here |
| FedProx's term is not squared | several | test_fedprox: the_term_is_the_squared_distance |
| p_i over all clients, so that the model shrinks | several | test_averaging: the_mean_is_over_those_that_took_part |
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seedbed import tree
from seedbed.algorithms.anil import anil
from seedbed.algorithms.apfl import apfl
from seedbed.algorithms.ditto import ditto
from seedbed.algorithms.fed_proto import fed_proto
from seedbed.algorithms.fed_ridge import fed_ridge
from seedbed.algorithms.fedadam import fedadam
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.fedbabu import fedbabu
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.algorithms.fedper import fedper
from seedbed.algorithms.meta_sgd import meta_sgd
from seedbed.algorithms.per_fedavg import per_fedavg
from seedbed.algorithms.pfedme import pfedme
from seedbed.algorithms.scaffold import scaffold
from seedbed.data.types import Episode
from seedbed.engines import OneByOne
from seedbed.experiments.run_directory import RunDirectory
from seedbed.federated import Algorithm
from seedbed.learning.adaptations import gradient_steps
from seedbed.learning.optimizers import sgd
from seedbed.rounds import synchronous
from seedbed.serialization import fill_template

from .bench import (
    CLASSES,
    ENGINES,
    Given,
    apart,
    batch,
    bowl,
    bowls,
    episode,
    features,
    final,
    loss,
    network,
    rounds,
    sent_by,
    start,
    task,
)

ONCE = sgd(1.0)  # as an outer optimiser: the parameters after a round are those before minus the gradient
META: dict[str, Callable[[], Algorithm]] = {
    "fedmeta": lambda: fedmeta(loss, lr=0.3, steps=2, outer=ONCE),
    "per_fedavg": lambda: per_fedavg(loss, alpha=0.3, local=ONCE),  # one item: θ − θ_i is the gradient
    "meta_sgd": lambda: meta_sgd(loss, lr=0.3, steps=2, outer=ONCE),
    "anil": lambda: anil(loss, lr=0.3, steps=2, outer=ONCE),
    "fed_proto": lambda: fed_proto(loss, features, ways=CLASSES, outer=ONCE),
    "fed_ridge": lambda: fed_ridge(loss, features, ways=CLASSES, outer=ONCE),
}


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_graph_is_not_cut_on_any_engine(name: str, engine: Any) -> None:
    """A round of two clients steps along the gradient of F(θ) = mean_i L(adapt(θ, support_i); query_i).

    So for any direction d, ⟨θ − θ', d⟩ = [F(θ + hd) − F(θ − hd)]/2h + O(h²), on a network that is no quadratic.
    Flower's inner step writes to `.data`: its gradient is that of the adapted model, which this would show at the first
    digit. For Meta-SGD, d moves the rates as well: a rate that is given θ's gradient fails. Heads that were solved
    outside the graph would lose what the support set teaches the body. The engine must not cut either: it runs clients
    under no_grad, or vmapped.
    """
    algorithm, episodes = META[name](), [episode(1), episode(2)]
    before = algorithm.init(network())
    after = final(
        algorithm, [task(e, examples=n) for e, n in zip(episodes, (3, 8), strict=True)], network(), engine=engine
    )

    def objective(params: Any) -> Tensor:
        adapted = [algorithm.personalise(params, {}, e.support) for e in episodes]
        return torch.stack([loss(p, e.query) for p, e in zip(adapted, episodes, strict=True)]).mean()

    g = torch.Generator().manual_seed(3)
    d = tree.map(lambda x: torch.randn(x.shape, generator=g), before.params)
    h = 1e-5
    slope = (objective(tree.axpy(h, d, before.params)) - objective(tree.axpy(-h, d, before.params))) / (2 * h)
    assert abs(tree.dot(tree.sub(before.params, after.params), d) - slope) < 1e-7 * (1 + abs(slope))


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_first_order_is_another_gradient(rate: float) -> None:
    """PFLlib has Per-FedAvg in first order only: on a network exact, Hessian-free and first order are told apart.

    (I − α∇²L)∇L − ∇L = −α∇²L∇L, of the order of α; the Hessian-free difference errs by δ² only.
    """
    made = {
        order: sent_by(per_fedavg(loss, alpha=rate, order=order), task(episode(1)), network())  # type: ignore[arg-type]
        for order in ("exact", "first", "hessian_free")
    }
    assert apart(made["exact"], made["first"]) > 1e-3 * rate
    assert apart(made["exact"], made["hessian_free"]) < 1e-5


def test_per_fedavg_weighs_every_client_the_same_and_looks_at_an_item_once() -> None:
    """PFLlib weighs by n_i and runs twice the epochs: here the weight is 1, and K items are K steps.

    Two steps on items 1, 2 are a step on item 1, then one on item 2 from where the first has led.
    """
    algorithm, items = per_fedavg(loss, alpha=0.2, local=sgd(0.1)), (episode(1), episode(2))
    message, _ = algorithm.client(network(), {}, task(*items, examples=17))
    assert float(message.weight) == 1
    first = tree.sub(network(), sent_by(algorithm, task(items[0]), network()))
    second = tree.sub(first, sent_by(algorithm, task(items[1]), first))
    assert apart(message.value, tree.sub(network(), second)) < 1e-14


def test_bias_correction_counts_the_first_round_as_the_first() -> None:
    """m/(1−β1) = Δ and √(v/(1−β2)) = |Δ| in round 1 (initial 0), so that the first step is η·Δ/(|Δ| + τ).

    Flower divides by 1−β² in its first round (exponent round + 1, rounds counted from 1): a step of (1−β1)/(1−β1²)
    times the square root of (1−β2²)/(1−β2): 0.74 of this one.
    """
    eta, tau, A, c = 0.1, 1e-3, *bowls(1)[0].values()
    algorithm = fedadam(bowl, eta=eta, tau=tau, initial=0.0, bias_correction=True, local=sgd(0.2))
    delta = -0.2 * A @ (start()["w"] - c)
    got = final(algorithm, [task(bowls(1)[0])], start()).params["w"]
    assert apart(got, start()["w"] + eta * delta / (delta.abs() + tau)) < 1e-12


# ---- what must not be lost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [1, 2])
def test_scaffolds_variates_move(option: Any) -> None:
    """In FL-bench c and c_i are 0 for ever, so that it is FedAvg.

    Here, of clients of different optima, c and every c_i are away from 0 after a round, and the second round is not
    FedAvg's.
    """
    tasks, algorithm = [task(b, b) for b in bowls(3)], scaffold(bowl, option=option, local=sgd(0.2))
    engine = OneByOne(Given(tasks))
    schedule = synchronous(algorithm, engine, algorithm.init(start()))
    one, two = next(schedule).state, next(schedule).state
    assert float(one.extra["c"]["w"].abs().min()) > 1e-3
    assert all(float(c["w"].abs().min()) > 1e-3 for c in engine.memory().values())
    averaged = rounds(fedavg(bowl, local=sgd(0.2)), tasks, start(), count=2)[-1].state
    assert apart(two.params, averaged.params) > 1e-2


@pytest.mark.parametrize(
    "algorithm",
    [
        scaffold(bowl, local=sgd(0.2)),
        fedadam(bowl, local=sgd(0.2)),
        fedavg(bowl, local=sgd(0.2), outer=sgd(1, momentum=0.9)),
    ],
    ids=["scaffold", "fedadam", "momentum"],
)
def test_a_checkpoint_holds_all_that_goes_on(algorithm: Algorithm, tmp_path: Path) -> None:
    """Round 3 from a file written after round 2 is round 3 of the run that went on, bit for bit.

    pfl-research's checkpoints lack SCAFFOLD's server variate; Flower's FedMeta makes Adam anew in each round. Whatever
    of the server's state were not written, or not read, would make another third round: to be sure, one without does.
    """

    def engine() -> OneByOne:
        return OneByOne(Given([task(b, b) for b in bowls(3)]))

    first = engine()
    schedule = synchronous(algorithm, first, algorithm.init(start()))
    next(schedule)
    saved = next(schedule).state
    memory = {c: tree.map(torch.clone, kept) for c, kept in first.memory().items()}
    run = RunDirectory.create(tmp_path / "run", {})
    run.save("a", 2, {"state": saved, "kept": {str(c): kept for c, kept in memory.items()}})
    wanted = next(schedule).state

    found = run.latest("a")
    assert found is not None
    done, tensors = found
    state, second = fill_template(algorithm.init(start()), tensors, "state"), engine()
    second.recall(
        {c: fill_template(algorithm.remember(algorithm.send(state, c)), tensors, f"kept.{c}") for c in memory}
    )
    assert apart(next(synchronous(algorithm, second, state, done=done)).state, wanted) == 0
    forgotten = algorithm.init(state.params)
    second.recall(memory)
    assert apart(next(synchronous(algorithm, second, forgotten, done=done)).state.params, wanted.params) > 1e-4


# ---- judging -----------------------------------------------------------------------------------------------------

JUDGED: dict[str, Callable[[], Algorithm]] = META | {
    "fedavg": lambda: fedavg(loss, adapt=gradient_steps(loss, lr=0.1, steps=3)),
    "pfedme": lambda: pfedme(loss),
    "ditto": lambda: ditto(loss),
    "fedper": lambda: fedper(loss),
    "fedbabu": lambda: fedbabu(loss),
    "apfl": lambda: apfl(loss),
}


@pytest.mark.parametrize("name", JUDGED)
@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_adapts_on_what_it_is_judged_by(name: str, engine: Any) -> None:
    """The personal model is a function of the support set alone: with another query set it is the same, bit for bit.

    The pFedMe authors' Per-FedAvg adapts on a batch of the test set before it is scored on that set. The score here is
    a number of the model itself, which no query can change, and which another support set does change.
    """
    algorithm = JUDGED[name]()
    state = algorithm.init(network())

    def scored(support: int, query: int) -> float:
        judged = Given([task(Episode(batch(support), batch(query, 9)))])
        return float(engine(judged).evaluate(algorithm, state, judged, lambda p, _: tree.squared_norm(p))[0])

    assert scored(1, 2) == scored(1, 3)
    assert abs(scored(1, 2) - scored(4, 2)) > 1e-6
