"""Property inference from a client's message: does its data set have a property, such as mostly one class?

Shapes: S data sets, P numbers of a message.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seedbed import randomness, tree
from seedbed.audit.attacks.property_inference import (
    AreaUnderCurve,
    Bools,
    Floats,
    roc_area,
    train_property_classifier,
)
from seedbed.audit.findings import AttackRow, Figure, Finding
from seedbed.audit.leaks import why_not_attacked
from seedbed.audit.subject import Subject, with_rows
from seedbed.audit.views import MIN_VIEW_CLIENTS, release_of, secure_mean, update_in
from seedbed.data.population import Population, RowIndices
from seedbed.errors import InputError
from seedbed.experiments.stages import Show
from seedbed.privacy.differential import Noise, new_key
from seedbed.tree import Tree

POOL_ROUNDS = 4  # rounds whose messages serve as the other summands of a sum
MOSTLY = 0.8  # fraction of examples with the property, in a data set that has it


def infer_property(subject: Subject, show: Show) -> Finding:
    """Attack data sets with and without a property: half to learn from (unseen clients), half as victims."""
    named: dict[str, Any] = {
        "name": "property",
        "title": "A property of a client's data set",
        "sees": "one client's message, and messages that the attacker computes from other clients' data",
        "obtains": f"{property_of(subject)}, compared with as many data sets without: area under the ROC curve",
        "unit": "AUC",
    }
    why = why_not_attacked(subject)
    if why is None and not len(subject.experiment.unseen):
        why = "there are no unseen clients whose data the attacker could use"
    if why is not None:
        return Finding(**named, missing=why)
    sets = subject.asked.sets // 2 * 2
    try:
        own = make_clients(subject, subject.experiment.unseen, sets, "attacker's data sets")
        victims = make_clients(subject, subject.experiment.train, sets, "victims' data sets")
        tick = show.stage("a property", 4)
        known, has = messages(subject, own)
        tick("trained")
        seen, truth = messages(subject, victims)
    except InputError as error:
        return Finding(**named, missing=f"artificial clients are too small: {error}")
    figures = {
        "plain": property_finding(
            train_property_classifier(flatten_update(subject, known), has, flatten_update(subject, seen)), truth
        )
    }
    tick(f"AUC {figures['plain'].value:.2f}")
    others = subject.sampled(subject.experiment.train.only(subject.someone(min(subject.cohort, 30), "others")))
    if len(others.clients) >= MIN_VIEW_CLIENTS:
        rng = randomness.generator(subject.settings.seed, "others of a sum")
        pool = tree.concatenate([subject.messages(others, round) for round in range(1, 1 + POOL_ROUNDS)])
        many = len(others.clients) - 1
        views = [[within_sum(tree.index(s, i), pool, many, rng) for i in range(sets)] for s in (known, seen)]
        figures["secure"] = judge_classifier(subject, views, has, truth)
    tick("in a sum")
    if subject.reference is not None:
        views = [[release_message(subject, s, i) for i in range(sets)] for s in (known, seen)]
        figures["private"] = judge_classifier(subject, views, has, truth)
    tick("noised")
    figures["guess"] = Figure(0.5)
    return Finding(**named, rows=[AttackRow(f"{sets} + {sets} sets", figures)], notes=NOTES)


NOTES = [
    "A linear classifier: a lower bound. Data sets with and without the property are drawn from the same clients' "
    "rows, "
    "so the result reveals the property, not the client."
]


def property_of(subject: Subject) -> str:
    shape = subject.experiment.shape
    if shape.classes == 0:
        return f"that {MOSTLY:.0%} of the targets lie above the median"
    classes = subject.experiment.train.classes
    if shape.episodic:
        return "that inputs are brighter (larger in the mean) than the median of their class"
    return f"that {MOSTLY:.0%} of the examples are of the class {classes[most_common_class(subject)]}"


def most_common_class(subject: Subject) -> int:
    train = subject.experiment.train
    return int(np.bincount(train.labels[train.rows]).argmax())


def make_clients(subject: Subject, population: Population, sets: int, purpose: str) -> Population:
    """Artificial clients from these clients' rows, alternately with and without the property."""
    rng = randomness.generator(subject.settings.seed, purpose)
    if subject.experiment.shape.episodic:
        return with_rows(population, [is_bright(population, i // 2, i % 2 == 0) for i in range(sets)])
    size = int(np.median(subject.experiment.train.sizes))
    return with_rows(population, [draw_clients(subject, population, size, i % 2 == 0, rng) for i in range(sets)])


def is_bright(population: Population, number: int, has: bool) -> RowIndices:
    """The brighter half of each class of a client, or the darker half."""
    rows = population.rows_of(number % len(population))
    light = population.inputs(rows).double().flatten(1).mean(1).numpy()
    selected = []
    for c in np.unique(population.labels[rows]):
        members = np.flatnonzero(population.labels[rows] == c)
        members = members[np.argsort(light[members])]
        selected.append(rows[members[len(members) // 2 :] if has else members[: len(members) // 2]])
    return np.concatenate(selected)


def draw_clients(
    subject: Subject, population: Population, size: int, has: bool, rng: np.random.Generator
) -> RowIndices:
    """Rows of which a fraction MOSTLY has the property, or (`has` false) the population's own fraction."""
    if subject.experiment.shape.classes:
        with_it = population.labels[population.rows] == most_common_class(subject)
    else:
        targets = population.labels[population.rows].reshape(len(population.rows), -1)[:, 0]
        with_it = targets > np.median(targets)
    share = MOSTLY if has else float(with_it.mean())
    count = round(share * size)
    parts = [(population.rows[with_it], count), (population.rows[~with_it], size - count)]
    if any(n and not len(rows) for rows, n in parts):
        raise InputError("either no row or every row has the property")
    return np.concatenate([rng.choice(rows, n, replace=n > len(rows)) for rows, n in parts])


def messages(subject: Subject, population: Population) -> tuple[Tree, Bools]:
    """The data sets' messages, leaves [S, ...], and which have the property, [S]."""
    return subject.messages(subject.sampled(population)), np.arange(len(population)) % 2 == 0


def within_sum(message: Tree, pool: Tree, others: int, rng: np.random.Generator) -> Tree:
    """The secure mean of this message and random ones from a pool, which the attacker does not know."""
    chosen = rng.permutation(len(tree.leaves(pool)[0]))[:others].tolist()
    return secure_mean(tree.map(lambda x, y: torch.cat([x[None], y[chosen]]), message, pool))


def release_message(subject: Subject, stacked: Tree, number: int) -> Tree:
    """A message after the promise's clipping and noise."""
    promise = subject.reference
    assert promise is not None
    norms = torch.stack([x.double().reshape(len(x), -1).square().sum(1) for x in tree.leaves(stacked)]).sum(0).sqrt()
    clip = promise.settings.clip or float(norms.median()) or 1.0
    return release_of(promise.mechanism(Noise(new_key())), clip, tree.index(stacked, [number]))


def judge_classifier(subject: Subject, views: Sequence[Sequence[Tree]], has: Bools, truth: Bools) -> Figure:
    known, seen = (flatten_update(subject, tree.stack(side)) for side in views)
    return property_finding(train_property_classifier(known, has, seen), truth)


def property_finding(scores: Floats, truth: Bools) -> Figure:
    curve: AreaUnderCurve = roc_area(scores, truth)
    return Figure(*curve)


def flatten_update(subject: Subject, stacked: Tree) -> Floats:
    """[S, P]: the model updates if the messages contain them, else the whole messages."""
    update = update_in(tree.index(stacked, 0), subject.model.params)
    leaves = tree.leaves(stacked)
    if update is not None:
        count = len(leaves[0])
        updates = [update_in(tree.index(stacked, i), subject.model.params) or update for i in range(count)]
        leaves = tree.leaves(tree.stack(updates))
    return torch.cat([x.double().reshape(len(x), -1) for x in leaves], 1).numpy()
