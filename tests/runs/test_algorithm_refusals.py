"""What an algorithm cannot be combined with is refused; what names a learning rate names its value."""

from typing import Any

import pytest
import torch

import seedbed as sb
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.attacks.attack import PoisonedTasks
from seedbed.errors import Diverged, InputError
from seedbed.experiments.launch import plan_run
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.stages import Pipeline

TINY = ["model.name=linear", "evaluation.episodes=1", "evaluation.shots=1", "evaluation.curve=false", "rounds=4"]
NEEDS_MEAN = [name for name, entry in CATALOGUE.items() if entry.needs_mean]


def planned(name: str, *settings: str) -> Any:
    return plan_run({"algorithm": name, "data": "digits"}, [*TINY, *settings], None, specific=False)


@pytest.mark.parametrize("name", NEEDS_MEAN)
@pytest.mark.parametrize("rule", ["reduce=krum", "reduce=median", "reduce=fltrust", "reduce.momentum=0.5"])
def test_a_rule_is_refused_where_the_server_needs_the_mean(name: str, rule: str) -> None:
    public = ["public=0.1"] if CATALOGUE[name].takes("public") else []
    with pytest.raises(InputError, match=rf"^reduce.* does not work with {name}: .*or drop reduce"):
        planned(name, rule, *public, "model.name=mlp")


@pytest.mark.parametrize(("name", "labels"), [("fedavg", 10), ("fedsgd", 10), ("fedmeta", 3), ("reptile", 4)])
def test_flipped_labels_are_those_that_the_algorithm_trains_on(name: str, labels: int) -> None:
    """Episodes of 3 ways in training and 4 in judging: batches have the labels of the data, 0 to 9."""
    experiment = planned(name, "task.ways=3", "evaluation.ways=4", "attack=label_flip")
    source = experiment.source(name, experiment.train, {})
    attack = experiment.attack(name, experiment.learner.model(CATALOGUE[name]))
    plain, flipped = source.tasks([0], 0), PoisonedTasks(source, attack.poison, {0}).tasks([0], 0)

    def drawn(task: Any) -> torch.Tensor:
        batch = task.items.query if hasattr(task.items, "query") else task.items
        return batch.y[batch.mask > 0]

    assert torch.equal(drawn(flipped), labels - 1 - drawn(plain))
    assert experiment.attack("fedavg", experiment.learner.model(CATALOGUE["fedavg"])).poison(plain_batch()).y == 9


def plain_batch() -> Any:
    return sb.Batch(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long), torch.ones(1))


@pytest.mark.parametrize("name", ["fedavg", "fedmeta"])
def test_a_backdoor_on_episodes_is_refused_for_the_true_reason(name: str) -> None:
    with pytest.raises(InputError, match="labels are drawn anew for each episode"):
        planned(name, "attack=backdoor")


@pytest.mark.parametrize(
    ("name", "rate", "named"),
    [("fedavg", "local.lr=1e30", "local.lr=1e+30"), ("fedsgd", "outer.lr=1e38", "outer.lr=1e+38")],
)
def test_a_rate_that_diverges_is_named(name: str, rate: str, named: str, tmp_path: Any) -> None:
    """In a probe, and in the rounds themselves; no factors of `tune` are spoken of where none were asked for."""
    experiment = planned(name, rate, "model.name=mlp", "evaluation.baselines=false")
    pipeline = Pipeline(RunDirectory.create(tmp_path / "r", {"settings": {}}), experiment)
    options = experiment.settings.options
    for work in (
        pipeline.execute,
        lambda: pipeline._trained(name, options, experiment.train, pipeline._plan),
    ):
        with pytest.raises(Diverged) as error:
            work()
        assert named in str(error.value)
        assert "tune" not in str(error.value)


def test_pooled_training_of_several_clients_is_refused() -> None:
    x, y = torch.randn(12, 3), torch.arange(12) % 2
    population = sb.Population.from_arrays(x, y, ["a", "b", "c"] * 4)
    algorithm = sb.centralised(sb.supervised(lambda p, x: x @ p["w"], sb.cross_entropy))
    start = algorithm.init({"w": torch.zeros(3, 2)})
    with pytest.raises(InputError, match=r"this population has 3 clients.*give population.pooled\(\)"):
        next(sb.synchronous(algorithm, sb.OneByOne(sb.Sampled(population, sb.batches(2))), start))
    next(sb.synchronous(algorithm, sb.OneByOne(sb.Sampled(population.pooled(), sb.batches(2))), start))


@pytest.mark.parametrize(
    ("name", "settings", "updates"),
    [
        ("fedasync", (), 10),
        ("fedbuff", (), 2),
        ("fedbuff", ("schedule.buffer=3",), 3),
        ("fedavg", ("schedule.name=asynchronous",), 2),
        ("fedasync", ("schedule.updates=1",), 1),
    ],
)
def test_asynchronous_rounds_are_as_much_work_as_a_cohort(name: str, settings: Any, updates: int) -> None:
    """FedAvg's round has a cohort of 10; the server steps every `buffer` replies, often enough for as many."""
    from seedbed.experiments.scheduling import replies, schedule_for

    experiment = planned(name, *settings, "evaluation.baselines=false", "cohort=10")
    asked, model = experiment.settings.schedule, experiment.learner.model(CATALOGUE[name])
    clients = len(experiment.train)
    each = replies(experiment.settings, asked, clients)
    algorithm = experiment.learner.algorithm(name, model)
    engine = experiment.engine(experiment.source(name, experiment.train, {}), model)
    rounds = schedule_for(experiment.settings, asked, clients)(algorithm, engine, algorithm.init(model.params), 0, None)
    found = [next(rounds) for _ in range(2)]
    assert [round.number for round in found] == [1, 2]
    assert [len(round.clients) for round in found] == [each, each]
    assert each == updates * (each // updates)
    assert abs(each - 10) < (10 if name == "fedasync" and updates == 1 else 2)
