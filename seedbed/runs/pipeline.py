"""A whole run: train, choose the rivals' fine-tuning, judge on unseen clients, write everything down."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from seedbed import evaluation
from seedbed.algorithms import catalogue
from seedbed.evaluation import Summary
from seedbed.federated import Algorithm, ServerState
from seedbed.learning.finetuning import FineTuning
from seedbed.models import Model
from seedbed.rounds import Round
from seedbed.runs.directory import RunDirectory, to_bytes
from seedbed.runs.experiment import Experiment
from seedbed.runs.training import train_stage
from seedbed.runs.tuning import choose_finetuning
from seedbed.tasks.population import Population
from seedbed.tasks.sampling import Sampled
from seedbed.tree import Tree

COLUMNS = ("unadapted", "adapted", "fedavg_finetuned", "local")
CURVE_STEPS = (0, 1, 3, 10)


class Show:
    """What a run tells while it works; the command line draws bars, the default is silent."""

    def stage(self, title: str, total: int) -> Callable[[str], None]:
        """A piece of work of `total` steps begins; call what is returned after each, with a word on how it goes."""
        return lambda word: None

    def note(self, text: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True)
class Trained:
    """An algorithm's start after training, and how its clients adapt, for each number of shots."""

    name: str
    model: Model
    state: ServerState
    finetuning: Mapping[int, FineTuning]
    options: Mapping[str, Any]
    memory: Mapping[str, Tree] = field(default_factory=dict)  # what known clients keep, by name

    def finetuning_for(self, shots: int) -> FineTuning | None:
        """How clients fine-tune on so many examples: as was chosen for the nearest number of shots."""
        nearest = min(self.finetuning, key=lambda k: abs(k - shots), default=None)
        return None if nearest is None else self.finetuning[nearest]


class Pipeline:
    """The stages of a run, each resumable."""

    def __init__(self, run: RunDirectory, experiment: Experiment, show: Show | None = None):
        self.run, self.experiment, self.show = run, experiment, show or Show()
        self.settings, self.learner = experiment.settings, experiment.learner

    def execute(self) -> dict[str, Any]:
        """Run whatever is not done yet; returns the result that is also written."""
        main = self.train(self.settings.algorithm, self.settings.options)
        model = to_bytes({"params": main.state.params})
        self.run.write("model.safetensors", model)
        rivals = self.rivals(main) if self.settings.evaluation.baselines else {}
        result = {
            "metric": self.learner.metric_name,
            "higher_is_better": self.learner.higher_is_better,
            "algorithm": self.settings.algorithm,
            "unseen": self.table(main, rivals, self.experiment.unseen),
            "seen": self.seen(main),
            "finetuning": {
                name: {str(k): {"text": str(how), **asdict(how)} for k, how in t.finetuning.items()}
                for name, t in {"adapted": main, **rivals}.items()
                if t.finetuning
            },
            "curve": self.curve(main) if self.settings.evaluation.curve else {},
            "model_sha256": hashlib.sha256(model).hexdigest(),
        }
        self.run.write_json("result.json", result)
        return result

    # ---- training ----------------------------------------------------------------------------------------------

    def train(self, name: str, options: Mapping[str, Any]) -> Trained:
        """Train the named algorithm on all known clients; choose its fine-tuning first if it has no way of its own."""
        finetuning: Mapping[int, FineTuning] = {}
        if catalogue.entry(name).tuned(options):
            finetuning = self.choose(name, options)
        return replace(
            self._trained(name, options, self.experiment.train, stage=name, rounds=self._rounds),
            finetuning=finetuning,
        )

    @property
    def _rounds(self) -> int:
        assert self.settings.rounds is not None  # complete() has filled it in
        return self.settings.rounds

    def _trained(
        self, name: str, options: Mapping[str, Any], clients: Population, *, stage: str, rounds: int
    ) -> Trained:
        entry = catalogue.entry(name)
        budget = None if name == self.settings.algorithm else self.experiment.budget
        source = self.experiment.source(name, clients, examples=budget)
        model = self.learner.model(self.learner.outputs(entry))
        algorithm = self.learner.algorithm(name, model, options=options)
        engine = self.experiment.engine(source, model)
        cohort = self.settings.cohort or len(source.clients)
        tick = self.show.stage(f"{name} ({stage})" if stage != name else name, rounds)

        def watch(round: Round) -> None:
            tick(f"loss {round.info['loss']:.3f}" if "loss" in round.info else "")

        state = train_stage(
            self.run,
            stage,
            algorithm,
            engine,
            model.params,
            rounds=rounds,
            cohort=min(cohort, len(source.clients)),
            seed=self.settings.seed,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            watch=watch,
        )
        memory = {clients.names[c]: kept for c, kept in engine.memory().items()} if not entry.pooled else {}
        return Trained(name, model, state, {}, options, memory)

    # ---- rivals ------------------------------------------------------------------------------------------------

    def rivals(self, main: Trained) -> dict[str, Trained]:
        """FedAvg with fine-tuning, and local only: each with the fine-tuning that validation clients like best."""
        same = self.settings.algorithm == "fedavg"
        fedavg = main if same else self.train("fedavg", self.settings.rival)
        untrained = replace(fedavg, state=self._algorithm(fedavg).init(fedavg.model.params))
        local = replace(untrained, finetuning=self._choose(untrained, self.experiment.validation()[1], "local"))
        return {"fedavg_finetuned": fedavg, "local": local}

    def choose(self, name: str, options: Mapping[str, Any]) -> dict[int, FineTuning]:
        """Fine-tuning for each number of shots, chosen on clients that a probe (a quarter of the rounds) never saw."""
        rest, validation = self.experiment.validation()
        if len(rest) == 0:
            return {k: FineTuning() for k in self.experiment.shots}
        rounds = max(1, self._rounds // 4)
        probe = self._trained(name, options, rest, stage=f"{name}-probe", rounds=rounds)
        return self._choose(probe, validation, name)

    def _choose(self, trained: Trained, clients: Population, what: str) -> dict[int, FineTuning]:
        tick = self.show.stage(f"fine-tuning of {what}", len(self.experiment.shots))
        chosen = {}
        for shots in self.experiment.shots:
            source = self.experiment.judged(clients, shots, purpose="validation", episodes=max(3, 9 // len(clients)))
            chosen[shots] = choose_finetuning(
                self.learner.tunable(trained.model),
                self._algorithm(trained),
                trained.state,
                self.experiment.engine(source, trained.model),
                source,
                self.learner.metric(trained.model),
                start=self.learner.starting_head(
                    trained.model, catalogue.entry(trained.name), self.settings.evaluation.ways
                ),
                higher_is_better=self.learner.higher_is_better,
                has_head=trained.model.width > 0,
            )
            tick(str(chosen[shots]))
        return chosen

    @property
    def _few(self) -> int:
        return min(3, self.settings.evaluation.episodes)

    # ---- judging -----------------------------------------------------------------------------------------------

    def table(self, main: Trained, rivals: Mapping[str, Trained], clients: Population) -> dict[str, Any]:
        """Every column for every number of shots, on the same episodes of clients never seen in training."""
        tick = self.show.stage("judging on unseen clients", len(self.experiment.shots) * (2 + len(rivals)))
        few = self.settings.evaluation.rival_episodes
        rows: dict[str, Any] = {}
        for shots in self.experiment.shots:
            rows[str(shots)] = row = {}
            columns = {"unadapted": main, "adapted": main, **rivals}
            for column, trained in columns.items():
                episodes = few if column in rivals else None
                source = self.experiment.judged(clients, shots, purpose="judge unseen", episodes=episodes)
                steps = self.settings.evaluation.steps if column == "adapted" else None
                row[column] = _cells(self.judge(trained, source, shots, plain=column == "unadapted", steps=steps))
                tick(f"{shots} shots")
        return rows

    def seen(self, main: Trained) -> dict[str, Any]:
        """The run's own algorithm on clients it was trained on."""
        tick = self.show.stage("judging on known clients", 2 * len(self.experiment.shots))
        rows: dict[str, Any] = {}
        for shots in self.experiment.shots:
            source = self.experiment.seen(shots)
            rows[str(shots)] = {}
            for column in ("unadapted", "adapted"):
                summary = self.judge(main, source, shots, plain=column == "unadapted", known=True)
                rows[str(shots)][column] = _cells(summary)
                tick(f"{shots} shots")
        return rows

    def curve(self, main: Trained) -> dict[str, Any]:
        """The score on unseen clients over adaptation steps, for each number of shots."""
        tick = self.show.stage("adaptation curve", len(self.experiment.shots) * len(CURVE_STEPS))
        curve: dict[str, Any] = {}
        for shots in self.experiment.shots:
            source = self.experiment.judged(self.experiment.unseen, shots, purpose="judge unseen", episodes=self._few)
            curve[str(shots)] = {}
            for steps in CURVE_STEPS:
                curve[str(shots)][str(steps)] = self.judge(main, source, shots, steps=steps).mean
                tick(f"{steps} steps")
        return curve

    def judge(
        self,
        trained: Trained,
        source: Sampled,
        shots: int,
        *,
        plain: bool = False,
        steps: int | None = None,
        known: bool = False,
    ) -> Summary:
        """Score a trained start on the source's clients.

        Args:
            plain: before any adaptation; where an episode's classes are new, under a head that knows nothing of them.
            steps: adaptation steps; None: the algorithm's own.
            known: the clients were trained on: they have what they kept.
        """
        algorithm = self._algorithm(trained, shots, steps)
        if known:
            numbers = [self.experiment.train.names.index(name) for name in source.population.names]
            algorithm = evaluation.renumbered(algorithm, numbers)
        else:
            algorithm = evaluation.to_newcomers(algorithm)
        if plain:
            start = self.learner.starting_head(
                trained.model, catalogue.entry(trained.name), self.settings.evaluation.ways
            )
            algorithm = evaluation.before_adapting(algorithm, start)
        engine = self.experiment.engine(source, trained.model)
        if known:
            names = enumerate(source.population.names)
            engine.recall({i: trained.memory[name] for i, name in names if name in trained.memory})
        return evaluation.evaluate(
            engine,
            algorithm,
            trained.state,
            source,
            self.learner.metric(trained.model),
            higher_is_better=self.learner.higher_is_better,
        )

    def _algorithm(self, trained: Trained, shots: int | None = None, steps: int | None = None) -> Algorithm:
        return self.learner.algorithm(
            trained.name,
            trained.model,
            options=trained.options,
            finetuning=trained.finetuning_for(shots) if shots else None,
            ways=self.settings.evaluation.ways if shots else None,
            test_steps=steps,
        )


def _cells(summary: Summary) -> dict[str, Any]:
    """A table cell's numbers, as result.json has them; an interval that one client cannot give is null."""
    cells = asdict(summary)
    return cells | {"ci95": None if summary.clients == 1 else summary.ci95}
