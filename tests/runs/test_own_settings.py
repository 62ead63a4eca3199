"""Rates over rounds, cohorts, weights and clients' own settings, from settings to what is computed."""

from pathlib import Path
from typing import Any

import pytest

from seedbed import tree
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.errors import InputError
from seedbed.experiments.launch import plan_run
from seedbed.federated import Algorithm

TINY = ["model.name=linear", "evaluation.episodes=1", "evaluation.shots=1", "evaluation.curve=false",
        "evaluation.baselines=false", "rounds=4", "cohort=3", "hold_out=0"]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six clients of eight rows; the table says what two of them have of their own."""
    rows = [f"c{i % 6},{(i * 7) % 5},{(i * 3) % 4},{'ab'[i % 2 if i % 5 else 1]},{1 + i % 6}" for i in range(48)]
    path = tmp_path / "data.csv"
    path.write_text("client,x,z,label,work\n" + "\n".join(rows) + "\n")
    (tmp_path / "own.csv").write_text("client,work,rate,batch\nc0,5,.4,2\nc3,1,,8\n")
    return path


def planned(data: Path, *settings: str, name: str = "fedavg") -> Any:
    return plan_run({"algorithm": name, "data": str(data)}, [*TINY, *settings], None, specific=False)


def training(experiment: Any, name: str = "fedavg") -> tuple[Algorithm, Any, Any]:
    """The algorithm as known clients train by it, its start, and their tasks."""
    model = experiment.learner.model(CATALOGUE[name])
    source = experiment.source(name, experiment.train, experiment.settings.options)
    clients = source.population.names
    algorithm = experiment.learner.algorithm(name, model, options=experiment.settings.options, clients=clients)
    return algorithm, algorithm.init(model.params), source


def test_a_schedule_of_local_rates_counts_rounds(data: Path) -> None:
    experiment = planned(data, "local.schedule=cosine", "local.schedule.warmup=1")
    algorithm, state, _ = training(experiment)
    factors = []
    for round in range(4):
        state.extra["rounds"].fill_(round)
        factors.append(float(algorithm.send(state, 0).extra["factors"]["local"]))
    assert factors == pytest.approx([1, 1, 0.75, 0.25])  # over the run's 4 rounds


def test_clients_work_as_the_table_says(data: Path) -> None:
    """Steps and batch sizes of the tasks, and the rate over that of all, by name: whoever has a number."""
    own = f"own.table={data.with_name('own.csv')}"
    experiment = planned(
        data, own, "own.steps=work", "own.lr=rate", "own.size=batch", "task.batch_size=4", "task.steps=3"
    )
    algorithm, state, source = training(experiment)
    for client, name in zip(source.clients, source.population.names, strict=True):
        task = source.tasks([client], 0)
        size = int(task.items.mask[0, 0].sum())
        factor = float(algorithm.send(state, client).extra["factors"]["local"])
        want = {"c0": (5, 2, 4.0), "c3": (1, 8, 1.0)}.get(name, (3, 4, 1.0))
        assert (int(task.steps[0] if task.steps.ndim else task.real.sum()), size, round(factor, 6)) == want


def test_a_column_of_the_data_is_a_table_too(data: Path) -> None:
    experiment = planned(data, "own.steps=work", "reader.ignore=['work']")
    _, _, source = training(experiment)
    for client, name in zip(source.clients, source.population.names, strict=True):
        assert int(source.tasks([client], 0).real.sum()) == 1 + int(name[1:])


@pytest.mark.parametrize(
    ("table", "settings", "words"),
    [
        ("client,work\nc0,x\n", "own.steps=work", ["line 2", "own.steps='x' of client 'c0'", "whole number"]),
        ("client,work\nc0,1.5\n", "own.steps=work", ["own.steps=1.5", "whole number"]),
        ("client,work\nc0,1\nc0,2\n", "own.steps=work", ["line 3", "'c0'", "one value"]),
        ("client,work\nzz,1\n", "own.steps=work", ["'zz'", "the data have not"]),
        ("client,work\nc0,-1\n", "own.lr=work", ["own.lr=-1", "rate from 0 up"]),
        ("client,work\nc0,1\n", "own.steps=wrok", ["no column 'wrok'", "client, work"]),
        ("client,work\nc0,1\n", "own.client=name own.steps=work", ["no column 'name'"]),
        ("client,work\nc0,1\n", "", ["says nothing"]),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(data: Path, table: str, settings: str, words: list[str]) -> None:
    data.with_name("bad.csv").write_text(table)
    with pytest.raises(InputError) as error:
        planned(data, f"own.table={data.with_name('bad.csv')}", *settings.split())
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("fedsgd", "own.lr=rate", ["fedsgd", "no local.lr"]),
        ("fedsgd", "own.steps=work", ["no mini-batches"]),
        ("fedmeta", "own.size=batch", ["no mini-batches"]),
        ("fedbuff", "cohort_by=examples", ["draw no cohorts"]),
        ("fedavg", "replacement=true privacy.epsilon=1", ["cohorts that it draws itself"]),
        ("fedavg", "replacement=true reduce=median", ["counts each message once"]),
        ("centralised", "weights=uniform", ["one client has all data"]),
        ("fed_lbfgs", "weights=uniform", ["line search"]),
        ("fedmd", "digest.schedule=cosine public=0.1", ["digest.schedule", "local.schedule or outer.schedule"]),
    ],
)
def test_what_means_nothing_is_refused(data: Path, name: str, settings: str, words: list[str]) -> None:
    table = f"own.table={data.with_name('own.csv')}" if "own." in settings else "rounds=4"
    with pytest.raises(InputError) as error:
        planned(data, table, *settings.split(), name=name)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("weights", ["uniform", "examples"])
@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_weights_from_settings(data: Path, weights: str, name: str) -> None:
    algorithm, state, source = training(planned(data, f"weights={weights}", name=name), name)
    task = tree.index(source.tasks([0], 0), 0)
    sent = algorithm.send(state, 0)
    message, _ = algorithm.client(sent, algorithm.remember(sent), task)
    assert float(message.weight) == (1 if weights == "uniform" else float(task.examples))


@pytest.mark.slow
def test_a_run_with_all_of_it_is_resumed_bit_for_bit(data: Path, tmp_path: Path) -> None:
    from tests.end_to_end.bench import kept, seedbed

    words = ("run", "--data", data, "--algorithm", "scaffold", "--rounds", "4", "--set", "checkpoint_seconds=0")
    for assignment in (*TINY[:-3], "cohort=3", "cohort_by=examples", "replacement=true", "weights=examples",
                       "local.schedule=exponential", "local.schedule.warmup=2", "own.steps=work"):  # fmt: skip
        words += ("--set", assignment)
    assert seedbed(*words, "--out", tmp_path / "a").code == 0
    assert seedbed(*words, "--out", tmp_path / "b").code == 0
    assert kept(tmp_path / "a") == kept(tmp_path / "b")
