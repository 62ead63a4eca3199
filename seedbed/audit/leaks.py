"""Leaks from one client's message: inputs by inversion, inputs by gradient matching, labels.

Shapes: B examples of a client, C clients, H units of a layer, F numbers of an input, N classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedbed import randomness, tree
from seedbed.audit.attacks import gradient_matching, label_leak, layer_inversion
from seedbed.audit.findings import AttackRow, Finding, Picture, mean_with_interval
from seedbed.audit.subject import Subject, inputs_of, with_rows
from seedbed.audit.views import MIN_VIEW_CLIENTS, release_of, secure_mean, update_in
from seedbed.data.population import Population
from seedbed.data.sampling import Picks, Sampled
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.experiments.stages import Show
from seedbed.models import Model, is_image_shape
from seedbed.privacy.differential import Noise, new_key
from seedbed.privacy.differential.mechanisms import Mechanism
from seedbed.tree import Tree

EXACT_PSNR = 150.0  # dB: beyond the resolution of single precision
SMALL_CLIENTS = (1, 2, 5)  # examples of artificial small clients
SEARCHED = 64  # largest number of examples for gradient matching
MAX_PICTURES = 3  # pictures
MAX_SUM_CLIENTS = 30  # clients of a sum; larger sums reveal less
GUESSERS = 500  # other clients' inputs, whose mean is the guess
Update = dict[str, Tensor]


@dataclass(frozen=True)
class SentMessage:
    """The messages of some clients, for one case, and the attacker's views of them."""

    case: str
    source: Sampled
    messages: Tree  # leaves [C, ...]
    mechanism: Mechanism | None
    clip: float
    cohort: int

    @property
    def clients(self) -> range:
        return self.source.clients

    def views(self, client: int) -> dict[str, Tree]:
        """By column: this client's message, its cohort's secure mean, and its release under privacy."""
        mine = tree.index(self.messages, client)
        many = len(self.clients)
        cohort = [(client + i) % many for i in range(min(self.cohort, many))]
        seen = {"plain": mine}
        if len(cohort) >= MIN_VIEW_CLIENTS:
            seen["secure"] = secure_mean(tree.index(self.messages, cohort))
        if self.mechanism is not None:
            seen["private"] = release_of(self.mechanism, self.clip, tree.stack([mine]), client)
        return seen


def messages_of_clients(subject: Subject, case: str, population: Population) -> SentMessage:
    """These clients' messages. An adaptive clip is replaced by the median norm of these messages."""
    source = subject.sampled(population)
    messages = subject.messages(source)
    promise = subject.reference
    mechanism = None if promise is None else promise.mechanism(Noise(new_key()))
    fixed = None if promise is None else promise.settings.clip
    norms = [float(tree.squared_norm(tree.index(messages, c)).sqrt()) for c in source.clients]
    return SentMessage(case, source, messages, mechanism, fixed or float(np.median(norms)) or 1.0, subject.cohort)


def cases(subject: Subject) -> Iterator[SentMessage]:
    """Artificial small clients, where the run's sampler accepts them, then real clients."""
    train = subject.experiment.train
    attacked = subject.someone(max(subject.asked.clients, min(subject.cohort, MAX_SUM_CLIENTS)), "audited clients")
    some = train.only(attacked)
    for count in SMALL_CLIENTS:
        if count < int(some.sizes.min()):
            rng = randomness.generator(subject.settings.seed, "small clients", count)
            rows = [np.sort(rng.permutation(some.rows_of(c))[:count]) for c in range(len(some))]
            try:
                yield messages_of_clients(subject, f"{count} example{'s' * (count > 1)}", with_rows(some, rows))
            except InputError:
                continue  # too few examples for a task of this algorithm
    yield messages_of_clients(subject, "all its examples", some)


def why_not_attacked(subject: Subject) -> str | None:
    """Why messages cannot be attacked; None if they can."""
    name = subject.settings.algorithm
    if not isinstance(subject.model, Model):
        return f"{name}'s clients have models of different architectures"
    if subject.model.normalising and subject.settings.model.norm == "batch":
        return "batch normalisation's statistics stay on the client, so its message does not describe one model"
    return None


# ---- inputs by inversion -------------------------------------------------------------------------------------------


def invert_inputs(subject: Subject, show: Show) -> Finding:
    """x = (∂L/∂W)_i/(∂L/∂b)_i for the units of a first dense layer."""
    named: dict[str, Any] = {
        "name": "inversion",
        "title": "Inputs from a dense layer",
        "sees": "one client's message; under secure aggregation its cohort's sum; under privacy its release, to an "
        "attacker that knows all other messages",
        "obtains": "inputs in closed form, of which the best is shown: peak signal-to-noise ratio in dB, inputs scaled "
        "to 0…1 (above 30 dB a picture is recognisable, above 100 dB exact)",
        "unit": "dB",
    }
    why = why_not_attacked(subject)
    if why is None and layer_of(subject) is None:
        why = (
            f"the model ({subject.settings.model.name}) has no dense layer on its inputs (model.name=mlp has one). "
            "Gradient matching needs none"
        )
    why = why or without_update(subject)
    if why is not None:
        return Finding(**named, missing=why)
    all_cases = list(cases(subject))
    tick = show.stage("inputs read off", len(all_cases))
    rows, pictures = [], []
    for case in all_cases:
        row, shown = _invert_case(subject, case)
        rows.append(row)
        pictures += shown
        tick(f"{row.case}: {row.figures['plain'].value:.0f} dB")
    return Finding(**named, rows=rows, pictures=pictures[:MAX_PICTURES])


def layer_of(subject: Subject) -> str | None:
    width = int(np.prod(subject.experiment.shape.inputs))
    return layer_inversion.first_dense(subject.model.params, width)


def without_update(subject: Subject) -> str | None:
    """Why a message contains no update to invert or match; None if it does."""
    if update_in(first_message(subject), subject.model.params) is not None:
        return None
    return f"{subject.settings.algorithm}'s messages contain no update of the model's parameters"


def first_message(subject: Subject) -> Tree:
    source = subject.sampled(subject.experiment.train.only([0]))
    return tree.index(subject.messages(source), 0)


def _invert_case(subject: Subject, one: SentMessage) -> tuple[AttackRow, list[Picture]]:
    layer = layer_of(subject)
    assert layer is not None  # checked by `invert_inputs`
    scores: dict[str, list[float]] = {}
    pictures = []
    for client in list(one.clients)[: subject.asked.clients]:
        true = subject.scaled(inputs_of(tree.index(one.source.tasks([client], 0), 0)))
        images: dict[str, Tensor] = {}
        for column, value in one.views(client).items():
            update = update_in(value, subject.model.params)
            assert update is not None
            best, ratio = layer_inversion.best_match(subject.scaled(layer_inversion.candidates(update, layer)), true)
            scores.setdefault(column, []).append(min(ratio, EXACT_PSNR))
            images[column] = best
        guess = layer_inversion.mean_guess(true, other_inputs(subject, one.source.population, client))
        scores.setdefault("guess", []).append(guess)
        if is_image_shape(subject.experiment.shape.inputs) and client == 0:
            images["original"] = true[int(layer_inversion.psnr(images["plain"], true).argmax())]
            shape = subject.experiment.shape.inputs
            pictures.append(Picture(f"inverted, {one.case}", {c: x.reshape(shape).numpy() for c, x in images.items()}))
    return AttackRow(one.case, {c: mean_with_interval(s) for c, s in scores.items()}), pictures


def other_inputs(subject: Subject, population: Population, client: int) -> Tensor:
    """Inputs of other clients, which an attacker may have: [M, F]."""
    train = subject.experiment.train
    others = np.setdiff1d(train.rows, population.rows_of(client))
    return subject.scaled(train.inputs(others[:: max(1, len(others) // GUESSERS)]))


# ---- inputs by gradient matching -----------------------------------------------------------------------------------


def search_inputs(subject: Subject, show: Show) -> Finding:
    """Gradient matching with total variation, on the smallest client that the algorithm accepts."""
    named: dict[str, Any] = {
        "name": "matching",
        "title": "Inputs by gradient matching",
        "sees": "the same, and the labels",
        "obtains": "images whose message has the same direction, found by descent: mean over the client's images of "
        "the nearest one's PSNR, in dB",
        "unit": "dB",
    }
    why = why_not_attacked(subject)
    if why is None and not is_image_shape(subject.experiment.shape.inputs):
        why = f"inputs of shape {subject.experiment.shape.inputs} are not images, so smoothness does not help"
    why = why or without_update(subject)
    if why is not None:
        return Finding(**named, missing=why)
    one = next(cases(subject))
    victim = Victim.of(subject, one.source, 0)
    if victim.count > SEARCHED:
        return Finding(
            **named,
            missing=f"the smallest client that {subject.settings.algorithm} accepts has {victim.count} examples: more "
            f"than {SEARCHED} cannot be searched in minutes",
        )
    views = one.views(0)
    tick = show.stage("inputs searched for", len(views) * subject.asked.steps * subject.asked.starts)
    images, figures = {}, {}
    for column, value in views.items():
        images_found = victim.search(subject, value, lambda: tick(""))
        near = torch.stack([layer_inversion.psnr(images_found, x).max() for x in victim.true])
        images[column], figures[column] = images_found, mean_with_interval(near.tolist())
    others = other_inputs(subject, one.source.population, 0).mean(0)
    figures["guess"] = mean_with_interval(layer_inversion.psnr(others, victim.true).tolist())
    shape = subject.experiment.shape.inputs
    nearest = {c: x[int(layer_inversion.psnr(x, victim.true[0]).argmax())] for c, x in images.items()}
    shown = {c: x.reshape(shape).numpy() for c, x in {"original": victim.true[0], **nearest}.items()}
    case = f"{victim.count} example{'s' * (victim.count > 1)}"
    return Finding(
        **named, rows=[AttackRow(case, figures)], pictures=[Picture(f"matched, {one.case}", shown)],
        notes=[f"{subject.asked.steps} steps from {subject.asked.starts} starts; more may find more (audit.steps)."],
    )  # fmt: skip


@dataclass(frozen=True)
class Victim:
    """A client whose inputs are searched; the attacker knows which input is at which place of its task.

    Attributes:
        task: its task.
        places: for each batch of the task, the index of each example's input.
        true: the inputs [B, F], scaled to 0…1.
    """

    task: Task
    places: Sequence[Tensor]
    true: Tensor

    @classmethod
    def of(cls, subject: Subject, source: Sampled, client: int) -> "Victim":
        picks = tree.subtrees(source.draw(client, 0).items, Picks)
        rows = np.unique(np.concatenate([p.rows[np.asarray(p.mask, bool)] for p in picks]))
        places = [torch.as_tensor(np.searchsorted(rows, p.rows).clip(max=len(rows) - 1)) for p in picks]
        task = tree.index(source.tasks([client], 0), 0)
        return cls(task, places, subject.scaled(source.population.inputs(rows)))

    @property
    def count(self) -> int:
        return len(self.true)

    def search(self, subject: Subject, observed: Tree, tick: Callable[[], None]) -> Tensor:
        """The reconstructed inputs, [B, F] in 0…1."""
        low, span = subject.scale
        model = subject.algorithm.send(subject.state, 0)
        kept = subject.algorithm.remember(model)
        update = update_in(observed, subject.model.params)
        assert update is not None
        names = list(update)

        def imitate(x: Tensor) -> Tree:
            inputs = x * span.to(x.dtype) + low.to(x.dtype)
            places = iter(self.places)

            def with_guess(batch: Batch) -> Batch:
                return batch._replace(x=inputs[next(places)])

            items = tree.map_subtrees(with_guess, self.task.items, Batch)
            message, _ = subject.algorithm.client(model, kept, self.task._replace(items=items))
            imitated = update_in(message.value, subject.model.params)
            assert imitated is not None
            return {name: imitated[name] for name in names}

        images = gradient_matching.match_gradient(
            imitate,
            {name: update[name].to(torch.get_default_dtype()) for name in names},
            (self.count, *subject.experiment.shape.inputs),
            steps=subject.asked.steps,
            starts=subject.asked.starts,
            seed=subject.settings.seed,
            tick=tick,
        )
        return images.flatten(1).double()


# ---- labels --------------------------------------------------------------------------------------------------------


def infer_labels(subject: Subject, show: Show) -> Finding:
    """Which classes a client has, from the signs of the head's update."""
    named: dict[str, Any] = {
        "name": "labels",
        "title": "Labels",
        "sees": "the same",
        "obtains": "which classes the client has, from the signs of the head's update: balanced accuracy of class "
        "presence",
        "unit": "share",
    }
    shape, name = subject.experiment.shape, subject.settings.algorithm
    why = why_not_attacked(subject)
    if shape.classes == 0:
        why = "the target is a number: there are no classes"
    elif shape.episodic:
        why = "labels are drawn anew in each episode, and mean nothing outside it"
    elif why is None and bias_in(subject, first_message(subject)) is None:
        why = f"{name}'s messages contain no update of a head's bias"
    if why is not None:
        return Finding(**named, missing=why)
    all_cases = list(cases(subject))
    tick = show.stage("labels", len(all_cases))
    rows = []
    for case in all_cases:
        row = _infer_labels_of_case(subject, case)
        rows += [row] if row else []
        tick(case.case)
    if not rows:
        return Finding(**named, missing="every client has every class")
    return Finding(**named, rows=rows)


def bias_in(subject: Subject, value: Tree) -> Tensor | None:
    assert isinstance(subject.model, Model)
    update = update_in(value, subject.model.params)
    return None if update is None else update.get(f"{subject.model.head}.bias")


def _infer_labels_of_case(subject: Subject, one: SentMessage) -> AttackRow | None:
    """Attack one case; None if these clients have every class, so that there is nothing to infer."""
    population, classes = one.source.population, subject.experiment.shape.classes
    presence = np.stack([np.bincount(population.labels[population.rows_of(c)], minlength=classes) > 0
                     for c in range(len(population))])  # fmt: skip
    scores: dict[str, list[float]] = {}
    for client in list(one.clients)[: subject.asked.clients]:
        own = torch.as_tensor(presence[client])
        if own.all():
            continue
        for column, value in one.views(client).items():
            bias = bias_in(subject, value)
            assert bias is not None
            scores.setdefault(column, []).append(label_leak.balanced_accuracy(label_leak.present_classes(bias), own))
        usual = torch.as_tensor(np.delete(presence, client, 0).mean(0) > 0.5)
        scores.setdefault("guess", []).append(label_leak.balanced_accuracy(usual, own))
    return AttackRow(one.case, {c: mean_with_interval(s) for c, s in scores.items()}) if scores else None
