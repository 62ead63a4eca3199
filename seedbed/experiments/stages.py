"""A whole run: train, choose the rivals' fine-tuning, judge on unseen clients, write everything down."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from seedbed import evaluation
from seedbed.algorithms import catalogue
from seedbed.attacks import TriggeredTasks
from seedbed.attacks.attack import Poison
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, TaskSource
from seedbed.data.stragglers import ShortenedTasks
from seedbed.engines import ClientStateStore, TuningCache
from seedbed.engines.autotune import shared_tuning_cache
from seedbed.errors import Diverged, InputError
from seedbed.evaluation import ScoreSummary
from seedbed.experiments import byzantine
from seedbed.experiments.builder import AnyModel
from seedbed.experiments.config import Row, ScheduleSettings
from seedbed.experiments.factories import setting
from seedbed.experiments.precision_check import precision_error
from seedbed.experiments.privacy_plan import PrivacyPlan, joint_of, noise_terms
from seedbed.experiments.progress import RoundWatcher, round_line
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.run_plan import Built, RunPlan
from seedbed.experiments.scheduling import replies, schedule_for
from seedbed.experiments.train_stage import run_train_stage, without_guard
from seedbed.experiments.tuning import (
    Judge,
    TriedRates,
    best_trial,
    choose_finetuning,
    choose_own_steps,
    own_rates,
    scale_rates,
    usual_steps,
)
from seedbed.federated import Algorithm, ClientId, Engine, ServerState
from seedbed.learning.distillation import Teacher
from seedbed.learning.finetuning import FineTuning, Scored
from seedbed.learning.optimizers import Optimizer
from seedbed.models import ModelZoo
from seedbed.privacy.differential.central import public_info
from seedbed.serialization import trees_to_bytes
from seedbed.tree import Tree

TABLE_COLUMNS = ("unadapted", "adapted", "fedavg_finetuned", "local", "trivial")
CURVE_STEPS = (0, 1, 3, 10)


class Show:
    """What a run tells while it works; the command line draws bars, the default is silent."""

    def stage(self, title: str, total: int) -> Callable[[str], None]:
        """A piece of work of `total` steps begins; call what is returned after each, with a word on how it goes."""
        return lambda word: None

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def detail(self, text: str) -> None:
        """Something for users who ask for more."""

    def finished(self, run: RunDirectory) -> None:
        """A run has its result: the place to write its report."""


class ByName(Mapping[str, Tree]):
    """What clients keep by their names, looked up when it is asked for.

    Args:
        own: of what is kept, the part that is the client's.
    """

    def __init__(self, names: Sequence[str], kept: Mapping[ClientId, Tree], own: Callable[[Tree], Tree]):
        self._names, self._kept, self._own = names, kept, own
        self._place = {names[client]: client for client in kept}

    def __getitem__(self, name: str) -> Tree:
        return self._own(self._kept[self._place[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


@dataclass(frozen=True)
class TrainedStart:
    """An algorithm's start after training, and how its clients adapt, for each number of shots."""

    name: str
    model: AnyModel
    state: ServerState
    finetuning: Mapping[Row, FineTuning]
    options: Mapping[str, Any]
    memory: Mapping[str, Tree] = field(default_factory=dict)  # what known clients keep, by name

    def finetuning_for(self, shots: Row) -> FineTuning | None:
        """How clients fine-tune on so many examples: as was chosen for the nearest number of shots.

        More than the largest number is as half of a client's own, where that was chosen for.
        """
        row = nearest_row(list(self.finetuning), shots)
        return None if row is None else self.finetuning[row]


def nearest_row(rows: Sequence[Row], shots: Row) -> Row | None:
    """The row whose choices a client with so many shots takes: the nearest number, half above the largest."""
    counts = [k for k in rows if isinstance(k, int)]
    large = shots == "half" or shots > max(counts, default=0)
    if "half" in rows and large:
        return "half"
    return min(counts, key=lambda k: abs(k - (max(counts) if shots == "half" else shots)), default=None)


@dataclass(frozen=True)
class TrainingPlan:
    """How an algorithm is trained.

    Attributes:
        stage: what its checkpoints are called.
    """

    stage: str
    rounds: int
    schedule: ScheduleSettings

    @property
    def probe(self) -> "TrainingPlan":
        """A quarter of the rounds."""
        return replace(self, stage=f"{self.stage}-probe", rounds=max(1, self.rounds // 4))


class Pipeline:
    """The stages of a run, each resumable."""

    def __init__(self, run: RunDirectory, experiment: RunPlan, show: Show | None = None):
        self.run, self.experiment, self.show = run, experiment, show or Show()
        self.settings, self.learner = experiment.settings, experiment.learner
        own, shared = run.path / "executors.json", shared_tuning_cache()
        asked = self.settings.executor == "auto"
        self.executors = TuningCache(own, shared, self.show.detail if asked else self.show.note)
        self.tuning: dict[str, Any] = {}  # what `tune` chose, by algorithm

    def execute(self) -> dict[str, Any]:
        """Run whatever is not done yet; returns the result that is also written."""
        if self.settings.precision != "float32":
            self.show.note(precision_error(self.experiment))
        main = self.train(self.settings.algorithm, self.settings.options, self._plan)
        model = trees_to_bytes({"params": main.state.params})
        self.run.write("model.safetensors", model)
        rivals = self.rivals(main) if self.settings.evaluation.baselines else {}
        promise, secured = self.experiment.privacy, self.experiment.secured
        result = {
            "metric": self.learner.metric_name,
            "higher_is_better": self.learner.higher_is_better,
            "algorithm": self.settings.algorithm,
            "options": main.options,
            "tuning": self.tuning,
            "unseen": self.table(main, rivals, self.experiment.unseen),
            "seen": {} if promise or secured else self.seen(main),
            "finetuning": {
                name: {str(k): {"text": str(how), **asdict(how)} for k, how in t.finetuning.items()}
                for name, t in {"adapted": main, **rivals}.items()
                if t.finetuning
            },
            "curve": self.curve(main) if self._has_curve else {},
            **self.attacked(main),
            **self.extras(),
            "model_sha256": hashlib.sha256(model).hexdigest(),
        }
        if secured:
            result["secure"] = secured.table(self.run.metrics())
        if promise:
            result["privacy"] = promise.table(joint_of(self.run.path, promise, self._fingerprint))
        self.run.write_json("result.json", result)
        return result

    def extras(self) -> dict[str, Any]:
        """What else stands in the result."""
        return {}

    # ---- training ----------------------------------------------------------------------------------------------

    def train(self, name: str, options: Mapping[str, Any], plan: TrainingPlan) -> TrainedStart:
        """Train the named algorithm on all known clients; as validation clients like best where that is open."""
        if catalogue.entry(name).takes("teacher"):
            self.learner = self.learner.with_teacher(self.teacher(catalogue.entry(name)))
        options, finetuning = self.choose(name, options, plan)
        return replace(self._trained(name, options, self.experiment.train, plan), finetuning=finetuning)

    def teacher(self, entry: catalogue.CatalogueEntry) -> Teacher:
        """The teacher, trained first: on the public set with its labels if there is one, or else by FedAvg."""
        model = self.learner.teacher_model(entry)
        public = self.experiment.public
        name, options = ("fedavg", self.settings.baseline) if public is None else ("centralised", {"local": "adam"})
        clients = self.experiment.train if public is None else public
        source = Sampled(clients, self.experiment.sampler("batches"), seed=self.settings.seed)
        rounds, synchronous = self._plan.rounds, ScheduleSettings(name="synchronous")
        tick = self.show.stage("teacher", rounds)
        algorithm, engine = self.learner.algorithm(name, model, options=options), self._engine(source, model)
        if self.experiment.secured and public is None:
            engine = self.experiment.secured.engine(engine, algorithm, source, model.params)
        state = run_train_stage(
            self.run,
            "teacher",
            algorithm,
            engine,
            model.params,
            schedule=schedule_for(self.settings, synchronous, len(source.clients)),
            rounds=rounds,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            watch=lambda round: tick(round_line(round.info)),
        )
        return partial(model.predict, state.params)

    @property
    def _plan(self) -> TrainingPlan:
        assert self.settings.rounds is not None  # complete() has filled it in
        return TrainingPlan(self.settings.algorithm, self.settings.rounds, self.settings.schedule)

    @property
    def _rival_plan(self) -> TrainingPlan:
        """Synchronous rounds, in which clients do as many pieces of work as in the run."""
        asked, clients = ScheduleSettings(name="synchronous"), len(self.experiment.train)
        of, ours = (replies(self.settings, schedule, clients) for schedule in (asked, self.settings.schedule))
        stage = "fedavg" if self.settings.algorithm != "fedavg" else "fedavg-synchronous"
        return TrainingPlan(stage, max(1, round(self._plan.rounds * ours / of)), asked)

    def _trained(self, name: str, options: Mapping[str, Any], clients: Population, plan: TrainingPlan) -> TrainedStart:
        entry = catalogue.entry(name)
        exact = self.settings.start == "exact"  # which has no rounds to compare with
        budget = None if exact or name == self.settings.algorithm else self.experiment.budget
        source = self.experiment.source(name, clients, options, examples=budget)
        cohort = min(self.settings.cohort or len(source.clients), len(source.clients))
        built = self._built(name, options, source.population.names, cohort)
        model, algorithm = built.model, built.algorithm
        slow, dropped = self.experiment.stragglers(entry), self.settings.stragglers.work == "dropped"
        shortened = source if dropped or slow.part == 0 else ShortenedTasks(source, slow.share)
        protection = self._protection()
        algorithm = protection.algorithm(algorithm) if protection else algorithm
        store = ClientStateStore(self.run.path / "kept" / plan.stage) if self.settings.client_state == "disk" else None
        engine = self._surrounded(name, algorithm, shortened, model, protection, store)
        tick = self.show.stage(f"{name} ({plan.stage})" if plan.stage != name else name, plan.rounds)
        heard = RoundWatcher(tick, clients.names)
        state = self._run_rounds(
            entry,
            options,
            plan.stage,
            algorithm,
            engine,
            model.params,
            schedule=schedule_for(
                self.settings,
                plan.schedule,
                len(source.clients),
                answering=slow.answering if dropped else None,
                own_cohorts=protection is not None,
                sizes={client: source.size(client) for client in source.clients},
            ),
            rounds=plan.rounds,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            watch=heard,
            guard=protection.rounds if protection else without_guard,
            store=store,
        )
        if protection:
            protection.finish()
            state = public_info(state)
        for line in heard.notes(self.settings):
            self.show.note(f"{plan.stage}: {line}")
        own = partial(byzantine.rule_of_algorithm, settings=self.settings)
        memory = {} if entry.pooled else ByName(clients.names, engine.memory(), own)
        return TrainedStart(name, model, state, {}, options, memory)

    def _built(self, name: str, options: Mapping[str, Any], clients: Sequence[str], cohort: int) -> Built:
        """As planned; anew where its rates were chosen, where clients have their own, or a teacher was trained."""
        entry, experiment = catalogue.entry(name), self.experiment
        for planned in (experiment.main, *experiment.baselines.values()):
            same = (planned.name, planned.options) == (name, options)
            if same and not entry.takes("teacher") and not self.learner.own.lr:
                return planned
        model = self.learner.model(entry)
        algorithm = self.learner.algorithm(name, model, options=options, clients=clients)
        return Built(name, options, model, experiment.defended(name, algorithm, cohort))

    def _engine(self, source: TaskSource, model: AnyModel, kept: ClientStateStore | None = None) -> Engine:
        return self.experiment.engine(source, model, kept, self.executors)

    def _run_rounds(
        self, entry: catalogue.CatalogueEntry, options: Mapping[str, Any], stage: str, *work: Any, **how: Any
    ) -> ServerState:
        """Train a stage; where it diverges, name the learning rates that it had."""
        try:
            return run_train_stage(self.run, stage, *work, **how)
        except Diverged as error:
            raise Diverged(f"{stage}, under {_rates(entry, options)}: {error}") from error

    def _protection(self) -> PrivacyPlan | None:
        promise = self.experiment.privacy
        if promise is None:
            return None
        return PrivacyPlan(self.run.path, promise, noise_terms(self.settings, self._fingerprint))

    @property
    def _fingerprint(self) -> str:
        """Of the data that the run was started on."""
        return str(self.run.manifest["data"]["fingerprint"])

    def _surrounded(
        self,
        name: str,
        algorithm: Algorithm,
        source: TaskSource,
        model: AnyModel,
        protection: PrivacyPlan | None,
        kept: ClientStateStore | None,
    ) -> Engine:
        """The engine of these clients, some of whom may be hostile, within what the run puts around it.

        From the inside out: poisoned data, noise of the clients' own, lies, and secure aggregation, out of which only
        sums come.
        """
        attack, attackers = self.experiment.attack(name, model), byzantine.attackers_of(self.settings, source)
        engine = self._engine(byzantine.with_poison(source, attack, attackers), model, kept)
        engine = protection.engine(engine) if protection else engine
        engine = byzantine.with_attack(engine, attack, attackers, algorithm.init(model.params), self.settings)
        secured, noise = self.experiment.secured, protection.distributed if protection else None
        return secured.engine(engine, algorithm, source, model.params, noise) if secured else engine

    # ---- rivals ------------------------------------------------------------------------------------------------

    def rivals(self, main: TrainedStart) -> dict[str, TrainedStart]:
        """FedAvg with fine-tuning, and local only: each with the fine-tuning that validation clients like best.

        Under privacy another FedAvg would be another release, and known clients may choose nothing: local only is left,
        with the fine-tuning that suits the very clients that judge, which is in its favour.
        """
        if self.experiment.privacy:
            model = self.learner.model(catalogue.entry("fedavg"))
            blank = self.learner.algorithm("fedavg", model, options=self.settings.baseline).init(model.params)
            alone = TrainedStart("fedavg", model, blank, {}, self.settings.baseline)
            return {
                "local": replace(alone, finetuning=_ways(self._choose(alone, self.experiment.unseen, "local", "local")))
            }
        same = self.settings.algorithm == "fedavg" and self.settings.schedule.name == "synchronous"
        fedavg = main if same else self.train("fedavg", self.settings.baseline, self._rival_plan)
        untrained = replace(fedavg, state=self._algorithm(fedavg).init(fedavg.model.params))
        chosen = self._choose(untrained, self.experiment.validation()[1], "local", "local")
        local = replace(untrained, finetuning=_ways(chosen))
        return {"fedavg_finetuned": fedavg, "local": local}

    # ---- choosing ----------------------------------------------------------------------------------------------

    def choose(
        self, name: str, options: Mapping[str, Any], plan: TrainingPlan
    ) -> tuple[Mapping[str, Any], dict[Row, FineTuning]]:
        """Learning rates, and how to adapt for each number of shots, chosen on clients that no probe has seen.

        A probe is a quarter of the rounds; each of the `tune` factors has one. Under privacy nothing is chosen, for
        that would show something of those clients: fine-tuning is the usual one.
        """
        entry = catalogue.entry(name)
        usual = {k: FineTuning() for k in self.experiment.shots} if entry.tuned(options) else {}
        if self.experiment.privacy:
            return options, usual
        tried = [(f, scale_rates(entry, options, f)) for f in self.settings.tune] or [(1.0, options)]
        if not (self.settings.tune or entry.tuned(options) or entry.own_steps(options)):
            return options, {}
        rest, validation = self.experiment.validation()
        if len(rest) == 0:
            return options, usual
        found: list[TriedRates] = []
        for number, (factor, asked) in enumerate(tried):
            probing = replace(plan.probe, stage=f"{plan.probe.stage}_{number}") if self.settings.tune else plan.probe
            try:
                probe = self._trained(name, asked, rest, probing)
            except Diverged:
                continue
            for word, options in _architectures(entry, asked, probe.model):
                ways = self._choose(replace(probe, options=options), validation, name, probing.stage + word)
                found.append(TriedRates(factor, options, ways))
        if not found and not self.settings.tune:
            raise Diverged(f"{name} diverges under {_rates(entry, options)}: lower the rate that is too large")
        if not found:
            raise InputError(f"{name} diverges with each factor of tune={list(self.settings.tune)}: add smaller ones")
        chosen = best_trial(found)
        if self.settings.tune:
            factors = dict.fromkeys(each.factor for each in found)
            self.tuning[name] = {
                "rates": {key: setting(entry.factory, chosen.options, key) for key in entry.rates},
                "factor": chosen.factor,
                "scores": {str(f): max(each.score for each in found if each.factor == f) for f in factors},
            }
        return chosen.options, _ways(chosen.adapting)

    def _choose(self, trained: TrainedStart, clients: Population, what: str, stage: str) -> dict[Row, Scored]:
        """How to adapt a probe, for each number of shots; written down, so that a resumed run need not choose again."""
        tick = self.show.stage(f"fine-tuning of {what}", len(self.experiment.shots))
        learner, chosen = self.learner, {}
        for shots in self.experiment.shots:
            key = f"{stage}, {shots} shots"
            found = self.run.choice(key)
            if found is None:
                source = self.experiment.judged(
                    clients, shots, purpose="validation", episodes=max(3, 9 // len(clients))
                )
                if not source.clients:
                    continue
                judge = Judge(
                    self._engine(source, trained.model),
                    trained.state,
                    source,
                    learner.metric(trained.model),
                    learner.higher_is_better,
                )
                found = self._chosen(trained, shots, judge)
                self.run.keep_choice(key, found)
            chosen[shots] = found
            tick(str(found.how or ""))
        return chosen

    def _chosen(self, trained: TrainedStart, shots: Row, judge: Judge) -> Scored:
        entry, learner = catalogue.entry(trained.name), self.learner
        if entry.tuned(trained.options):
            path = partial(learner.finetuning, trained.model, entry, self.settings.evaluation.ways)
            return choose_finetuning(path, self._algorithm(trained), judge, has_head=trained.model.width > 0)

        def adapting(how: FineTuning | None) -> Algorithm:
            return self._algorithm(replace(trained, finetuning={} if how is None else {shots: how}), shots)

        if entry.own_steps(trained.options):
            usual = usual_steps(entry, trained.options)
            return choose_own_steps(adapting, judge, usual, own_rates(usual, trained.options))
        return Scored(judge.scores(adapting(None))[0], None)

    @property
    def _few(self) -> int:
        return min(3, self.settings.evaluation.episodes)

    # ---- judging -----------------------------------------------------------------------------------------------

    def table(self, main: TrainedStart, rivals: Mapping[str, TrainedStart], clients: Population) -> dict[str, Any]:
        """Every column for every number of shots, on the same episodes of clients never seen in training."""
        tick = self.show.stage("judging on unseen clients", len(self.experiment.shots) * (2 + len(rivals)))
        few = self.settings.evaluation.baseline_episodes
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

    def seen(self, main: TrainedStart) -> dict[str, Any]:
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

    @property
    def _has_curve(self) -> bool:
        """Whether a curve is asked for, of an algorithm whose clients take steps."""
        return self.settings.evaluation.curve and catalogue.entry(self.settings.algorithm).takes_steps

    def curve(self, main: TrainedStart) -> dict[str, Any]:
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

    def attacked(self, main: TrainedStart) -> dict[str, Any]:
        """Who attacked; for a backdoor, on how many of unseen clients' other classes it gives its target."""
        attack = self.experiment.attack(main.name, main.model)
        if attack is None:
            return {}
        source = self.experiment.source(self.settings.algorithm, self.experiment.train, main.options)
        attackers = byzantine.attackers_of(self.settings, source)
        said: dict[str, Any] = {
            "name": attack.name,
            "clients": len(source.clients),
            "attackers": [source.population.names[c] for c in sorted(attackers)],
        }
        if attack.trigger is not None:
            said["success"] = {
                str(shots): self._openings(main, attack.trigger, shots) for shots in self.experiment.shots
            }
        return {"attack": said}

    def _openings(self, main: TrainedStart, trigger: Poison, shots: int) -> dict[str, Any]:
        source = TriggeredTasks(self.experiment.judged(self.experiment.unseen, shots, purpose="judge unseen"), trigger)
        return {
            "unadapted": _cells(self.judge(main, source, shots, plain=True)),
            "adapted": _cells(self.judge(main, source, shots)),
        }

    def judge(
        self,
        trained: TrainedStart,
        source: TaskSource,
        shots: int,
        *,
        plain: bool = False,
        steps: int | None = None,
        known: bool = False,
    ) -> ScoreSummary:
        """Score a trained start on the source's clients.

        Args:
            plain: before any adaptation; where an episode's classes are new, under a head that knows nothing of them.
            steps: adaptation steps; None: the algorithm's own.
            known: the clients were trained on: they have what they kept.
        """
        algorithm = self._algorithm(trained, shots, steps)
        if known:
            assert isinstance(source, Sampled)
            place = {name: i for i, name in enumerate(self.experiment.train.names)}
            numbers = [place[name] for name in source.population.names]
            algorithm = evaluation.renumber_clients(algorithm, numbers)
        else:
            algorithm = evaluation.to_newcomers(algorithm)
        if plain:
            start = self.learner.starting_head(
                trained.model, catalogue.entry(trained.name), self.settings.evaluation.ways
            )
            algorithm = evaluation.without_adaptation(algorithm, start)
        engine = self._engine(source, trained.model)
        if known:
            assert isinstance(source, Sampled)
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

    def _algorithm(self, trained: TrainedStart, shots: Row | None = None, steps: int | None = None) -> Algorithm:
        return self.learner.algorithm(
            trained.name,
            trained.model,
            options=trained.options,
            finetuning=trained.finetuning_for(shots) if shots else None,
            ways=self.settings.evaluation.ways if shots else None,
            test_steps=steps,
        )


def _rates(entry: catalogue.CatalogueEntry, options: Mapping[str, Any]) -> str:
    """Every learning rate of an algorithm under these settings, as `--set` takes it."""
    optimizers = [f"{n}.lr" for n, p in entry.settings.items() if isinstance(p.default, Optimizer)]
    keys = dict.fromkeys([*optimizers, *entry.rates, *(n for n in ("lr", "alpha_lr") if n in entry.settings)])
    return ", ".join(f"{key}={setting(entry.factory, options, key):g}" for key in keys) or "its settings"


def _architectures(
    entry: catalogue.CatalogueEntry, options: Mapping[str, Any], model: AnyModel
) -> list[tuple[str, Mapping[str, Any]]]:
    """The architectures that a newcomer may have, each as a word for its stage and the settings: validation clients
    choose one, unless the user has."""
    if not entry.takes("newcomer") or options.get("newcomer") or not isinstance(model, ModelZoo):
        return [("", options)]
    return [(f", {word}", {**options, "newcomer": word}) for word in model.models]


def _ways(scored: Mapping[Row, Scored]) -> dict[Row, FineTuning]:
    return {shots: each.how for shots, each in scored.items() if each.how is not None}


def _cells(summary: ScoreSummary) -> dict[str, Any]:
    """A table cell's numbers, as result.json has them; an interval that one client cannot give is null."""
    cells = asdict(summary)
    return cells | {"ci95": None if summary.clients == 1 else summary.ci95}
