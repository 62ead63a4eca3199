"""From settings to objects: which clients train, what they work on, which model, how they are judged."""

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from seedbed import models, randomness, tree
from seedbed.algorithms import catalogue
from seedbed.algorithms.exact_start import exact_start, net_in, with_net
from seedbed.algorithms.feddf import assign_architectures
from seedbed.algorithms.local_rates import with_local_rates
from seedbed.data import sampling
from seedbed.data.sampling import Sampler
from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.evaluation import as_newcomers, per_example
from seedbed.experiments import client_settings, named_code
from seedbed.experiments.config import ModelSettings, Settings, known_keys
from seedbed.experiments.factories import CLIENTS, arguments_from_settings, split_round_schedules
from seedbed.experiments.scheduling import server_updates
from seedbed.experiments.setting_hints import setting_hint
from seedbed.federated import Algorithm, Params, by_examples, uniform
from seedbed.learning import objectives
from seedbed.learning.adaptations import unadapted
from seedbed.learning.distillation import Teacher
from seedbed.learning.effects import Effects, Likelihood, input_effects, likelihood, with_effects
from seedbed.learning.finetuning import FineTuning, Tunable, finetune
from seedbed.learning.heads import fresh_head
from seedbed.learning.objectives import Adapt, Loss, Metric, Predict, supervised
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
WEIGHTS = {"uniform": uniform, "examples": by_examples}
OF_NET = ("all", "head", "head_then_all")  # ways to fine-tune that are of the network beside an exact start
TINY = 3  # rows of clients that a note counts
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


@dataclass(frozen=True)
class Learner:
    """Models, losses and algorithms for data of one shape. Each model and algorithm is built once.

    Attributes:
        settings: complete ones (see `presets.complete_settings`).
        shape: of the data.
        public: the rows that are set apart, [P, ...]; a run without its data has none.
        teacher: predicts for algorithms that learn from one; see `with_teacher`.
        own: settings of single clients.
    """

    settings: Settings
    shape: Shape
    public: Batch | None = field(default=None, compare=False)
    teacher: Teacher = field(default=lambda x: _no_teacher(x), compare=False)
    own: client_settings.ClientSettings = field(default=client_settings.NONE, compare=False)
    built: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        set_precision(self.settings.precision, self.device)

    @cached_property
    def device(self) -> torch.device:
        return usable_device(self.settings.device)

    @property
    def by_loss(self) -> bool:
        """Whether models are judged by the loss that they minimise."""
        return self.shape.classes == 0 or self.settings.start == "exact"

    @property
    def loss(self) -> Loss:
        """What clients minimise, for each example."""
        if self.settings.loss != named_code.AUTO:
            found: named_code.LossEntry = named_code.find("loss", self.settings.loss)
            return found.loss
        return objectives.squared_error if self.shape.classes == 0 else objectives.cross_entropy

    @property
    def judge(self) -> named_code.MetricEntry:
        """How an example is judged."""
        if self.settings.metric != named_code.AUTO:
            found: named_code.MetricEntry = named_code.find("metric", self.settings.metric)
            return found
        return named_code.MetricEntry(self.loss if self.by_loss else objectives.correct, not self.by_loss)

    @property
    def score(self) -> Loss:
        return self.judge.score

    @property
    def metric_name(self) -> str:
        if self.settings.metric != named_code.AUTO:
            return self.settings.metric.rpartition(":")[2].replace("_", " ")
        if self.by_loss and self.settings.loss != named_code.AUTO:
            return self.settings.loss.rpartition(":")[2].replace("_", " ")
        return "squared error" if self.shape.classes == 0 else "log-loss" if self.by_loss else "accuracy"

    @property
    def higher_is_better(self) -> bool:
        return self.judge.higher_is_better

    def with_teacher(self, teacher: Teacher) -> "Learner":
        """The same with a teacher; nothing is built yet."""
        return replace(self, teacher=teacher)

    def afresh(self) -> "Learner":
        """The same; nothing is built yet."""
        return replace(self)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.built:
            self.built[key] = make()
        return self.built[key]

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

        Batch normalisation is only for those whose clients keep its statistics: their baselines have none.
        """
        made: AnyModel = self._once(id(entry), lambda: self._initial(entry))
        return made

    def _initial(self, entry: catalogue.CatalogueEntry) -> AnyModel:
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
        outputs = ways if self.shape.episodic else self.shape.classes
        rated = tuple(clients) if self.own.lr else ()
        said = json.dumps(options, sort_keys=True, default=repr)
        key = (name, id(model), said, finetuning, outputs, test_steps, rated)
        made: tuple[AnyModel, Algorithm] = self._once(
            key, lambda: (model, self._algorithm(name, model, options, finetuning, ways, test_steps, rated))
        )
        return made[1]  # the model beside it is held, so that its id stays its own

    def _algorithm(
        self,
        name: str,
        model: AnyModel,
        options: Mapping[str, Any],
        finetuning: FineTuning | None,
        ways: int,
        test_steps: int | None,
        clients: Sequence[str],
    ) -> Algorithm:
        entry = catalogue.entry(name)
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
        options, schedules = split_round_schedules(options, context)
        hint = partial(setting_hint, algorithm=name)
        arguments = arguments_from_settings(entry.factory, options, context, also=known_keys(), hint=hint)
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

        size = task.batch_size or examples or 10
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
            return sampling.triples(size, steps=times(3 * size, task.steps) or 10)
        if items == "episodes" and episodic:
            return sampling.episodes(
                ways=task.ways,
                shots=task.shots,
                queries=task.queries,
                count=times(task.ways * (sum(task.shots) / 2 + task.queries), task.episodes) or 1,
                fewer_ways=True,
            )
        if items == "episodes":
            return sampling.support_query(task.support, size=task.batch_size, steps=times(2 * size, task.steps) or 10)
        if items == "episode_batches" and episodic:
            return sampling.episode_batches(
                ways=self.settings.evaluation.ways,
                shots=task.shots[1],
                size=size,
                steps=steps or 5,
            )
        if not (self.own.steps or self.own.size):
            return sampling.batches(task.batch_size, epochs=task.epochs, steps=steps)
        own = self.own
        return sampling.by_client(
            lambda name: sampling.batches(
                own.size.get(name, task.batch_size), epochs=task.epochs, steps=own.steps.get(name, steps)
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


def _named_model(name: str, inputs: Sequence[int], outputs: int) -> Model:
    """A registered model, or one that the command line names."""
    module = named_code.find("model", name)(tuple(inputs), outputs)
    if isinstance(module, Model):
        return module
    if not isinstance(module, nn.Module):
        raise InputError(f"model.name={name} gave a {type(module).__name__}: it must return an nn.Module")
    return Model(module)


def build_model(asked: ModelSettings, inputs: Sequence[int], outputs: int, *, split: bool = False) -> Model:
    """The model that settings name; split: with a server's net on its features."""
    if asked.name not in (named_code.AUTO, *named_code.BUILT_IN_MODELS):
        if split:
            raise InputError(f"model.name={asked.name}: an algorithm that splits its model needs mlp or conv")
        return _named_model(asked.name, inputs, outputs)
    made = models.by_name(asked.name, inputs, outputs, hidden=asked.hidden, channels=asked.channels, norm=asked.norm)
    if not split:
        return Model(made, head="head")
    large = asked.like(asked.server)
    tail = models.by_name(large.name, (made.head.in_features,), outputs, hidden=large.hidden)
    return Model(SplitNet(made, tail), head="tail.head")
