"""From settings and data to the plan of a run.

`divide` splits the clients; `plan` builds and checks on the split whatever can be known before training. Both are pure:
the same settings and data give the same plan, nothing is written, and a plan is never changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from seedbed import tree
from seedbed.algorithms import catalogue
from seedbed.data.population import Population
from seedbed.data.readers.summary import TINY
from seedbed.data.sampling import Sampled, Sampler
from seedbed.data.types import Batch
from seedbed.errors import InputError
from seedbed.experiments.builder import Learner, Shape
from seedbed.experiments.client_settings import read_client_settings
from seedbed.experiments.compatibility import Case, Facts, check
from seedbed.experiments.compatibility_rows import ROWS
from seedbed.experiments.config import Settings
from seedbed.experiments.honest_choice import fold_of
from seedbed.experiments.named_code import is_code
from seedbed.experiments.privacy_plan import PrivacyPromise
from seedbed.experiments.run_plan import Built, ClientSplit, RunPlan, large_enough
from seedbed.experiments.scheduling import check_concurrency
from seedbed.experiments.secure_aggregation import SecurePlan, one_message
from seedbed.models import Model


def divide(settings: Settings, population: Population, case: Case | None = None) -> ClientSplit:
    """ClientSplit the clients, once the table of compatibility has no objection.

    Args:
        settings: complete ones (see `presets.complete_settings`).
        case: as the table sees the run; None: by the settings, all of them given.
    Raises:
        InputError: the settings do not work together, or the data are of no use for them.
    """
    check(case or Case.of(settings, Facts.of(population)), ROWS)
    _require_useful(population, settings.data)
    notes: tuple[str, ...] = ()
    if catalogue.entry(settings.algorithm).same_labels and population.episodic:
        population = _with_same_labels(settings, population)
        notes = (f"labels mean the same for all clients, as {settings.algorithm} needs: a client is a task",)
    train, unseen = split_population(population, settings)
    public, held_out = None, None
    if population.episodic:
        train = train.compact()
    if settings.public:
        train, public = train.set_apart(settings.public, seed=settings.seed)
    if not population.episodic and settings.hold_out:
        train, held_out = train.hold_out(settings.hold_out, seed=settings.seed)
    return ClientSplit(settings, population, train, unseen, held_out, public, notes)


def split_population(population: Population, settings: Settings) -> tuple[Population, Population]:
    """Clients to train on, and clients never seen in training: those of the run's fold, where there are folds."""
    if settings.folds is None:
        assert settings.unseen != "each"
        return population.split_clients(unseen=settings.unseen, seed=settings.seed)
    folds, own = fold_of(range(len(population)), settings.folds, seed=settings.seed), (settings.fold or 1) - 1
    known, unseen = ([c for c in sorted(folds) if (folds[c] == own) == apart] for apart in (False, True))
    return population.only(known), population.only(unseen)


def _with_same_labels(settings: Settings, population: Population) -> Population:
    """The same with a client for a task, where a label of the data is the same for all clients."""
    known, unseen = split_population(population, settings)
    if set(unseen.labels[unseen.rows].tolist()) - set(known.labels[known.rows].tolist()):
        raise InputError(
            f"{settings.algorithm} teaches label by label, but in {settings.data} unseen clients have labels of their "
            "own: use an algorithm whose clients adapt to new labels, such as fed_proto"
        )
    return replace(population, episodic=False, encoding={**population.encoding, "episodic": False})


def plan(split: ClientSplit) -> RunPlan:
    """What a run would be, checked: each client's task is drawn once, so that one that is too small is found before
    any work is done. With drop_short such clients are left out, and a note says so.

    Raises:
        InputError: whatever can be known to fail.
    """
    settings, entry = split.settings, catalogue.entry(split.settings.algorithm)
    own = read_client_settings(settings, split.population.names)
    learner = Learner(settings, _shape_of(split, split.train), _public_batch(split.public), own=own)
    training = learner.sampler(entry.items_for(settings.options))
    learner.algorithm(settings.algorithm, learner.model(entry)).init(learner.model(entry).params)
    if not len(split.unseen):
        raise InputError(f"unseen={settings.unseen} leaves no client to judge by: set at least one apart")
    train, notes = _usable(split.train, training, settings)
    if len(train) < len(split.train):
        learner = replace(learner, shape=_shape_of(split, train))
    held_out = None if split.held_out is None else _only_named(split.held_out, train.names)
    begun = RunPlan(split, train, split.unseen, held_out, learner, _main(learner, train), notes=(*split.notes, *notes))
    begun.engine(Sampled(train, training), begun.main.model)
    _check_named_code(begun)
    defended = replace(begun, secured=_secured(begun), main=_defended(begun, begun.main))
    begun.attack(begun.main.name, begun.main.model)
    check_concurrency(settings, len(train))
    return _with_promise(_with_judges(replace(defended, baselines=_baselines(defended))))


def _check_named_code(begun: RunPlan) -> None:
    """A loss or metric of the user's must give one finite number for each example, the models as many outputs as asked.

    Raises:
        InputError: what it gives instead.
    """
    learner, model, settings = begun.learner, begun.main.model, begun.settings
    if not isinstance(model, Model) or not any(map(is_code, (settings.loss, settings.metric, settings.model.name))):
        return
    rows = begun.train.rows[:2]
    outputs = learner.outputs(catalogue.entry(begun.main.name))
    x, y = tree.to_device_of((begun.train.inputs(rows), begun.train.y[rows]), model.params)
    predictions = model.predict(model.params, x)
    if outputs > 1 and (predictions.ndim < 2 or predictions.shape[1] != outputs):
        raise InputError(f"model.name={settings.model.name} gives {list(predictions.shape)} for 2 examples: {outputs} "
                         "outputs for each are needed")  # fmt: skip
    y = torch.zeros_like(y) if begun.train.episodic else y
    for name, function in ((settings.loss, learner.loss), (settings.metric, learner.score)):
        found = function(predictions, y) if is_code(name) else torch.zeros(2)
        if found.shape != (2,) or not torch.isfinite(found).all():
            raise InputError(
                f"{name} gives {found.tolist()} of shape {list(found.shape)} for 2 examples: it must give one finite "
                "number for each, [2]"
            )


def judging_all(made: RunPlan) -> RunPlan:
    """The same with all clients as unseen ones: the data is other than that of training."""
    return _with_judges(replace(made, unseen=made.population))


def _shape_of(split: ClientSplit, train: Population) -> Shape:
    population = split.population
    targets = 1 if population.y.ndim == 1 else int(population.y[0].numel())
    classes = len(split.train.classes)
    return Shape(tuple(population.x.shape[1:]), classes, targets, population.episodic, len(train))


def _public_batch(public: Population | None) -> Batch | None:
    if public is None:
        return None
    return Batch(public.inputs(public.every_row()), public.y[public.rows], torch.ones(len(public.rows)))


def _only_named(population: Population, names: Sequence[str]) -> Population:
    place = {name: i for i, name in enumerate(population.names)}
    return population.only([place[name] for name in names])


def _usable(population: Population, sampler: Sampler, settings: Settings) -> tuple[Population, list[str]]:
    """The clients that are large enough, and a note for each of the others."""
    source = Sampled(population, sampler, purpose="check")
    usable, notes = [], []
    for client in source.clients:
        try:
            source.draw(client, 0)
            usable.append(client)
        except InputError as error:
            if not settings.drop_short:
                raise
            notes.append(f"left out: {str(error).partition(':')[0]}")
    if not usable:
        raise InputError(f"every client of {settings.data} is too small: lower ways, shots or support")
    return population.only(usable), notes


def _main(learner: Learner, train: Population) -> Built:
    name, options = learner.settings.algorithm, learner.settings.options
    model = learner.model(catalogue.entry(name))
    return Built(name, options, model, learner.algorithm(name, model, options=options, clients=train.names))


def _defended(begun: RunPlan, built: Built) -> Built:
    """With the rule for messages, which must be able to work with those of a round, of a probe's rounds too."""
    pooled, most = catalogue.entry(built.name).pooled, begun.settings.cohort or len(begun.train)
    if pooled:
        return replace(built, algorithm=begun.defended(built.name, built.algorithm, 1))
    algorithm = begun.defended(built.name, built.algorithm, min(most, len(begun.train)))
    if _chooses(begun):
        begun.defended(built.name, built.algorithm, min(most, len(begun.validation()[0]) or most))
    return replace(built, algorithm=algorithm)


def _baselines(begun: RunPlan) -> Mapping[str, Built]:
    """FedAvg, whose start local training shares."""
    if not begun.settings.evaluation.baselines:
        return {}
    model, options = begun.learner.model(catalogue.entry("fedavg")), begun.settings.baseline
    fedavg = Built("fedavg", options, model, begun.learner.algorithm("fedavg", model, options=options))
    return {"fedavg": _defended(begun, fedavg)}


def _secured(begun: RunPlan) -> SecurePlan | None:
    choosing = len(begun.validation()[1]) if _chooses(begun) else 0
    return SecurePlan.of(begun.settings, len(begun.train), choosing)


def _chooses(begun: RunPlan) -> bool:
    """Whether validation clients choose something: how clients adapt, or learning rates. Under privacy none do."""
    settings, entry = begun.settings, catalogue.entry(begun.settings.algorithm)
    options, asked = settings.options, settings.evaluation.baselines or bool(settings.tune)
    return settings.privacy.epsilon is None and (asked or entry.tuned(options) or entry.own_steps(options))


def _with_judges(made: RunPlan) -> RunPlan:
    """Without unseen clients that are too small; of rows, with a note on which have which clients."""
    if made.by_row:
        return replace(made, notes=(*made.notes, *_notes_on_rows(made)))
    judging = made.judged(made.unseen, max(made.shots), purpose="check", episodes=1).sampler
    unseen, notes = _usable(made.unseen, judging, made.settings)
    return replace(made, unseen=unseen, notes=(*made.notes, *notes))


def _notes_on_rows(made: RunPlan) -> list[str]:
    """Which rows have which clients; at least one must have some."""
    settings, unseen, notes = made.settings, made.unseen, []
    if not made.shots:
        asked = ", ".join(map(str, settings.evaluation.shots or ()))
        raise InputError(
            f"no unseen client of {settings.data} has more than one row and enough for evaluation.shots=[{asked}]: set "
            "unseen=... so that larger clients judge"
        )
    for row in settings.evaluation.shots or ():
        short = len(unseen) - len(large_enough(unseen, row))
        if short:
            what = "half of their own examples" if row == "half" else f"{row} examples"
            notes.append(f"{short} of {len(unseen)} unseen clients are too small to be judged with {what}: left out of "
                         "that row")  # fmt: skip
    tiny = int((made.train.sizes <= TINY).sum())
    return notes + ([f"{tiny} known clients have {TINY} rows or fewer: they train with what they have"] if tiny else [])


def _with_promise(made: RunPlan) -> RunPlan:
    """With the noise for the budget that is asked for."""
    size, honest = 1, 1
    if made.secured is not None and made.settings.privacy.epsilon is not None:
        size, honest = _message_size(made), made.secured.honest
    return replace(made, privacy=PrivacyPromise.of(made.settings, len(made.train), size=size, honest=honest))


def _message_size(made: RunPlan) -> int:
    """How many numbers a client's message holds."""
    main = made.main
    source = made.source(main.name, made.train, main.options)
    message = one_message(made.engine(source, main.model), main.algorithm, main.model.params)
    return sum(leaf.numel() for leaf in tree.leaves(message.value))


def _require_useful(population: Population, data: str) -> None:
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
