"""The law table: every algorithm (see `rows`) × every engine × what must hold for all of them.

Everything is in float64; where "bit for bit" is not said, differences
are at most 1e-10. Clients are ragged: 9 to 17 examples, 1 to 5 items, short last batches; four of six take
part in a round.
"""

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seedbed import tree
from seedbed.aggregation import make_rule, mean
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.algorithms.fedavg import fedavg
from seedbed.algorithms.local import local
from seedbed.engines import ClientStateStore, OneByOne, Processes, Vectorised
from seedbed.errors import InputError
from seedbed.executors.factored import FactoredExecutor
from seedbed.executors.fused import FusedExecutor
from seedbed.executors.fused.triton_launch import missing_requirements
from seedbed.executors.loop import loop_executor
from seedbed.federated import Message, Replies
from seedbed.learning.optimizers import sgd
from seedbed.learning.training import GATHERING, LocalWork, TrainResult
from seedbed.privacy.secure import FixedPointGrid, MaskedSums, PlainSums, SecureSumEngine, SharedSums, WeightedEncoding
from seedbed.privacy.secure.mechanisms import SumMechanism
from seedbed.rounds.synchronous import gather

from .bench import (
    KINDS,
    SIZES,
    TOLERANCE,
    Padded,
    Past,
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
from .rows import REDUCTIONS, ROWS, STILL
from .rows_averaging import pooled_law

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


# The rows whose clients an executor trains, wholly or in part, where the network is an nn.Module.
FUSED = {
    *("fedavg", "fedavg-momentum, finetuned", "fedprox", "fedavgm", "fedavgm-nesterov", "fedadagrad"),
    *("fedadagrad-corrected", "fedadam", "fedadam-corrected", "fedyogi", "fedyogi-corrected", "local"),
    *("local-finetuned", "reptile", "ditto", "ditto-adam", "fedper", "fedper-adam", "lg_fedavg", "fedasync"),
    *("fedasync-hinge", "fedbuff", "pfedhn", "pfedhn-personal head, linear", "fed_eb", "fed_eb-slopes"),
}
FACTORED = {
    *("fednova", "fednova-schedule", "centralised", "fedbn", "fedbn-adam", "fedrep", "fedbabu", "fedbabu-head"),
    *("distill", "distill-adam", "feddf", "feddf-one architecture", "fedmd", "fedmd-labels, momentum", "fd"),
    *FUSED,
}
# And those whose clients send a mean gradient, through inner steps and solved heads too, that is a sum of rows.
GATHERED = {
    *("fedsgd", "fedsgd-adam", "fedmeta-exact", "fedmeta-first", "per_fedavg-exact"),
    *("per_fedavg-first", "anil", "anil-first", "fed_proto", "fed_proto-finetuned", "fed_ridge", "fed_ridge-finetuned"),
    *("fed_lr", "fed_lr-finetuned", "fed_metaoptnet", "fed_metaoptnet-smoothed, finetuned", "fed_metaoptnet-ridge"),
    *("fed_lbfgs", "dpsgd", "dpsgd-adam", "push_sum", "push_sum-momentum", "dif_maml", "dif_maml-first"),
}


@every_row
def test_executors_agree_or_refuse_by_name(row: Row) -> None:
    """A round by each executor is the reference's, whatever the algorithm; and it is the executor that has trained
    (`FACTORED`, `FUSED`), or it says what it cannot, and another way is taken. The networks are nn.Modules."""
    row = replace(row, net=module) if row.net is by_hand else row
    want, trains = run(row, OneByOne(clients(row.items)), count=1), []

    def loop(local: LocalWork) -> TrainResult:
        trains.append(local)
        return loop_executor(local)

    assert runs_apart(want, run(row, OneByOne(clients(row.items), executor=loop), count=1)) <= 1e-12
    if not trains:
        return
    asked: list[tuple[Any, type[OneByOne | Vectorised], set[str]]] = [
        (FactoredExecutor(always=True), OneByOne, FACTORED | GATHERED)
    ]
    if any(local.optimizer is not GATHERING for local in trains):
        asked += [(FusedExecutor(), Vectorised, FUSED), (FusedExecutor(compiled=False), Vectorised, FUSED)]
        if missing_requirements(torch.float64, torch.device("cpu")) is None:  # TRITON_INTERPRET=1: see proofs/blocks.py
            asked.append((FusedExecutor(blocks=True), Vectorised, FUSED))
    for executor, kind, rows in asked:
        assert runs_apart(want, run(row, kind(clients(row.items), executor=executor), count=1)) <= 1e-12
        assert (executor.trained > 0) == (str(row) in rows)
        assert executor.trained or executor.refused
        assert not (isinstance(executor, FusedExecutor) and executor.batched)


@every_row
def test_workers_change_nothing(row: Row) -> None:
    """Threads of one_by_one: bit for bit."""
    side_by_side = run(row, OneByOne(clients(row.items), workers=3), count=2)
    assert runs_apart(first(2, reference(row, OneByOne)), side_by_side) == 0


@pytest.mark.slow
@every_row
def test_processes_change_nothing(row: Row) -> None:
    """Two worker processes of one_by_one, which are the executors `loop` and `factored` in processes: bit for bit.

    What clients keep goes there and back, in the second round."""
    past = reference(row, OneByOne)
    count = 2 if past.memories[0] else 1
    shared = run(row, Processes(OneByOne(clients(row.items), workers=2)), count=count)
    assert runs_apart(first(count, past), shared) == 0


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
def test_summed_behind_masks_is_summed_in_the_open(row: Row) -> None:
    """Every algorithm that sends a sum under secure aggregation, with nothing of it in the algorithm: masks and shares
    give bit for bit what the arithmetic alone does, and the floats' rounds to a few steps of the grid (here 2⁻⁴³).
    What is no sum over all is refused."""
    encoding = WeightedEncoding(FixedPointGrid(clip=16.0, bits=48, cap=max(SIZES)))

    def summed(form: SumMechanism) -> Past:
        return run(row, SecureSumEngine(OneByOne(clients(row.items)), encoding, form), count=1)

    if row.bare or not row.algorithm.reduce.linear:
        with pytest.raises(InputError, match=row.bare or "only sees sums"):
            summed(MaskedSums())
        return
    plain, masked, shared = (summed(form) for form in (PlainSums(), MaskedSums(), SharedSums()))
    assert runs_apart(plain, masked) == 0
    assert runs_apart(plain, shared) == 0
    assert runs_apart(first(1, reference(row, OneByOne)), masked) <= 1e-7


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
def test_what_is_kept_on_disk_is_what_is_kept(row: Row, tmp_path: Path) -> None:
    """Every algorithm whose clients keep something, whatever its structure: bit for bit."""
    past = first(2, reference(row, OneByOne))
    if not past.memories[0]:
        pytest.skip("its clients keep nothing")
    assert runs_apart(past, run(row, OneByOne(clients(row.items), kept=ClientStateStore(tmp_path)), count=2)) == 0


ONE_ROUNDING = 2.3e-16  # some processors multiply and add at once in one of two equal steps, and not in the other


@every_row
@every_engine
def test_a_cohort_of_one_is_that_client_alone(row: Row, kind: type[OneByOne]) -> None:
    """The mean over one is that one, or its message alone where the server needs each: server(state, client's
    message), the client run by hand."""
    algorithm, state, engine = row.algorithm, row.start, kind(clients(row.items))
    got = run(row, engine, count=1, cohort=1)
    [c] = got.rounds[0].clients
    sent = algorithm.send(state, c)
    task = tree.index(clients(row.items).tasks([c], 0), 0)
    with torch.no_grad():  # as the engine does
        message, kept = algorithm.client(sent, algorithm.remember(sent), task)
    value = algorithm.reduce(tree.stack([message.value]), message.weight[None])
    replies = Replies(value, [c], len(SIZES), torch.zeros(1), message.weight[None], dict(message.info))
    error = apart(
        (got.rounds[0].state, dict(got.rounds[0].info)),
        (algorithm.server(state, replies), dict(message.info)),
    )
    if tree.leaves(kept):
        error = max(error, apart(got.memories[0], {c: kept}))
    assert error <= (ONE_ROUNDING if kind is OneByOne else TOLERANCE)


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
    threads = OneByOne(clients(row.items), workers=3)
    threads.recall(reference(row, OneByOne).memories[-1])
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
    """States, messages and memories hold finite numbers, float64 or the labels' whole ones, and drag no autograd graph
    along."""
    past, algorithm = reference(row, kind), row.algorithm
    state, engine = past.rounds[-1].state, trained(row, kind)
    messages = [g.messages for g in engine.ask(algorithm, dict.fromkeys((1, 4), algorithm.send(state, 0)), 3)]
    found = tree.leaves((state, messages, past.memories[-1]))
    assert all(torch.isfinite(x).all() for x in found)
    assert {x.dtype for x in found if x.dtype != torch.int64} == {torch.float64}
    assert not any(x.requires_grad for x in found)
    assert all((m.weight > 0).all() for m in messages)


# ---- robust rules in the place of the mean --------------------------------------------------------------------

RULES = {  # of a cohort of four, for bulyan too
    "median": {},
    "trimmed_mean": {"f": 1},
    "geometric_median": {},
    "krum": {"f": 0},
    "multi_krum": {"f": 0, "keep": 3},
    "bulyan": {"f": 0},
    "centered_clipping": {},
    "norm_bounding": {},
    "nnm+trimmed_mean": {"f": 1},
}
every_summed_row = pytest.mark.parametrize("row", [row for row in ROWS if row.name != "centralised"], ids=str)


def _skip_unless_rules_make_sense(row: Row) -> None:
    if row.algorithm.reduce is not mean or row.algorithm.unlike:
        pytest.skip("its server reduces by a rule of its own, or messages are unlike")


@every_summed_row
def test_trimming_nothing_is_the_mean(row: Row) -> None:
    """f = 0, clients counted by their weights: two rounds of the mean."""
    _skip_unless_rules_make_sense(row)
    algorithm = replace(row.algorithm, reduce=make_rule("trimmed_mean", f=0, weighted=True))
    trimmed = run(row, Vectorised(clients(row.items), chunk=3), algorithm=algorithm, count=2)
    assert runs_apart(first(2, reference(row, OneByOne)), trimmed) <= TOLERANCE


@every_summed_row
def test_engines_agree_under_robust_rules_in_any_order(row: Row) -> None:
    """From where three rounds of the mean have led: on one engine in two orders bit for bit, on the other too; and the
    server makes a finite step of what every rule gives."""
    algorithm, state, asked = row.algorithm, reference(row, OneByOne).rounds[-1].state, []
    _skip_unless_rules_make_sense(row)
    for engine, order in (
        (trained(row, OneByOne), [0, 2, 4, 5]),
        (trained(row, OneByOne), [4, 0, 5, 2]),
        (Vectorised(clients(row.items), chunk=3), [5, 4, 2, 0]),
    ):
        engine.recall(reference(row, OneByOne).memories[-1])
        asked.append(list(engine.ask(algorithm, {c: algorithm.send(state, c) for c in order}, 7)))
    for name, settings in RULES.items():
        ruled = replace(algorithm, reduce=make_rule(name, **settings))
        found = [gather(ruled, groups, len(SIZES)) for groups in asked]
        assert [replies.clients for replies in found] == [[0, 2, 4, 5]] * 3
        values = [(replies.value, replies.weights) for replies in found]
        assert apart(values[0], values[1]) == 0, name
        assert apart(values[0], values[2]) <= 1e-9, name
        assert tree.is_finite(ruled.server(state, found[0])), name


# ---- a hyper-parameter of zero is the parent -------------------------------------------------------------


@pytest.mark.parametrize("name", REDUCTIONS)
@every_engine
def test_zero_hyper_parameters(name: str, kind: type[OneByOne]) -> None:
    """The parent's parameters are the same after a round; the child may have others beside them."""
    child, parent, items = REDUCTIONS[name]
    a, b = (
        run(Row(name, make, items), kind(clients(items)), count=1).rounds[-1].state.params for make in (child, parent)
    )
    assert apart({n: a[n] for n in b}, b) <= TOLERANCE


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
        Row("centralised", lambda n: pooled_law(n, sgd(0.1)), "batches"),
        Row("local", lambda n: local(n.loss), "batches"),
    ]
    only = clients("batches")
    only.clients = range(1)
    averaged, pooled, alone = (run(row, kind(only), cohort=None) for row in rows)
    assert apart(averaged.rounds[-1].state.params, pooled.rounds[-1].state.params) <= 1e-14
    assert apart(alone.memories[-1][0], pooled.rounds[-1].state.params) <= 1e-14
