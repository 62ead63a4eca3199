"""Comparisons: one budget, one grid, validation clients that choose; runs that are there are gone on with."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any
from xml.etree import ElementTree

import pytest

from seedbed import InputError, tree
from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.data.types import Batch
from seedbed.experiments import tuning
from seedbed.experiments.comparison import Comparison, ComparisonCell, ComparisonRow, compare_algorithms
from seedbed.experiments.launch import plan_run
from seedbed.experiments.run_plan import RunPlan
from seedbed.experiments.stages import Pipeline, Show
from seedbed.experiments.tuning import TriedRates, best_trial, scale_rates
from seedbed.learning.finetuning import FineTuning, Scored
from seedbed.privacy.differential.accountant import Release, epsilon, release_event
from seedbed.reports.comparison_report import comparison_page, comparison_verdict

TINY = ["model.name=mlp", "model.hidden=4", "evaluation.episodes=2", "evaluation.shots=1"]


@pytest.fixture(autouse=True)
def few_ways_to_adapt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in {
        "HEAD_RATES": (0.1,),
        "HEAD_STEPS": (2,),
        "RATES": (0.1,),
        "STEPS": (2,),
        "OWN_STEPS": (2,),
    }.items():
        monkeypatch.setattr(tuning, name, values)


def compared(out: Path, names: list[str], seeds: list[int], *more: str, **asked: Any) -> Comparison:
    return compare_algorithms(names, {"rounds": 2, **asked}, [*TINY, *more], None, out, seeds, Show())[0]


def planned(name: str, *more: str) -> RunPlan:
    return plan_run({"algorithm": name, "rounds": 4}, [*TINY, *more], None, specific=False)


# ---- the table ---------------------------------------------------------------------------------------------------


def test_cells() -> None:
    assert ComparisonCell.of([0.5]) == ComparisonCell(0.5, None)
    assert ComparisonCell.of([0.5], 0.1) == ComparisonCell(0.5, 0.1)
    assert ComparisonCell.of([1.0, 2.0, 6.0], 0.1) == ComparisonCell(3.0, stdev([1, 2, 6]))


def test_rows_are_means_of_the_runs_results(tmp_path: Path) -> None:
    found = compared(tmp_path, ["fed_proto", "per_fedavg", "fed_proto"], [3, 4])
    assert list(found.rows["1"]) == ["fed_proto", "per_fedavg"]
    assert (found.metric, found.seeds, found.rounds) == ("accuracy", (3, 4), 2)
    assert json.loads((tmp_path / "comparison.json").read_text())["rows"]["1"].keys() == found.rows["1"].keys()
    for name, row in found.rows["1"].items():
        results = [json.loads((tmp_path / f"{name}-{seed}" / "result.json").read_text()) for seed in (3, 4)]
        for cell, (column, number) in zip(
            (row.unadapted, row.adapted, row.worst_tenth),
            [("unadapted", "mean"), ("adapted", "mean"), ("adapted", "worst_tenth")],
            strict=True,
        ):
            assert cell == ComparisonCell.of([result["unseen"]["1"][column][number] for result in results])
    again = compared(tmp_path, ["fed_proto"], [3])
    assert (
        again.rows["1"]["fed_proto"].adapted.mean
        == json.loads((tmp_path / "fed_proto-3" / "result.json").read_text())["unseen"]["1"]["adapted"]["mean"]
    )
    with pytest.raises(InputError, match=r"fed_proto-3 holds a run with rounds=2, but 5 is asked for.*another --out"):
        compared(tmp_path, ["fed_proto"], [3], rounds=5)


def test_an_unknown_name_stops_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'fedavg'"):
        compared(tmp_path / "c", ["fed_proto", "fedavgg"], [0])
    assert not (tmp_path / "c").exists()


# ---- privacy -----------------------------------------------------------------------------------------------------


def test_the_runs_of_a_comparison_are_accounted_together(tmp_path: Path) -> None:
    """Two methods and two seeds at ε = 4: one composition of all their releases (q = 1: a Gaussian of half the noise),
    far above 4; said before, in the verdict and in the file, and nothing is called chosen."""
    found = compared(tmp_path, ["fedavg", "fedprox"], [0, 1], "cohort=8", "privacy.epsilon=4")
    assert found.privacy is not None
    spent: Counter[Release] = Counter()
    for path in tmp_path.glob("*-*/ledger.jsonl"):
        lines = [json.loads(line.split("\t")[0]) for line in path.read_text().splitlines()]
        spent.update(release_event(line["cost"]) for line in lines[1:] if line["cost"])
    assert sum(spent.values()) == 8
    assert found.privacy.epsilon == pytest.approx(epsilon(spent, found.privacy.delta), rel=1e-6)
    assert 4 < found.privacy.epsilon < 16
    assert f"ε = {found.privacy.epsilon:.3g}" in comparison_verdict(found)
    page = comparison_page(found, "seedbed compare")
    assert "chosen by validation clients" not in page
    assert "4 runs together" in page
    assert json.loads((tmp_path / "comparison.json").read_text())["privacy"]["runs"] == 4


# ---- the same budget ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "passes"),
    [
        ("fedavg", {}, 1),
        ("per_fedavg", {}, 1),  # support once, query once
        ("fed_proto", {}, 1),
        ("ditto", {}, 2),  # the global model and the client's own
        ("apfl", {}, 2),
        ("fedrep", {}, 2),  # the head, then the body
        ("fedrep", {"head_epochs": 3}, 4),
        ("scaffold", {}, 1),
        ("scaffold", {"option": 1}, 2),  # another pass for c_i
        ("pfedme", {"steps": 5}, 5),
        ("pfedme", {"steps": 2}, 2),
    ],
)
def test_what_a_round_costs_is_measured(name: str, options: dict[str, Any], passes: int) -> None:
    """Counted at the model, so that it is what the code does, not what somebody says that it does."""
    assert planned(name).costs(name, options).passes == passes


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_method_has_the_same_budget(name: str) -> None:
    """Examples through the model in a round: 120 asked for, up to an item more or less; FedSGD has no choice."""
    experiment = planned(name, "budget=120", "task.batch_size=5", "cohort=3")
    if CATALOGUE[name].items == "full":
        return
    options = experiment.settings.options
    source = experiment.source(name, experiment.train, options)
    task = source.tasks([0], 0)
    given = sum(float((b.mask * task.real[:, :, None]).sum()) for b in tree.subtrees(task.items, Batch))
    passes = experiment.costs(name, options).passes
    one_item = passes * given / float(task.real.sum())
    wanted = 360 if CATALOGUE[name].pooled else 120
    assert abs(passes * given - wanted) <= one_item


# ---- the same grid, chosen on validation clients -----------------------------------------------------------------


def test_rates_are_scaled_where_the_entry_says() -> None:
    assert scale_rates(CATALOGUE["ditto"], {}, 3) == {"local": {"lr": 0.3}, "personal": {"lr": 0.3}}
    assert scale_rates(CATALOGUE["fedadam"], {"eta": 0.1}, 0.3) == {"eta": 0.03}
    assert scale_rates(CATALOGUE["fedmeta"], {"outer": "sgd"}, 3) == {"outer": {"name": "sgd", "lr": 0.3}}
    for name, entry in CATALOGUE.items():
        assert bool(entry.rates) == (name != "fed_lbfgs")  # whose steps are as long as a line search makes them
        assert scale_rates(entry, {}, 1.0).keys() == {key.partition(".")[0] for key in entry.rates}


def test_the_best_is_the_first_of_the_highest_and_nan_is_none() -> None:
    tried = [TriedRates(f, {}, {1: Scored(score, None)}) for f, score in ((1.0, float("nan")), (2.0, 0.5), (3.0, 0.5))]
    assert best_trial(tried).factor == 2.0


class Watched(Pipeline):
    """Notes who is trained on and who chooses, in each probe."""

    def _trained(self, name: str, options: Any, clients: Any, plan: Any) -> Any:
        self.stages = {**getattr(self, "stages", {}), plan.stage: (set(clients.names), plan.rounds, options)}
        return super()._trained(name, options, clients, plan)

    def _choose(self, trained: Any, clients: Any, what: str, stage: str) -> Any:
        self.judges = {*getattr(self, "judges", ()), *clients.names}
        return super()._choose(trained, clients, what, stage)


@pytest.mark.parametrize("name", ["fedavg", "fedrep", "meta_sgd"])
def test_validation_clients_choose_and_test_clients_never_do(name: str, tmp_path: Path) -> None:
    """A probe for each factor, a quarter of the rounds, on known clients without those that choose; then all known."""
    from seedbed.experiments.run_directory import RunDirectory

    experiment = planned(name, "tune=[0.1,1,3]", "evaluation.baselines=false", "evaluation.curve=false")
    pipeline = Watched(RunDirectory.create(tmp_path / "r", {"settings": {}}), experiment)
    result = pipeline.execute()
    known, unseen = set(experiment.train.names), set(experiment.unseen.names)
    probes = {stage: made for stage, made in pipeline.stages.items() if stage != name}
    assert len(probes) == 3
    assert pipeline.judges
    assert pipeline.judges <= known - unseen
    for clients, rounds, _ in probes.values():
        assert clients == known - pipeline.judges
        assert rounds == 1
    clients, rounds, options = pipeline.stages[name]
    assert (clients, rounds) == (known, 4)
    chosen = result["tuning"][name]
    assert chosen["scores"].keys() == {"0.1", "1.0", "3.0"}
    assert chosen["scores"][str(chosen["factor"])] == max(chosen["scores"].values())
    assert options == result["options"] == dict(scale_rates(CATALOGUE[name], {}, chosen["factor"]))
    assert result["finetuning"]["adapted"]["1"]["layers"] in (
        ("own",) if name != "fedavg" else ("all", "head_then_all", "head")
    )


def test_a_rate_that_diverges_is_not_chosen(tmp_path: Path) -> None:
    found = compared(tmp_path, ["fedavg"], [0], "tune=[1,1e30]")
    tuned = found.chosen["fedavg"][0]["tuning"]
    assert tuned["factor"] == 1
    with pytest.raises(InputError, match=r"fedavg diverges with each factor of tune=\[1e\+30\]: add smaller ones"):
        compared(tmp_path / "b", ["fedavg"], [0], "tune=[1e30]")


def test_chosen_steps_are_used_when_a_client_adapts() -> None:
    """Under `own`, test_steps and test_lr are those chosen: 0 steps leave FedRep's model as it is, 5 do not."""
    experiment = planned("fedrep")
    learner, model = experiment.learner, experiment.learner.model(CATALOGUE["fedrep"])
    task = experiment.judged(experiment.unseen, 1, purpose="t", episodes=1).tasks([0], 0)
    support = tree.index(tree.index(task.items, 0), 0).support

    def adapted(how: FineTuning) -> Any:
        algorithm = learner.algorithm("fedrep", model, finetuning=how)
        sent = algorithm.send(algorithm.init(model.params), 0)
        return algorithm.personalise(sent, algorithm.remember(sent), support)

    still, moved = adapted(FineTuning("own", steps=0)), adapted(FineTuning("own", steps=5, lr=0.5))
    assert float(tree.squared_norm(tree.sub(still, moved))) > 1e-3
    slower = adapted(FineTuning("own", steps=5, lr=0.05))
    assert float(tree.squared_norm(tree.sub(slower, moved))) > 1e-4


# ---- the page ----------------------------------------------------------------------------------------------------


def made(rows: dict[str, ComparisonRow], **changes: Any) -> Comparison:
    both, none = {"1": rows, "5": rows}, {name: [{"tuning": None, "adapting": {}}] for name in rows}
    return replace(Comparison("accuracy", True, "<b>", 5, 2, 60, 4, (0,), both, none), **changes)


def row(adapted: float, behind: tuple[float, float] | None) -> ComparisonRow:
    return ComparisonRow(
        ComparisonCell(0.2, 0.01), ComparisonCell(adapted, 0.05), ComparisonCell(adapted - 0.1, None), behind
    )


def test_the_verdict_names_the_best_and_what_cannot_be_told_from_it() -> None:
    rows = {"fedavg": row(0.8, (0.1, 0.02)), "fedrep": row(0.9, None), "apfl": row(0.88, (0.02, 0.03))}
    assert comparison_verdict(made(rows)).startswith(
        "With 1 shot, fedrep is best; apfl within the 95 % interval of it. With 5"
    )
    alone = {"fedavg": rows["fedavg"], "fedrep": rows["fedrep"]}
    assert "fedrep is best, beyond the 95 % interval of all others." in comparison_verdict(made(alone))
    assert "nothing is concluded" in comparison_verdict(made({"fedavg": row(0.8, None), "fedrep": row(0.9, None)}))


def test_the_page_has_every_number_the_command_and_nothing_unescaped() -> None:
    rows = {"fedavg": row(0.8, (0.1, 0.02)), "fedrep": row(float("nan"), None)}
    page = comparison_page(made(rows), "seedbed compare fedavg '<script>'")
    assert "<script>" not in page
    assert "seedbed compare fedavg &#x27;&lt;script&gt;&#x27;" in page
    assert "80.0 ± 5.0" in page
    assert "10.0 ± 2.0" in page
    charts = page.split("<figure>")[1:]
    assert len(charts) == 2
    for chart in charts:
        svg = ElementTree.fromstring(chart[: chart.index("</svg>") + 6])
        assert "fedavg: 20 → 80" in "".join(svg.itertext())
