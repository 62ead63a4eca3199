"""The plan of a run: who trains, who judges, the model, the algorithm and the promises, each made once (`planning`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from seedbed import engines, randomness, tree
from seedbed.algorithms import catalogue
from seedbed.attacks import Attack
from seedbed.data import sampling
from seedbed.data.augment import with_distortions, with_rotations
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, Sampler, TaskSource
from seedbed.data.stragglers import Stragglers
from seedbed.data.types import Batch
from seedbed.experiments import byzantine
from seedbed.experiments.builder import AnyModel, Learner, Shape
from seedbed.experiments.config import Row, Settings
from seedbed.experiments.costs import Costs, costs
from seedbed.experiments.multi_rank import needs_each_message
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.experiments.secure_aggregation import SecurePlan
from seedbed.federated import Algorithm, Engine
from seedbed.learning import objectives

ROUND_SHOTS = (1, 2, 5, 10, 20, 50, 100)
TINY = 3  # rows of clients that a note counts
MOST_VALIDATION = 30  # clients that choose how baselines fine-tune, where the start is exact
HELD_BYTES = 2**31  # bytes of messages that a round may hold before they are summed as they come


@dataclass(frozen=True)
class ClientSplit:
    """The clients of a run in their roles.

    Attributes:
        population: all of them.
        train: known clients' training rows.  held_out: their other rows (client as task only).
        unseen: clients never trained on.
        public: rows of known clients that are set apart for all.
        notes: what was changed for the algorithm.
    """

    settings: Settings
    population: Population
    train: Population
    unseen: Population
    held_out: Population | None = None
    public: Population | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Of the data: hashing all of them once is enough."""
        return self.population.fingerprint()


@dataclass(frozen=True)
class Built:
    """An algorithm that the run trains, ready for its first round.

    Attributes:
        algorithm: with the run's rule for messages and momentum; noise comes with the key.
    """

    name: str
    options: Mapping[str, Any]
    model: AnyModel
    algorithm: Algorithm


@dataclass(frozen=True)
class RunPlan:
    """A run before it begins. Frozen: stages compute from it and keep what they find elsewhere.

    Attributes:
        train, held_out, unseen: as of `ClientSplit`, without the clients that are too small.
        main: what is trained.
        baselines: what it is compared with, by name.
        privacy: what the known clients are promised; None: nothing.
        secured: what the server sees under secure aggregation; None: every message.
        notes: what was changed, for the user.
    """

    split: ClientSplit
    train: Population
    unseen: Population
    held_out: Population | None
    learner: Learner
    main: Built = field(repr=False)
    baselines: Mapping[str, Built] = field(default_factory=dict, repr=False)
    privacy: PrivacyPromise | None = None
    secured: SecurePlan | None = None
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> Settings:
        return self.split.settings

    @property
    def population(self) -> Population:
        return self.split.population

    @property
    def public(self) -> Population | None:
        return self.split.public

    @property
    def shape(self) -> Shape:
        return self.learner.shape

    @property
    def fingerprint(self) -> str:
        return self.split.fingerprint

    @property
    def by_row(self) -> bool:
        """Whether clients that are too small for a number of examples are left out of its row, instead of refused."""
        return self.settings.start == "exact"

    @cached_property
    def shots(self) -> tuple[Any, ...]:
        """The numbers of support examples (`Row`) that unseen clients are judged with."""
        if self.by_row:
            asked: tuple[Row, ...] = self.settings.evaluation.shots or (5, 20, "half")
            return tuple(row for row in asked if len(large_enough(self.unseen, row)))
        if self.settings.evaluation.shots is not None:
            return self.settings.evaluation.shots
        if self.population.episodic:
            return (1, 5)
        half = int(self.unseen.sizes.min()) // 2
        return tuple(k for k in ROUND_SHOTS if k <= half)[-2:] or (1,)

    def sampler(self, items: catalogue.Items, *, examples: int | None = None) -> Sampler:
        """What clients work on in training: see `Learner.sampler`."""
        return self.learner.sampler(items, examples=examples)

    def source(
        self, name: str, population: Population, options: Mapping[str, Any], *, examples: int | None = None
    ) -> Sampled:
        """Training tasks of these clients for this algorithm.

        Args:
            examples: that a client passes through its model in a round (pooled: everybody of a cohort together); None:
                the run's budget, or as task.* says.
        """
        entry = catalogue.entry(name)
        items = entry.items_for(options)
        examples = self.settings.budget if examples is None else examples
        if examples is not None:
            together = (self.settings.cohort or len(population)) if entry.pooled else 1
            examples = max(1, round(together * examples / self.costs(name, options).passes))
        population = self._augmented(population, items)
        population = population.pooled() if entry.pooled else population
        return Sampled(population, self.sampler(items, examples=examples), seed=self.settings.seed)

    def costs(self, name: str, options: Mapping[str, Any], *, items: int | None = None) -> Costs:
        """What a client's round costs under this algorithm: the first client's of round 0, as task.* says; or of its
        first so many items."""
        entry, learner = catalogue.entry(name), self.learner.afresh()
        if entry.takes("teacher"):  # whatever it knows, it costs the same
            learner = learner.with_teacher(learner.initial_teacher(entry))
        model = learner.model(entry)
        source = Sampled(self.train, self.sampler(entry.items_for(options)), seed=self.settings.seed)
        task = tree.index(source.tasks([0], 0), 0)
        if items is not None:
            task = task._replace(items=tree.map(lambda x: x[:items], task.items), real=task.real[:items])
        return costs(lambda: learner.algorithm(name, model, options=options), model, task)

    def stragglers(self, entry: catalogue.CatalogueEntry) -> Stragglers:
        """Who is slow in a round of training; nobody where all data is in one place."""
        return Stragglers(0.0 if entry.pooled else self.settings.stragglers.fraction, self.settings.seed)

    def _augmented(self, population: Population, items: catalogue.Items) -> Population:
        """Training clients with what the settings add to them; turned classes only where labels are drawn afresh."""
        task = self.settings.task
        if task.distortions > 1:
            population = with_distortions(population, copies=task.distortions, seed=self.settings.seed)
        if task.rotations and items in ("episodes", "noisy_episodes") and population.episodic:
            population = with_rotations(population)
        return population

    def judged(self, population: Population, shots: Row, *, purpose: str, episodes: int | None = None) -> Sampled:
        """Episodes to judge these clients by; those of several shots share their queries where a client is a task."""
        evaluation = self.settings.evaluation
        count = evaluation.episodes if episodes is None else episodes
        if self.by_row:
            chosen = population.only(large_enough(population, shots))
            return Sampled(chosen, row_sampler(shots, count), seed=self.settings.seed, purpose=purpose)
        assert shots != "half"  # the table of compatibility keeps it to an exact start
        if self.population.episodic:
            sampler = sampling.episodes(ways=evaluation.ways, shots=shots, queries=evaluation.queries, count=count)
        else:
            sampler = sampling.fresh_support(shots, draws=count, reserve=max(self.shots))
        return Sampled(population, sampler, seed=self.settings.seed, purpose=purpose)

    def seen(self, shots: int) -> Sampled:
        """A few episodes to judge known clients by: on rows held out, or new episodes of their own classes."""
        few = min(5, self.settings.evaluation.episodes)
        if self.held_out is None:
            return self.judged(self.train, shots, purpose="judge seen", episodes=few)
        tested = self.held_out.only(self.held_out.sizes.nonzero()[0])
        sampler = sampling.held_out_queries(self.train, shots, draws=few)
        return Sampled(tested, sampler, seed=self.settings.seed, purpose="judge seen")

    def validation(self) -> tuple[Population, Population]:
        """Known clients in two: to train a probe on, and to choose fine-tuning by: a fifth, at most three; under secure
        aggregation three, for a sum over fewer would say too much of each."""
        most = MOST_VALIDATION if self.settings.start == "exact" else 3
        apart = min(most, max(1, round(len(self.train) / 5)))
        if self.settings.secure.form != "none":
            apart = min(3, len(self.train) - 1)
        order = randomness.generator(self.settings.seed, "validation clients").permutation(len(self.train))
        return self.train.only(sorted(order[apart:])), self.train.only(sorted(order[:apart]))

    def attack(self, name: str, model: AnyModel) -> Attack | None:
        """How some known clients attack the training of a model by this algorithm."""
        options = self.settings.options if name == self.settings.algorithm else {}
        context = {
            "classes": self.learner.labels(catalogue.entry(name).items_for(options)),
            "shape": self.shape.inputs,
            "episodic": self.shape.episodic,
        }
        context["loss"] = objectives.supervised(model.predict, self.learner.loss)
        return byzantine.attack_of(self.settings, context)

    def defended(self, name: str, algorithm: Algorithm, clients: int) -> Algorithm:
        """The algorithm with the run's rule for the messages of so many clients a round."""
        sampler = self.sampler(catalogue.entry(name).items_for(self.settings.options))
        root = partial(byzantine.root_of, self.train, sampler, self.settings)
        messages = clients if self.settings.secure.groups is None else self.settings.secure.groups
        return byzantine.with_robust_rule(algorithm, self.settings, root, messages)

    def engine(
        self,
        source: TaskSource,
        model: AnyModel,
        kept: engines.ClientStateStore | None = None,
        tuning: engines.TuningCache | None = None,
    ) -> Engine:
        """The engine of these clients.

        Args:
            kept: where clients' states are kept; None: in memory.
            tuning: the choices of executors; None: new ones.
        """
        asked, tuning = self.settings, tuning or engines.TuningCache()
        return engines.make(
            asked.engine,
            source,
            model.module,
            workers=asked.workers,
            executor=self._executor(model),
            processes=asked.processes,
            plans=tuning,
            each=needs_each_message(asked),
            summed=self._sums_as_they_come(source, model, tuning),
            kept=kept,
        )

    def _sums_as_they_come(self, source: TaskSource, model: AnyModel, tuning: engines.TuningCache) -> bool:
        """Whether to stream the aggregation, when no rule needs individual messages."""
        clients = self.settings.cohort or len(source.clients)
        needs = clients * tree.nbytes(model.params)
        if needs <= HELD_BYTES or needs_each_message(self.settings):
            return False
        tuning.say(f"messages of a round, about {needs / 2**30:.1f} GB, are summed as they come")
        return True

    def _executor(self, model: AnyModel) -> str:
        """The one asked for; in a lower precision, which only some have, nothing is measured."""
        asked = self.settings
        if asked.precision != "bf16":
            return asked.executor
        usual = engines.choose(model.module) if asked.engine == "auto" else asked.engine
        return engines.plain_executor(usual) if asked.executor == "auto" else asked.executor

    @cached_property
    def budget(self) -> int:
        """How many examples a client passes through its model in a round under the run's algorithm, on average: what
        its rivals are given too. Counted on the first clients' tasks of round 0."""
        name, options = self.settings.algorithm, self.settings.options
        source = self.source(name, self.train, options)
        clients = list(source.clients)[:16]
        task = source.tasks(clients, 0)
        batches = tree.subtrees(task.items, Batch)
        examples = sum(float((batch.mask * task.real[:, :, None]).sum()) for batch in batches)
        return max(1, round(self.costs(name, options).passes * examples / len(clients)))


def large_enough(population: Population, row: Row) -> list[int]:
    """The clients that can be judged with so many examples: one more is left to score on."""
    least = 2 if row == "half" else row + 1
    return [int(client) for client in np.flatnonzero(population.sizes >= least)]


def row_sampler(row: Row, draws: int) -> Sampler:
    """Episodes with so many examples for support."""
    return sampling.own_half(draws=draws) if row == "half" else sampling.fresh_support(row, draws=draws)
