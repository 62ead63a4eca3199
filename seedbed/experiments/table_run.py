"""The stages of a run whose start is exact: that start in place of rounds, rivals without straw men, and a table by
loss that names the clients that adapting harms."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seedbed import evaluation
from seedbed.algorithms import catalogue
from seedbed.algorithms.exact_start import with_net
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled
from seedbed.engines import Vectorised
from seedbed.errors import Diverged, InputError
from seedbed.experiments.builder import OF_NET
from seedbed.experiments.config import Row
from seedbed.experiments.conformal import START, interval_from_residuals, residual_metric
from seedbed.experiments.honest_choice import NONE, Among, Way, is_better
from seedbed.experiments.personal_model import Interval, spread_of
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.run_plan import RunPlan, row_sampler
from seedbed.experiments.stages import Pipeline, Show, TrainedStart, TrainingPlan
from seedbed.experiments.table_local import Local, trivial
from seedbed.experiments.table_scores import WORST, cell, diverged, harm, row_scores
from seedbed.experiments.table_scores import Start as StartPredict
from seedbed.experiments.table_start import DRAWS, MANY_CLASSES, Start, TableStart, has_many_classes
from seedbed.experiments.tuning import scale_rates
from seedbed.federated import Algorithm, Params, ServerState
from seedbed.learning.finetuning import FineTuning
from seedbed.learning.objectives import Predict
from seedbed.models import Model

BACK_OFF, TRIES = 0.3, 5  # of a rival's rates where it diverges
LEAST_JUDGES = 8  # validation clients that may prefer the network
STILL_FALLING = "The loss of the linear base was still falling when its rounds were over."
POOLED = "unadapted is the pooled linear model, up to rounding: it is fitted exactly"


@dataclass(frozen=True)
class Column:
    """Who is judged in a column of the table.

    Attributes:
        engine: of the clients that are judged.
        start: predictions to compare with, row by row; None: nothing is.
        half: half the width of prediction intervals; None: there are none.
    """

    algorithm: Algorithm
    state: ServerState
    predict: Predict
    start: StartPredict | None = None
    half: Predict | None = None


def pipeline_for(run: RunDirectory, experiment: RunPlan, show: Show | None = None) -> Pipeline:
    """The stages of this run."""
    kind = TablePipeline if experiment.settings.start == "exact" else Pipeline
    return kind(run, experiment, show)


class TablePipeline(Pipeline):
    """The stages of a run whose start is exact. The start takes seconds and is made again where a run is resumed."""

    made: Start | None = None
    rival_plan: TrainingPlan  # of the rates at which it did not diverge
    local_words: Mapping[str, str] = {}
    said: Sequence[str] = ()

    def __init__(self, run: RunDirectory, experiment: RunPlan, show: Show | None = None):
        super().__init__(run, experiment, show)
        self.net_words: list[str] = []
        self.net_intervals: dict[str, Interval] = {}  # of the rows that the network adapts
        self.rival: TrainedStart | None = None
        self.trained_stages: dict[str, TrainedStart] = {}

    def train(self, name: str, options: Mapping[str, Any], plan: TrainingPlan) -> TrainedStart:
        if not self.learner.is_exact(name):
            return self._backed_off(name, options, plan)
        model = self.learner.model(catalogue.entry(name))
        assert isinstance(model, Model)
        tick = self.show.stage("linear base, and how to adapt", 1)
        made = self.made = TableStart(self.experiment, model).make()
        tick(f"λ {made.base.strength:g}")
        options = {**options, "slopes": list(made.places)}
        trained = TrainedStart(name, model, ServerState(made.params, {}), made.chosen, options)
        if self.settings.evaluation.baselines:
            trained = self._with_net(trained, made)
        self.said = [*words_of(made), *self.net_words]
        if has_many_classes(self.learner):
            self.said.append(
                f"{self.learner.shape.classes} classes are too many for intercepts of a client's own (at most "
                f"{MANY_CLASSES}): clients take the start as it is, or fine-tune the network; local only is left out"
            )
        for line in self.said:
            self.show.note(line)
        return trained

    def _trained(self, name: str, options: Mapping[str, Any], clients: Population, plan: TrainingPlan) -> TrainedStart:
        """As the pipeline does; what this process has trained is not asked for again."""
        if plan.stage not in self.trained_stages:
            self.trained_stages[plan.stage] = super()._trained(name, options, clients, plan)
        return self.trained_stages[plan.stage]

    # ---- FedAvg's network, as rival and as a way to adapt ----------------------------------------------------------

    def _with_net(self, trained: TrainedStart, made: Start) -> TrainedStart:
        """With FedAvg + fine-tuning for the rows where that is better on validation clients."""
        rival = self.rivals(trained)["fedavg_finetuned"]
        better = {row: how for row, how in rival.finetuning.items() if self._is_better(rival, row, made)}
        if not better:
            return trained
        state = ServerState(with_net(made.params, rival.state.params), {})
        options = {**trained.options, "net": True}
        return replace(trained, state=state, finetuning={**made.chosen, **better}, options=options)

    def _is_better(self, rival: TrainedStart, row: Row, made: Start) -> bool:
        """Whether a probe of the network, trained without the validation clients, is better than the posterior there,
        by more than one standard error."""
        rest, validation = self.experiment.validation()
        known = made.losses.get(str(row), {}).get(made.chosen[row].layers, {})
        places = {name: client for client, name in enumerate(self.experiment.train.names)}
        clients = [places[name] for name in validation.names if places[name] in known]
        if len(clients) < LEAST_JUDGES or self.settings.tune:
            return False
        probe = self._trained("fedavg", rival.options, rest, self.rival_plan.probe)
        sampled = Sampled(self.experiment.train, row_sampler(row, DRAWS), seed=self.settings.seed, purpose="choice")
        source = Among(sampled, clients)
        algorithm = evaluation.to_newcomers(self._algorithm(replace(probe, finetuning=rival.finetuning), row))
        residuals = None if self.learner.shape.classes else residual_metric(probe.model.predict, spread_of(None))
        way = Way(algorithm, self.learner.metric(probe.model), residuals=residuals)
        scores = Vectorised(source).evaluate(algorithm, probe.state, source, way.scores)
        found = {client: float(s[:, 0].mean()) for client, s in scores.items()}
        ours = {client: known[client] for client in found}
        self.net_words.append(
            f"with {row}: FedAvg + fine-tuning {mean_of(found):.4g} against {mean_of(ours):.4g} on {len(found)} "
            "validation clients"
        )
        better = is_better(found, ours)
        interval = interval_from_residuals({c: s[:, 1:] for c, s in scores.items()})
        if better and interval is not None:
            self.net_intervals[str(row)] = interval
        return better

    def _backed_off(self, name: str, options: Mapping[str, Any], plan: TrainingPlan) -> TrainedStart:
        """Train; where training diverges, at lower rates, with a word."""
        entry, factor = catalogue.entry(name), 1.0
        for attempt in range(TRIES):
            asked = options if attempt == 0 else scale_rates(entry, options, factor)
            stage = plan.stage if attempt == 0 else f"{plan.stage}_slower_{attempt}"
            try:
                self.rival_plan = TrainingPlan(stage, plan.rounds, plan.schedule)
                return super().train(name, asked, self.rival_plan)
            except (Diverged, InputError) as error:
                if not isinstance(error, Diverged) and "diverges" not in str(error):
                    raise
                factor *= BACK_OFF
                self.show.note(f"{name} diverges; its rates are multiplied by {factor:.2g}")
        raise InputError(f"{name} diverges at rates {factor:.2g} times those of rival.*: set lower ones, or "
                         "evaluation.baselines=false")  # fmt: skip

    def rivals(self, main: TrainedStart) -> dict[str, TrainedStart]:
        if self.rival is None:
            self.rival = self.train("fedavg", self.settings.baseline, self._rival_plan)
        return {"fedavg_finetuned": self.rival}

    def seen(self, main: TrainedStart) -> dict[str, Any]:
        """Nothing: the start was fitted to all rows of known clients."""
        return {}

    def curve(self, main: TrainedStart) -> dict[str, Any]:
        """Nothing: a posterior has no steps."""
        return {}

    # ---- judging -------------------------------------------------------------------------------------------------

    def table(self, main: TrainedStart, rivals: Mapping[str, TrainedStart], clients: Population) -> dict[str, Any]:
        columns = self._columns(main, rivals)
        rows: dict[str, Any] = {}
        tick = self.show.stage("judging on unseen clients", len(columns) * len(self.experiment.shots))
        for row in self.experiment.shots:
            source = self.experiment.judged(clients, row, purpose="judge unseen")
            found: dict[str, Mapping[int, Any]] = {}
            how = main.finetuning_for(row)
            same = how is not None and how.layers in OF_NET  # adapted is FedAvg + fine-tuning
            for name, column in columns.items():
                known = same and name == "fedavg_finetuned"
                found[name] = found["adapted"] if known else self._scores(column(row), source)
                tick(f"{row} shots")
            rows[str(row)] = self._row(found, source.population.names)
        return rows

    def _columns(self, main: TrainedStart, rivals: Mapping[str, TrainedStart]) -> dict[str, Callable[[Row], Column]]:
        assert isinstance(main.model, Model)
        model, learner = main.model, self.learner
        start = main.state.params

        def adapted(row: Row) -> Column:
            algorithm, predict = learner.exact(model, main.options, main.finetuning_for(row))
            half = self._half(main, row, main.finetuning_for(row))
            return Column(algorithm, main.state, predict, lambda x: model.predict(start, x), half)

        def plain(params: Params, half: Predict | None = None) -> Callable[[Row], Column]:
            algorithm, predict = learner.exact(model, main.options, None)
            return lambda row: Column(algorithm, ServerState(params, {}), predict, half=half)

        def rival(trained: TrainedStart) -> Callable[[Row], Column]:
            predict = trained.model.predict
            return lambda row: Column(self._algorithm(trained, row), trained.state, predict)

        columns = {"unadapted": plain(start, self._half(main, START, None)), "adapted": adapted}
        columns |= {name: rival(trained) for name, trained in rivals.items()}
        if self.settings.evaluation.baselines and rivals and not has_many_classes(learner):
            columns["local"] = self._local(model, main)
        return columns | {"trivial": plain({**start, **trivial(self.experiment, model)})}

    def _local(self, model: Model, main: TrainedStart) -> Callable[[Row], Column]:
        local = Local(self.experiment, model, tuple(main.options.get("slopes", ())))
        metric = evaluation.per_example(local.predict, self.learner.loss)
        words: dict[str, str] = {}
        self.local_words = words

        def column(row: Row) -> Column:
            state, words[str(row)] = local.choose(row, metric)
            return Column(local.algorithm, state, local.predict)

        return column

    def _half(self, main: TrainedStart, row: Row | str, how: FineTuning | None) -> Predict | None:
        """Half the width of the prediction intervals of a row; None: none were learned."""
        interval = self._intervals().get(str(row))
        if interval is None:
            return None
        assert isinstance(main.model, Model)
        effects = self.learner.effects(main.model, main.options.get("slopes", ()))
        spread, quantile = spread_of(None if how is None else effects.get(how.layers)), Interval(*interval).quantile
        return lambda params, x: quantile * spread(params, x)

    def _intervals(self) -> Mapping[str, Any]:
        """Those that this process has learned, or the finished run."""
        if self.made is not None:
            return {**self.made.intervals, **self.net_intervals}
        return ((self.run.result or {}).get("choice") or {}).get("intervals") or {}

    def _scores(self, column: Column, source: Any) -> Mapping[int, Any]:
        classes, half = self.learner.shape.classes, column.half
        metric = row_scores(column.predict, self.learner.loss, column.start, classes=classes, half=half)
        algorithm = evaluation.to_newcomers(column.algorithm)
        return Vectorised(source).evaluate(algorithm, column.state, source, metric)

    def _row(self, found: Mapping[str, Mapping[int, Any]], names: Any) -> dict[str, Any]:
        classes, target = self.learner.shape.classes, self.experiment.population.encoding["target"]
        scale = float(target.get("std", 1.0))
        base = cell(found["trivial"], classes=classes, scale=scale, trivial=None)
        row = {name: cell(scores, classes=classes, scale=scale, trivial=base["mean"]) for name, scores in found.items()}
        row["adapted"] |= {"harm": harm(found["adapted"], names), "names": list(names)}
        row["adapted"] |= {"diverged": diverged(row, names)}
        return row

    # ---- the result ----------------------------------------------------------------------------------------------

    def extras(self) -> dict[str, Any]:
        """What result.json says beside the table: what was trained, chosen and why."""
        made = self.made
        assert made is not None
        base = {
            "strength": made.base.strength,
            "rounds": made.base.rounds,
            "tried": {f"{strength:g}": loss for strength, loss in made.base.tried.items()},
            "note": POOLED,
            "warning": STILL_FALLING if made.falling else "",
        }
        by_row = made.losses.items()
        choice = {
            "base": base,
            "slopes": list(made.places),
            "losses": {row: {name: mean_of(each) for name, each in losses.items()} for row, losses in by_row},
            "judges": {row: len(losses[NONE]) for row, losses in by_row},
            "priors": {
                name: {key: value.tolist() for key, value in prior._asdict().items()}
                for name, prior in made.priors.items()
            },
            "intervals": {row: list(interval) for row, interval in self._intervals().items()},
            "local": self.local_words,
            "said": list(self.said),
        }
        return {"choice": choice}


def mean_of(losses: Mapping[int, float]) -> float:
    """Over clients; what is not finite counts as very large."""
    found = sum(losses.values()) / len(losses)
    return found if math.isfinite(found) else WORST


def words_of(made: Start) -> list[str]:
    """What was trained and chosen, for people."""
    base = made.base
    lines = [f"linear base fitted exactly in {base.rounds} summed gradients, λ {base.strength:g} of "
             f"{len(base.tried)} tried"]  # fmt: skip
    for row, how in made.chosen.items():
        losses = made.losses.get(str(row))
        if losses:
            tried = ", ".join(f"{name} {mean_of(each):.4g}" for name, each in losses.items())
            judges = len(losses[NONE])
            lines.append(f"with {row}: {how}; loss on {judges} known clients, cross-fitted: {tried}")
    return lines
