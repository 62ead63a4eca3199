"""From settings to objects: which clients train, what they work on, which model, how they are judged."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed import engines, models, randomness, tree
from seedbed.algorithms import catalogue
from seedbed.algorithms.exact_start import exact_start, net_in, with_net
from seedbed.algorithms.feddf import assign_architectures
from seedbed.algorithms.local_rates import with_local_rates
from seedbed.attacks import Attack
from seedbed.data import sampling
from seedbed.data.augment import with_distortions, with_rotations
from seedbed.data.population import Population
from seedbed.data.readers.summary import TINY
from seedbed.data.sampling import Sampled, Sampler, TaskSource
from seedbed.data.stragglers import Stragglers
from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.evaluation import as_newcomers, per_example
from seedbed.experiments import byzantine, client_settings
from seedbed.experiments.config import ModelSettings, Row, Settings, known_keys
from seedbed.experiments.costs import Costs, costs
from seedbed.experiments.factories import CLIENTS, arguments_from_settings, split_round_schedules
from seedbed.experiments.honest_choice import fold_of
from seedbed.experiments.multi_rank import needs_each_message
from seedbed.experiments.privacy_plan import PrivacyPromise, refuse_unprotected
from seedbed.experiments.scheduling import refuse_schedule, server_updates
from seedbed.experiments.secure_aggregation import SecurePlan, one_message
from seedbed.federated import Algorithm, Engine, Params, by_examples, uniform
from seedbed.learning import objectives
from seedbed.learning.adaptations import unadapted
from seedbed.learning.distillation import Teacher
from seedbed.learning.effects import Effects, Likelihood, input_effects, likelihood, with_effects
from seedbed.learning.finetuning import FineTuning, Tunable, finetune
from seedbed.learning.heads import fresh_head
from seedbed.learning.objectives import Adapt, Metric, Predict, supervised
from seedbed.learning.optimizers import Optimizer
from seedbed.learning.parameter_generation import noise_length
from seedbed.models import Model, ModelZoo
from seedbed.models.layers import layers_of
from seedbed.models.precision import set_precision
from seedbed.models.split import SplitHalves, SplitNet

AnyModel = Model | ModelZoo
SEVERAL = {True: ("conv:32", "conv:16", "mlp:64"), False: ("mlp:64", "mlp:32-32", "linear")}  # for images, or not
LARGEST_SHAPE = 2**31  # numbers of an example, classes or clients
ROUND_SHOTS = (1, 2, 5, 10, 20, 50, 100)
OF_NET = ("all", "head", "head_then_all")  # ways to fine-tune that are of the network beside an exact start
WEIGHTS = {"uniform": uniform, "examples": by_examples}
MOST_VALIDATION = 30  # clients that choose how rivals fine-tune, where the start is exact


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
        """From a manifest's table.

        Raises:
            InputError: it is no shape, or one that no model can have.
        """
        try:
            made = cls(**{**table, "inputs": tuple(table["inputs"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"the shape of the data cannot be read ({error}): restore the file") from error
        numbers = (*made.inputs, made.classes, made.targets, made.clients)
        whole = all(type(n) is int and n >= 0 for n in numbers) and isinstance(made.episodic, bool)
        if not whole or math.prod(made.inputs) > LARGEST_SHAPE or max(numbers) > LARGEST_SHAPE:
            raise InputError(f"{str(made)[:120]} is no shape that data can have: restore the file")
        return made


class Learner:
    """Models, losses and algorithms for data of one shape.

    Args:
        settings: complete ones (see `recipes.complete`).
        shape: of the data.
    """

    def __init__(self, settings: Settings, shape: Shape):
        self.settings, self.shape = settings, shape
        regression, by_loss = shape.classes == 0, settings.start == "exact"
        self.loss = objectives.squared_error if regression else objectives.cross_entropy
        self.metric_name = "squared error" if regression else "log-loss" if by_loss else "accuracy"
        self.higher_is_better = not (regression or by_loss)
        self.score = self.loss if regression or by_loss else objectives.correct
        self.public: Batch | None = None  # what is set apart, [P, ...]; a run without its data has none
        self.teacher: Teacher = _no_teacher
        self.own = client_settings.NONE  # settings of clients' own
        self.device = usable_device(settings.device)
        set_precision(settings.precision, self.device)

    def outputs(self, entry: catalogue.CatalogueEntry) -> int:
        """How many outputs the model has: a way each in episodes, unless labels are the data's own."""
        if self.shape.classes == 0:
            return self.shape.targets
        ways = self.shape.episodic and not self._new_classes(entry)
        return self.settings.evaluation.ways if ways else self.shape.classes

    def labels(self, items: catalogue.Items) -> int:
        """How many labels the data have that an algorithm trains on: in episodes they are drawn afresh."""
        drawn = {"episode_batches": self.settings.evaluation.ways}
        batches = items in ("batches", "full") or not self.shape.episodic
        return self.shape.classes if batches else drawn.get(items, self.settings.task.ways)

    def is_exact(self, name: str) -> bool:
        """Whether the algorithm's start is the exact one."""
        return self.settings.start == "exact" and name == self.settings.algorithm

    def asked_model(self, entry: catalogue.CatalogueEntry) -> ModelSettings:
        """The model of an algorithm, as settings name it: an exact start is linear."""
        exact = self.settings.start == "exact" and entry is catalogue.entry(self.settings.algorithm)
        return self.settings.model.like("linear") if exact else self.settings.model

    def effects(self, model: Model, places: Sequence[int]) -> dict[str, Effects]:
        """The effects of clients on an exact start: on the intercept, and on these inputs."""
        slopes = {"slopes": input_effects(places, head=model.head)} if places else {}
        return {"bias": input_effects((), head=model.head), **slopes}

    def kind(self, model: Model) -> Callable[[Params], Likelihood]:
        """How examples follow from a linear model's scores."""
        return lambda params: likelihood(self.loss, len(params[f"{model.head}.bias"]))

    def exact(self, model: Model, options: Mapping[str, Any], how: FineTuning | None) -> tuple[Algorithm, Predict]:
        """An exact start whose clients adapt so (None: not at all), and how their models predict."""
        effects, net = self.effects(model, options.get("slopes", ())), self.net()
        layers = "none" if how is None else how.layers
        adapt: str | Adapt = layers if layers in effects else unadapted
        predict = with_effects(model.predict, effects[layers]) if layers in effects else model.predict
        if how is not None and how.layers in OF_NET:
            tuned = finetune(Tunable(net.predict, net.features, self.loss, net.head), how)
            adapt, predict = (lambda params, support: tuned(net_in(params), support)), net.predict
        algorithm = exact_start(model.predict, effects, self.kind(model), adapt)
        if not options.get("net"):
            return algorithm, predict
        return replace(algorithm, init=lambda params: algorithm.init({**with_net({}, net.params), **params})), predict

    def net(self) -> Model:
        """The network that FedAvg trains beside an exact start."""
        model = self.model(catalogue.entry("fedavg"))
        assert isinstance(model, Model)
        return model

    def model(self, entry: catalogue.CatalogueEntry) -> AnyModel:
        """The initial model that an algorithm trains, a function of the seed.

        Batch normalisation is for those alone whose clients keep its statistics: their rivals have none.
        """
        asked, outputs = self.asked_model(entry), self.outputs(entry)
        with randomness.seeded_init(self.settings.seed):
            if not entry.takes("assign"):
                asked = asked if entry.normalises else asked.model_copy(update={"norm": "group"})
                return self._built(asked, outputs, split=entry.takes("tail"))
            words = asked.several or SEVERAL[models.is_image_shape(self.shape.inputs)]
            if len(set(words)) < len(words):
                raise InputError(f"model.several={list(words)} names an architecture twice: each must be another")
            made = {word: self._built(asked.like(word), outputs) for word in words}
            return ModelZoo(made)

    def teacher_model(self, entry: catalogue.CatalogueEntry) -> Model:
        """The initial teacher."""
        asked = self.settings.model
        wide = {"hidden": tuple(4 * h for h in asked.hidden), "channels": 4 * asked.channels}
        asked = asked.like(asked.teacher) if asked.teacher else asked.model_copy(update=wide)
        with randomness.seeded_init(self.settings.seed):
            return self._built(asked, self.outputs(entry))

    def _built(self, asked: ModelSettings, outputs: int, *, split: bool = False) -> Model:
        made = build_model(asked, self.shape.inputs, outputs, split=split)
        return made.to(self.device, precision=self.settings.precision)

    def initial_teacher(self, entry: catalogue.CatalogueEntry) -> Teacher:
        """A teacher that knows nothing."""
        model = self.teacher_model(entry)
        return partial(model.predict, model.params)

    def metric(self, model: AnyModel) -> Metric:
        return per_example(model.predict, self.score)

    def finetuning(
        self, model: AnyModel, entry: catalogue.CatalogueEntry, ways: int, how: FineTuning, at: Sequence[int] = ()
    ) -> Adapt:
        """Fine-tuning that begins with `starting_head`; `at`: as of `finetune`."""

        def made(one: Model) -> Adapt:
            tunable = Tunable(one.predict, one.features, self.loss, one.head)
            return finetune(tunable, how, start=self.starting_head(one, entry, ways), at=at)

        return model.each(made)

    def starting_head(self, model: AnyModel, entry: catalogue.CatalogueEntry, ways: int) -> Adapt:
        """What precedes fine-tuning: a head of zeros where an episode's classes are new, else nothing."""
        made = self._new_classes(entry)
        return model.each(lambda m: fresh_head(ways=ways, width=m.width, head=m.head)) if made else unadapted

    def _refuse_more(self, entry: catalogue.CatalogueEntry, name: str, ways: int | None) -> None:
        """A head that is neither solved nor made afresh has as many classes as it was trained with, and no more."""
        trained = self.settings.task.ways if entry.items == "episodes" else 0
        asked, has = trained if ways is None else ways, self.outputs(entry)
        solved = "ways" in inspect.signature(entry.factory).parameters
        if self.shape.episodic and asked > has and not solved and not self._new_classes(entry):
            raise InputError(
                f"the models of {name} have {has} outputs, too few for {asked} classes: give at most {has}, or train "
                f"with evaluation.ways={asked}"
            )

    def _new_classes(self, entry: catalogue.CatalogueEntry) -> bool:
        """Whether clients are judged by other classes than the algorithm is trained on."""
        return self.shape.episodic and entry.items in ("batches", "full")

    def algorithm(
        self,
        name: str,
        model: AnyModel,
        *,
        options: Mapping[str, Any] | None = None,
        finetuning: FineTuning | None = None,
        ways: int | None = None,
        test_steps: int | None = None,
        clients: Sequence[str] = (),
    ) -> Algorithm:
        """The named algorithm for a model.

        Args:
            options: its settings; None: those of the run.
            finetuning: how clients adapt, where it is chosen.
            ways: classes of a task, for heads that are solved; None: as many as training has.
            test_steps: adaptation steps; None: the algorithm's own.
            clients: the names of those that train, whose learning rates may be their own.
        """
        entry = catalogue.entry(name)
        options = self.settings.options if options is None else options
        if self.is_exact(name):
            assert isinstance(model, Model)
            return self.exact(model, options, finetuning)[0]
        self._refuse_more(entry, name, ways)
        ways = max(self.settings.task.ways, self.settings.evaluation.ways) if ways is None else ways
        context: dict[str, Any] = {
            "loss": supervised(model.predict, self.loss),
            "features": model.features,
            "ways": ways if self.shape.episodic else self.shape.classes,
            "updates": self._updates(name),
            "model": model,
            **self._held(entry, model),
            "layers": layers_of(model) if entry.takes("layers") and isinstance(model, Model) else (),
            "clients": self.shape.clients,
            "personal_head": self.shape.episodic,
            "seed": self.settings.seed,
        }
        if entry.tuned(options):
            how = finetuning or FineTuning()
            if test_steps is not None:
                how = replace(how, steps=test_steps, head_steps=test_steps)
            context["adapt"] = self.finetuning(model, entry, ways, how)
        elif finetuning is not None:
            own = {"test_steps": finetuning.steps, "test_lr": finetuning.lr}
            options = {**options, **{n: v for n, v in own.items() if n == "test_steps" or v}}
        if test_steps is not None and not entry.takes_steps:
            raise InputError(f"steps={test_steps} means nothing to {name}, whose clients adapt at once: leave it out")
        if test_steps is not None and not entry.tuned(options):
            options = {**options, "test_steps": test_steps}
        if entry.classes and self.shape.classes == 0:
            raise InputError(f"{name} works on classes, but the target is a number: use per_fedavg or fedmeta")
        if options.get("personal_head") is False and self.shape.episodic and name == "pfedhn":
            raise InputError(
                "pfedhn with personal_head=false would generate heads for the classes of training, but in N-way "
                "episodes their labels are drawn afresh: leave personal_head out, or use autoregressive"
            )
        options, schedules = split_round_schedules(options, context)
        arguments = arguments_from_settings(entry.factory, options, context, also=known_keys())
        start = self.starting_head(model, entry, ways)

        def make(optimizers: Mapping[str, Optimizer]) -> Algorithm:
            made: Algorithm = entry.factory(**{**arguments, **optimizers})
            made = WEIGHTS[self.settings.weights](made) if self.settings.weights and not entry.needs_mean else made
            return made if entry.finetunes or start is unadapted else as_newcomers(made, start)

        local = {n: arguments.get(n, entry.settings[n].default) for n in CLIENTS if n in entry.settings}
        rates = self._own_rates(local, clients)
        return (
            with_local_rates(make, local, over_rounds=schedules, of_clients=rates) if schedules or rates else make({})
        )

    def _updates(self, name: str) -> int | None:
        """The server's steps in the run, over which its learning rate may follow a schedule."""
        if self.settings.rounds is None or name != self.settings.algorithm:
            return self.settings.rounds
        return self.settings.rounds * server_updates(self.settings, self.settings.schedule, self.shape.clients)

    def _own_rates(self, local: Mapping[str, Optimizer], clients: Sequence[str]) -> dict[int, float]:
        """Each client's learning rate over that of all, by its number among these."""
        own = {i: self.own.lr[name] for i, name in enumerate(clients) if name in self.own.lr}
        return {i: rate / local["local"].settings["lr"] for i, rate in own.items()}

    def sampler(self, items: catalogue.Items, *, examples: int | None = None) -> Sampler:
        """What clients work on in training.

        Args:
            examples: about how many examples a client's items hold in a round, instead of the settings' own steps,
                epochs and episodes; None: those.
        """
        task, episodic = self.settings.task, self.shape.episodic

        def times(per_item: float, given: int | None) -> int | None:
            return given if examples is None else max(1, round(examples / per_item))

        size = task.size or examples or 10
        steps = times(size, task.steps)
        if items == "full":
            return sampling.batches(None)
        if items == "noisy_episodes":
            model = self.model(catalogue.entry(self.settings.algorithm))
            assert isinstance(model, Model)  # one that is generated is of one architecture
            return sampling.with_noise(
                self.sampler("episodes", examples=examples), noise_length(model.params, layers_of(model))
            )
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
        if not (self.own.steps or self.own.size):
            return sampling.batches(task.size, epochs=task.epochs, steps=steps)
        own = self.own
        return sampling.by_client(
            lambda name: sampling.batches(
                own.size.get(name, task.size), epochs=task.epochs, steps=own.steps.get(name, steps)
            )
        )

    def _held(self, entry: catalogue.CatalogueEntry, model: AnyModel) -> dict[str, Any]:
        """What algorithms may ask for beside the loss: the model's parts, public inputs, the teacher."""
        held: dict[str, Any] = {"predict": model.predict, "teacher": self.teacher, "task_loss": self.loss}
        if isinstance(model, Model):
            held["head"] = model.head
        if entry.takes("assign"):
            held["assign"] = assign_architectures
        if isinstance(model.module, SplitNet):
            halves = SplitHalves(model.module)
            held |= {"extract": halves.extract, "exit": halves.exit, "tail": halves.tail}
        if entry.takes("public"):
            # A run without its data adapts clients, for which public inputs are not looked at: one row of zeros.
            x = torch.zeros(1, *self.shape.inputs) if self.public is None else self.public.x
            held["public"] = tree.to_device_of(x, model.params)
            held["labels"] = None if self.public is None else tree.to_device_of(self.public.y, model.params)
        return held


def usable_device(device: str) -> torch.device:
    """The device of this name.

    Raises:
        InputError: there is none, or nothing can be computed there.
    """
    try:
        there = torch.ones(1, device=device)
        float(there)  # what has no numbers (meta) cannot say them
        return there.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device={device!r} cannot be used here ({str(error).splitlines()[0]}): leave it out to compute on the CPU"
        ) from error


def _no_teacher(x: Tensor) -> Tensor:
    raise AssertionError("a teacher is there in training alone")


def build_model(asked: ModelSettings, inputs: Sequence[int], outputs: int, *, split: bool = False) -> Model:
    """The model that settings name; split: with a server's net on its features."""
    made = models.by_name(asked.name, inputs, outputs, hidden=asked.hidden, channels=asked.channels, norm=asked.norm)
    if not split:
        return Model(made, head="head")
    large = asked.like(asked.server)
    tail = models.by_name(large.name, (made.head.in_features,), outputs, hidden=large.hidden)
    return Model(SplitNet(made, tail), head="tail.head")


HELD_BYTES = 2**31  # bytes of messages that a round may hold before they are summed as they come


class Experiment:
    """A population split for a run, and the tasks made of it.

    Attributes:
        train: known clients' training rows.  held_out: their other rows (client as task only).
        unseen: clients never trained on.
        privacy: what the known clients are promised, once planned; None: nothing.
        secured: what the server sees under secure aggregation, once checked; None: every message.
    """

    def __init__(self, settings: Settings, population: Population):
        self.settings, self.population = settings, population
        self.notes: list[str] = []  # what `check` changed
        self.plans = engines.TuningCache()  # where the executors that are chosen are kept
        _refuse_hopeless(population, settings.data)
        entry = catalogue.entry(settings.algorithm)
        if entry.same_labels and population.episodic:
            population = self.population = self._same_labels(population)
        self.train, self.unseen = split_population(population, settings)
        public = None
        if population.episodic:
            self.train = self.train.compact()
        if settings.public:
            self.train, public = self.train.set_apart(settings.public, seed=settings.seed)
        self.held_out: Population | None = None
        if not population.episodic and settings.hold_out:
            self.train, self.held_out = self.train.hold_out(settings.hold_out, seed=settings.seed)
        targets = 1 if population.y.ndim == 1 else int(population.y[0].numel())
        inputs, classes = tuple(population.x.shape[1:]), len(self.train.classes)
        self.shape = Shape(inputs, classes, targets, population.episodic, len(self.train))
        self.learner = Learner(settings, self.shape)
        self.learner.own = client_settings.read_client_settings(settings, entry, population.names)
        self.privacy: PrivacyPromise | None = None  # what `plan_privacy` has found
        self.secured: SecurePlan | None = None  # what `check` has found
        self.public = public
        if public is not None:
            self.learner.public = Batch(
                public.inputs(public.every_row()), public.y[public.rows], torch.ones(len(public.rows))
            )

    def _same_labels(self, population: Population) -> Population:
        """The same with a client for a task, where the labels of the data are everybody's."""
        name = self.settings.algorithm
        known, unseen = split_population(population, self.settings)
        if set(unseen.labels[unseen.rows].tolist()) - set(known.labels[known.rows].tolist()):
            raise InputError(
                f"{name} teaches label by label, but in {self.settings.data} unseen clients have labels of their own: "
                "use an algorithm whose clients adapt to new labels, such as fed_proto"
            )
        self.notes.append(f"labels mean the same for all clients, as {name} needs: a client is a task")
        return replace(population, episodic=False, encoding={**population.encoding, "episodic": False})

    def check(self) -> None:
        """Draw every client's task once, so that whoever is too small is found before any work is done.

        With drop_short, they are left out instead; a note says how many.
        """
        entry = catalogue.entry(self.settings.algorithm)
        training = self.sampler(entry.items_for(self.settings.options))
        self._check_model(entry)
        model = self.learner.model(entry)
        self._check_normalisation(entry, model)
        self.learner.algorithm(self.settings.algorithm, model).init(model.params)
        self.engine(Sampled(self.train, training), model)
        if not len(self.unseen):
            raise InputError(f"unseen={self.settings.unseen} leaves no client to judge by: set at least one apart")
        self.train = self._usable(self.train, training)
        self.shape = self.learner.shape = replace(self.shape, clients=len(self.train))
        self.secured = self._planned_secured(entry)
        self._check_hostile(model)
        if self.held_out is not None:
            place = {name: i for i, name in enumerate(self.held_out.names)}
            self.held_out = self.held_out.only([place[name] for name in self.train.names])
        refuse_schedule(self.settings, entry, len(self.train))
        refuse_unprotected(self.settings, entry)
        self._check_unseen()

    def plan_privacy(self) -> None:
        """Find the noise for the budget that is asked for, after `check`."""
        size, honest = 1, 1
        if self.secured is not None and self.settings.privacy.epsilon is not None:
            size, honest = self._message_size(), self.secured.honest
        self.privacy = PrivacyPromise.of(self.settings, len(self.train), size=size, honest=honest)

    def _planned_secured(self, entry: catalogue.CatalogueEntry) -> SecurePlan | None:
        """Secure aggregation as asked for; some choose how clients adapt wherever something is open."""
        options, asked = self.settings.options, self.settings.evaluation.baselines or bool(self.settings.tune)
        chosen = asked or entry.tuned(options) or entry.own_steps(options)
        private = self.settings.privacy.epsilon is not None
        choosing = len(self.validation()[1]) if chosen and not private else 0
        return SecurePlan.of(self.settings, entry, len(self.train), choosing)

    def _message_size(self) -> int:
        """How many numbers a client's message holds."""
        name = self.settings.algorithm
        model, source = self.learner.model(catalogue.entry(name)), self.source(name, self.train, self.settings.options)
        algorithm = self.defended(name, self.learner.algorithm(name, model), len(self.train))
        message = one_message(self.engine(source, model), algorithm, model.params)
        return sum(leaf.numel() for leaf in tree.leaves(message.value))

    def _check_model(self, entry: catalogue.CatalogueEntry) -> None:
        """What is said of a model, or set apart, must be of use to the algorithm."""
        name, asked = self.settings.algorithm, self.settings.model
        if asked.several and not entry.takes("assign"):
            raise InputError(
                f"model.several={list(asked.several)}: {name} trains one architecture; set model.name, or use feddf, "
                "fedmd or fd"
            )
        if asked.teacher and not entry.takes("teacher"):
            raise InputError(f"model.teacher={asked.teacher!r}: {name} has no teacher; use distill")
        if entry.takes("public") and self.public is None:
            raise InputError(f"{name} needs public inputs: set a part of the clients' rows apart, as in public=0.1")

    def _check_normalisation(self, entry: catalogue.CatalogueEntry, model: AnyModel) -> None:
        name = self.settings.algorithm
        if entry.normalises and not (isinstance(model, Model) and model.normalising):
            raise InputError(
                f"{name} leaves every client its own batch normalisation, but the model has none (model.name="
                f"{self.settings.model.name}, model.norm={self.settings.model.norm}), so that it would be fedavg: set "
                "model.norm=batch and a model with hidden layers, or use fedavg"
            )
        if self.settings.model.norm == "batch" and not entry.normalises:
            raise InputError(
                f"model.norm=batch has statistics that a client must keep, and {name}'s clients keep none: use fedbn, "
                "or leave model.norm=group"
            )

    def _check_hostile(self, model: AnyModel) -> None:
        """Build the rule and the attack once, so that what cannot work is found."""
        name, entry = self.settings.algorithm, catalogue.entry(self.settings.algorithm)
        byzantine.refuse_elsewhere(self.settings)
        cohort = 1 if entry.pooled else min(self.settings.cohort or len(self.train), len(self.train))
        algorithm = self.defended(name, self.learner.algorithm(name, model), cohort)
        if self.secured is not None:
            from seedbed.privacy.secure.sum_engine import refuse_unsummable

            refuse_unsummable(algorithm, self.secured.messages)
        attack = self.attack(name, model)
        if attack is not None and entry.pooled:
            raise InputError(f"attack={attack.name} with {name}: it trains on pooled data, where nobody can attack")
        if attack is not None:
            attack.refuse(algorithm)

    def _check_unseen(self) -> None:
        if self.by_row:
            self._check_rows()
            return
        judging = self.judged(self.unseen, max(self.shots), purpose="check", episodes=1).sampler
        self.unseen = self._usable(self.unseen, judging)

    @property
    def by_row(self) -> bool:
        """Whether clients that are too small for a number of examples are left out of its row, instead of refused."""
        return self.settings.start == "exact"

    def _check_rows(self) -> None:
        """Say which rows have which clients; at least one must have some."""
        if not self.shots:
            asked = ", ".join(map(str, self.settings.evaluation.shots or ()))
            raise InputError(
                f"no unseen client of {self.settings.data} has more than one row and enough for evaluation.shots="
                f"[{asked}]: set unseen=... so that larger clients judge"
            )
        for row in self.settings.evaluation.shots or ():
            short = len(self.unseen) - len(large_enough(self.unseen, row))
            if short:
                what = "half of their own examples" if row == "half" else f"{row} examples"
                self.notes.append(
                    f"{short} of {len(self.unseen)} unseen clients are too small to be judged with {what}: left out of "
                    "that row"
                )
        tiny = int((self.train.sizes <= TINY).sum())
        if tiny:
            self.notes.append(f"{tiny} known clients have {TINY} rows or fewer: they train with what they have")

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
        entry, learner = catalogue.entry(name), copy(self.learner)
        model = learner.model(entry)
        if entry.takes("teacher"):  # whatever it knows, it costs the same
            learner.teacher = learner.initial_teacher(entry)
        source = Sampled(self.train, self.sampler(entry.items_for(options)), seed=self.settings.seed)
        task = tree.index(source.tasks([0], 0), 0)
        if items is not None:
            task = task._replace(items=tree.map(lambda x: x[:items], task.items), real=task.real[:items])
        return costs(lambda: learner.algorithm(name, model, options=options), model, task)

    def stragglers(self, entry: catalogue.CatalogueEntry) -> Stragglers:
        """Who is slow in a round of training; nobody where all data is in one place."""
        return Stragglers(0.0 if entry.pooled else self.settings.stragglers.part, self.settings.seed)

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
        if shots == "half":
            raise InputError("evaluation.shots=half is for start=exact: give numbers of examples")
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

    @cached_property
    def fingerprint(self) -> str:
        """Of the data: hashing all of them once is enough."""
        return self.population.fingerprint()

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

    def engine(self, source: TaskSource, model: AnyModel, kept: engines.ClientStateStore | None = None) -> Engine:
        asked = self.settings
        return engines.make(
            asked.engine,
            source,
            model.module,
            workers=asked.workers,
            executor=self._executor(model),
            processes=asked.processes,
            plans=self.plans,
            each=needs_each_message(asked),
            summed=self._too_many(source, model),
            kept=kept,
        )

    def _too_many(self, source: TaskSource, model: AnyModel) -> bool:
        """Whether the messages of a round should not all be held; nobody must need to see each."""
        clients = self.settings.cohort or len(source.clients)
        needs = clients * tree.nbytes(model.params)
        if needs <= HELD_BYTES or needs_each_message(self.settings):
            return False
        self.plans.say(f"messages of a round, about {needs / 2**30:.1f} GB, are summed as they come")
        return True

    def _executor(self, model: AnyModel) -> str:
        """The one asked for; in a lower precision, which only some have, nothing is measured."""
        asked = self.settings
        if asked.precision != "bf16":
            return asked.executor
        if asked.executor == "factored":
            raise InputError("executor='factored' multiplies in float32: leave it or precision='bf16' out")
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


def split_population(population: Population, settings: Settings) -> tuple[Population, Population]:
    """Clients to train on, and clients never seen in training: those of the run's fold, where there are folds."""
    if settings.folds is None:
        assert settings.unseen != "each"
        return population.split_clients(unseen=settings.unseen, seed=settings.seed)
    folds, own = fold_of(range(len(population)), settings.folds, seed=settings.seed), (settings.fold or 1) - 1
    known, unseen = ([c for c in sorted(folds) if (folds[c] == own) == apart] for apart in (False, True))
    return population.only(known), population.only(unseen)


def large_enough(population: Population, row: Row) -> list[int]:
    """The clients that can be judged with so many examples: one more is left to score on."""
    least = 2 if row == "half" else row + 1
    return [int(client) for client in np.flatnonzero(population.sizes >= least)]


def row_sampler(row: Row, draws: int) -> Sampler:
    """Episodes with so many examples for support."""
    return sampling.own_half(draws=draws) if row == "half" else sampling.fresh_support(row, draws=draws)


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
