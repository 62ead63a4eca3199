"""From settings to objects: which clients train, what they work on, which model, how they are judged."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from seedbed import draws, engines, models, tree
from seedbed.algorithms import catalogue
from seedbed.errors import InputError
from seedbed.evaluation import as_newcomers, per_example
from seedbed.federated import Algorithm, Engine
from seedbed.learning import objectives
from seedbed.learning.adaptations import fresh_head, unadapted
from seedbed.learning.finetuning import FineTuning, Tunable, finetune
from seedbed.learning.generating import numbers
from seedbed.learning.objectives import Adapt, Metric, supervised
from seedbed.models import Model
from seedbed.models.layers import layers_of
from seedbed.runs.build import build
from seedbed.runs.settings import Settings, known_keys
from seedbed.tasks import sampling
from seedbed.tasks.augment import with_distortions, with_rotations
from seedbed.tasks.population import Population
from seedbed.tasks.sampling import Sampled, Sampler
from seedbed.tasks.types import Batch

# What a run builds or knows itself and hands to an algorithm's factory: not for the user to set.
HANDED = ("loss", "features", "adapt", "ways", "head", "layers", "clients", "seed")
ROUND_SHOTS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Shape:
    """What a trained model must be fed and what it gives: enough to build it again without the data."""

    inputs: tuple[int, ...]
    classes: int  # of the clients that train; 0 for regression
    targets: int  # numbers that a regression predicts for each example
    episodic: bool
    clients: int  # that train

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "Shape":
        """From a manifest's table."""
        return cls(**{**table, "inputs": tuple(table["inputs"])})


class Learner:
    """Models, losses and algorithms for data of one shape.

    Args:
        settings: complete ones (see `recipes.complete`).
        shape: of the data.
    """

    def __init__(self, settings: Settings, shape: Shape):
        self.settings, self.shape = settings, shape
        regression = shape.classes == 0
        self.loss = objectives.squared_error if regression else objectives.cross_entropy
        self.metric_name = "squared error" if regression else "accuracy"
        self.higher_is_better = not regression
        self._score = objectives.squared_error if regression else objectives.correct

    def outputs(self, entry: catalogue.Entry) -> int:
        """How many outputs the model has: a way each in episodes, unless labels are the data's own."""
        if self.shape.classes == 0:
            return self.shape.targets
        ways = self.shape.episodic and not self._new_classes(entry)
        return self.settings.evaluation.ways if ways else self.shape.classes

    def model(self, outputs: int) -> Model:
        """The initial model, a function of the seed."""
        asked = self.settings.model
        with draws.initialising(self.settings.seed):
            made = models.by_name(asked.name, self.shape.inputs, outputs, hidden=asked.hidden, channels=asked.channels)
            return Model(made, head="head")

    def metric(self, model: Model) -> Metric:
        return per_example(model.predict, self._score)

    def tunable(self, model: Model) -> Tunable:
        return Tunable(model.predict, model.features, self.loss, model.head)

    def starting_head(self, model: Model, entry: catalogue.Entry, ways: int) -> Adapt:
        """What precedes fine-tuning: a head of zeros where an episode's classes are new, else nothing."""
        new = self._new_classes(entry)
        return fresh_head(ways=ways, width=model.width, head=model.head) if new else unadapted

    def _refuse_more(self, entry: catalogue.Entry, name: str, ways: int | None) -> None:
        """A head that is neither solved nor made afresh has as many classes as it was trained with, and no more."""
        trained = self.settings.task.ways if entry.items == "episodes" else 0
        asked, has = trained if ways is None else ways, self.outputs(entry)
        solved = "ways" in inspect.signature(entry.factory).parameters
        if self.shape.episodic and asked > has and not solved and not self._new_classes(entry):
            raise InputError(
                f"the models of {name} have {has} outputs, too few for {asked} classes: give at most {has}, or train "
                f"with evaluation.ways={asked}"
            )

    def _new_classes(self, entry: catalogue.Entry) -> bool:
        """Whether clients are judged by other classes than the algorithm is trained on."""
        return self.shape.episodic and entry.items in ("batches", "full")

    def algorithm(
        self,
        name: str,
        model: Model,
        *,
        options: Mapping[str, Any] | None = None,
        finetuning: FineTuning | None = None,
        ways: int | None = None,
        test_steps: int | None = None,
    ) -> Algorithm:
        """The named algorithm for a model.

        Args:
            options: its settings; None: those of the run.
            finetuning: how clients adapt under an algorithm that has no way of its own.
            ways: classes of a task, for heads that are solved; None: as many as training has.
            test_steps: adaptation steps; None: the algorithm's own.
        """
        entry = catalogue.entry(name)
        options = self.settings.options if options is None else options
        self._refuse_more(entry, name, ways)
        ways = max(self.settings.task.ways, self.settings.evaluation.ways) if ways is None else ways
        context: dict[str, Any] = {
            "loss": supervised(model.predict, self.loss),
            "features": model.features,
            "ways": ways if self.shape.episodic else self.shape.classes,
            "head": model.head,
            "updates": self.settings.rounds,
            "layers": layers_of(model),
            "clients": self.shape.clients,
            "personal_head": self.shape.episodic,
            "seed": self.settings.seed,
        }
        if entry.tuned(options):
            how = finetuning or FineTuning()
            if test_steps is not None:
                how = replace(how, steps=test_steps, head_steps=test_steps)
            start = self.starting_head(model, entry, ways)
            context["adapt"] = finetune(self.tunable(model), how, start=start)
        elif test_steps is not None:
            options = {**options, "test_steps": test_steps}
        if options.get("personal_head") is False and self.shape.episodic and name == "pfedhn":
            raise InputError(
                "pfedhn with personal_head=false would generate heads for the classes of training, but in N-way "
                "episodes their labels are drawn afresh: leave personal_head out, or use autoregressive"
            )
        if "ways" in context and self.shape.classes == 0 and name in ("fed_proto", "fed_ridge"):
            raise InputError(
                f"{name} solves a head over classes, but the target is a number: use per_fedavg or fedmeta"
            )
        algorithm: Algorithm = build(entry.factory, options, context, also=known_keys())
        start = self.starting_head(model, entry, ways)
        return algorithm if entry.finetunes or start is unadapted else as_newcomers(algorithm, start)


class Experiment:
    """A population split for a run, and the tasks made of it.

    Attributes:
        train: known clients' training rows.  held_out: their other rows (client as task only).
        unseen: clients never trained on.
    """

    def __init__(self, settings: Settings, population: Population):
        self.settings, self.population = settings, population
        self.notes: list[str] = []  # what `check` changed
        _refuse_hopeless(population, settings.data)
        self.train, self.unseen = population.split_clients(unseen=settings.unseen, seed=settings.seed)
        self.held_out: Population | None = None
        if not population.episodic and settings.hold_out:
            self.train, self.held_out = self.train.hold_out(settings.hold_out, seed=settings.seed)
        if population.episodic:
            self.train = self.train.compact()
        targets = 1 if population.y.ndim == 1 else int(population.y[0].numel())
        inputs, classes = tuple(population.x.shape[1:]), len(self.train.classes)
        self.shape = Shape(inputs, classes, targets, population.episodic, len(self.train))

    @property
    def learner(self) -> Learner:
        return Learner(self.settings, self.shape)

    def check(self) -> None:
        """Draw every client's task once, so that whoever is too small is found before any work is done.

        With drop_short, they are left out instead; a note says how many.
        """
        entry = catalogue.entry(self.settings.algorithm)
        training = self.sampler(entry.items_for(self.settings.options))
        model = self.learner.model(self.learner.outputs(entry))
        self.learner.algorithm(self.settings.algorithm, model).init(model.params)
        engines.make(self.settings.engine, Sampled(self.train, training), model.module)
        if not len(self.unseen):
            raise InputError(f"unseen={self.settings.unseen} leaves no client to judge by: set at least one apart")
        self.train = self._usable(self.train, training)
        self.shape = replace(self.shape, clients=len(self.train))
        if self.held_out is not None:
            self.held_out = self.held_out.only([self.held_out.names.index(n) for n in self.train.names])
        self._check_unseen()

    def _check_unseen(self) -> None:
        judging = self.judged(self.unseen, max(self.shots), purpose="check", episodes=1).sampler
        self.unseen = self._usable(self.unseen, judging)

    def _usable(self, population: Population, sampler: Sampler) -> Population:
        source = Sampled(population, sampler, purpose="check")
        usable = []
        for client in source.clients:
            try:
                source.draw(client, 0)
                usable.append(client)
            except InputError as error:
                if not self.settings.drop_short:
                    raise
                self.notes.append(f"left out: {str(error).partition(':')[0]}")
        if not usable:
            raise InputError(f"every client of {self.settings.data} is too small: lower ways, shots or support")
        return population.only(usable)

    def judge_everyone(self) -> None:
        """Take all clients for unseen ones: the data is other than that of training."""
        self.unseen = self.population
        self._check_unseen()

    @cached_property
    def shots(self) -> tuple[int, ...]:
        """The numbers of support examples that unseen clients are judged with."""
        if self.settings.evaluation.shots is not None:
            return self.settings.evaluation.shots
        if self.population.episodic:
            return (1, 5)
        half = int(self.unseen.sizes.min()) // 2
        return tuple(k for k in ROUND_SHOTS if k <= half)[-2:] or (1,)

    def sampler(self, items: catalogue.Items, *, examples: int | None = None) -> Sampler:
        """What clients work on in training.

        Args:
            examples: about how many examples a client passes through its model in a round, instead of the settings'
                own steps, epochs and episodes; None: those, or the run's budget if it has one.
        """
        task, episodic = self.settings.task, self.population.episodic
        examples = self.settings.budget if examples is None else examples

        def times(per_item: float, given: int | None) -> int | None:
            return given if examples is None else max(1, round(examples / per_item))

        size = task.size or examples or 10
        steps = times(size, task.steps)
        if items == "full":
            return sampling.batches(None)
        if items == "noisy_episodes":
            model = self.learner.model(self.learner.outputs(catalogue.entry(self.settings.algorithm)))
            return sampling.noised(self.sampler("episodes", examples=examples), numbers(model.params, layers_of(model)))
        if items == "triples":
            if episodic:
                raise InputError("batches=3 needs clients as tasks, but this data makes N-way episodes: use batches=2")
            return sampling.triples(size, steps=times(3 * size, task.steps) or 10)
        if items == "episodes" and episodic:
            return sampling.episodes(
                ways=task.ways,
                shots=task.shots,
                queries=task.queries,
                count=times(task.ways * (sum(task.shots) / 2 + task.queries), task.count) or 1,
                fewer_ways=True,
            )
        if items == "episodes":
            return sampling.support_query(task.support, size=task.size, steps=times(2 * size, task.steps) or 10)
        if items == "episode_batches" and episodic:
            return sampling.episode_batches(
                ways=self.settings.evaluation.ways,
                shots=task.shots[1],
                size=size,
                steps=steps or 5,
            )
        return sampling.batches(task.size, epochs=task.epochs, steps=steps)

    def source(self, name: str, population: Population, *, examples: int | None = None) -> Sampled:
        """Training tasks of these clients for this algorithm."""
        entry = catalogue.entry(name)
        items = entry.items_for(self.settings.options)
        population = self._augmented(population, items)
        population = population.pooled() if entry.pooled else population
        return Sampled(population, self.sampler(items, examples=examples), seed=self.settings.seed)

    def _augmented(self, population: Population, items: catalogue.Items) -> Population:
        """Training clients with what the settings add to them; turned classes only where labels are drawn afresh."""
        task = self.settings.task
        if task.distortions > 1:
            population = with_distortions(population, copies=task.distortions, seed=self.settings.seed)
        if task.rotations and items in ("episodes", "noisy_episodes") and population.episodic:
            population = with_rotations(population)
        return population

    def judged(self, population: Population, shots: int, *, purpose: str, episodes: int | None = None) -> Sampled:
        """Episodes to judge these clients by; those of several shots share their queries where a client is a task."""
        evaluation = self.settings.evaluation
        count = evaluation.episodes if episodes is None else episodes
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
        """Known clients in two: to train a probe on, and to choose fine-tuning by (a fifth, at most three)."""
        apart = min(3, max(1, round(len(self.train) / 5)))
        order = draws.generator(self.settings.seed, "validation clients").permutation(len(self.train))
        return self.train.only(sorted(order[apart:])), self.train.only(sorted(order[:apart]))

    def engine(self, source: Sampled, model: Model) -> Engine:
        return engines.make(self.settings.engine, source, model.module, workers=self.settings.workers)

    @cached_property
    def budget(self) -> int:
        """How many examples a client passes through its model in a round under the run's algorithm, on average: what
        its rivals are given too. Counted on the first clients' tasks of round 0."""
        source = self.source(self.settings.algorithm, self.train)
        clients = list(source.clients)[:16]
        task = source.tasks(clients, 0)
        batches = tree.parts(task.items, Batch)
        examples = sum(float((batch.mask * task.real[:, :, None]).sum()) for batch in batches)
        return max(1, round(examples / len(clients)))


def _refuse_hopeless(population: Population, data: str) -> None:
    """Data that no run can make anything of."""
    if len(population) < 2:
        raise InputError(
            f"{data} has one client, {population.names[0]!r}, but a run needs one to train on and one to judge by: "
            "name another client column (reader.client=...), or make clients up with reader.partition=dirichlet"
        )
    if len(population.classes) == 1:
        raise InputError(
            f"every example of {data} is of the class {population.classes[0]!r}: there is nothing to learn; name "
            "another target"
        )
    if not population.x.is_floating_point() and population.x.dtype != torch.uint8:
        raise InputError(
            f"the inputs of {data} are whole numbers, which are taken for tokens, and no model of the command line "
            "reads tokens: save them as floats if they are numbers, or train in Python with a model that embeds them"
        )
