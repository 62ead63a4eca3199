"""What is to be predicted: raw labels or numbers -> y, and back alike for new rows. Shapes: M rows."""

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedbed.data.encoding.booleans import are_mixed_truths, as_truth
from seedbed.data.readers.names import alike_groups
from seedbed.errors import InputError, closest_name

TaskKind = Literal["classification", "regression"]
MAX_INTEGER_CLASSES = 20  # distinct whole numbers at most, to be read as classes whatever they are
MAX_LABELS = 200  # and at most, where they count from 0 or 1 without a gap and all are about as frequent
UNEVEN = 0.75  # deviation of their frequencies, as a share of the mean, below which they are so
WHOLE = re.compile(r"([+-]?\d+)\.0+")


class Target(NamedTuple):
    y: Tensor  # [M] class numbers or numbers
    classes: tuple[str, ...]  # empty for regression
    encoding: dict[str, Any]  # JSON-like
    notes: tuple[str, ...]


def as_text(value: Any) -> str:
    """A label as text, the same whether it was read as 1, 1.0 or '1'.

    >>> as_text(1.0), as_text("1.00"), as_text(" yes "), as_text(True), as_text(1.5)
    ('1', '1', 'yes', 'True', '1.5')
    """
    text = str(value).strip() or str(value)  # a blank may be a label: the next character
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


def sorted_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Sorted: as numbers if all are, else as text.

    >>> sorted_labels(["10", "9"]), sorted_labels(["b", "10", "9"])
    (('9', '10'), ('10', '9', 'b'))
    """
    if all(re.fullmatch(r"[+-]?\d{1,400}", name) for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def as_classes(
    values: Sequence[Any] | npt.NDArray[Any], classes: Sequence[str] = (), what: str = "the target"
) -> Target:
    """Labels [M] -> class numbers, in the order of `classes` (empty: those found, sorted)."""
    found, number = np.unique(np.asarray(values), return_inverse=True)
    texts = [as_text(value) for value in found.tolist()]
    names = tuple(classes) or sorted_labels(sorted(set(texts)))
    order = {name: i for i, name in enumerate(names)}
    unknown = sorted(set(texts) - set(order))
    if unknown:
        raise InputError(
            f"{what} has the class {unknown[0]!r}, which the model does not know: {closest_name(unknown[0], names)}"
        )
    y = np.array([order[text] for text in texts], np.int64)[number.reshape(-1)]
    return Target(torch.as_tensor(y), names, {"kind": "classes", "classes": list(names)}, ())


def as_numbers(values: npt.NDArray[Any], *, scale: bool) -> Target:
    """Numbers [M, ...] -> y, standardised over all rows if asked; the encoding can undo it."""
    numbers = np.asarray(values, np.float64)
    mean, std = (float(numbers.mean()), float(numbers.std()) or 1.0) if scale else (0.0, 1.0)
    y = torch.as_tensor((numbers - mean) / std, dtype=torch.float32)
    said = (f"target standardised: (value − {mean:.6g}) / {std:.6g}; scale_target=false leaves it as it is",)
    return Target(y, (), {"kind": "numbers", "mean": mean, "std": std}, said if scale else ())


def classes_or_numbers(
    values: npt.NDArray[Any], task: TaskKind | None, what: str, *, whole_are_classes: bool = False
) -> tuple[TaskKind, tuple[str, ...]]:
    """Classes or numbers: what was asked for, or what the values look like, with a note on the guess.

    Texts and truth values are classes. Whole numbers are classes when at most 20 differ, or when they look like labels
    (see `_are_labels`), and at most half as many differ as there are rows. Anything else is a number to predict.

    Args:
        whole_are_classes: the file's kind has whole numbers for labels, as LEAF and integer arrays do.
    Raises:
        InputError: texts, of which numbers were asked; too many whole numbers for classes, in such a file.
    """
    if task not in (None, "classification", "regression"):
        raise InputError(f"task={task!r}: {closest_name(str(task), ['classification', 'regression'])}")
    if values.dtype.kind not in "fiu":
        if task == "regression":
            raise InputError(f"{what} holds text such as {str(values[0])!r}, but task=regression needs numbers")
        return "classification", ()
    if task is not None:
        return task, ()
    distinct, half = len(np.unique(values)), max(2, len(values) // 2)
    whole = values.dtype.kind in "iu" or bool(np.all(values == np.rint(values)))
    if whole and whole_are_classes and distinct > max(MAX_INTEGER_CLASSES, half):
        raise InputError(
            f"{what} has {distinct} different whole numbers in {len(values)} rows: say task=regression, or "
            "task=classification (on the command line: --set reader.task=regression)"
        )
    if whole and (whole_are_classes or (distinct <= half and (distinct <= MAX_INTEGER_CLASSES or _are_labels(values)))):
        return "classification", (
            f"{what} holds {distinct} whole numbers: read as classes; task=regression reads numbers",
        )
    return "regression", ((f"{what} holds whole numbers: read as numbers; task=classification reads classes",) * whole)


def _are_labels(values: npt.NDArray[Any]) -> bool:
    """Whether whole numbers count from 0 or 1 without a gap, at most 200, and all are about as frequent.

    Counts of something (visits, rings) thin out towards their end, and ages begin elsewhere.
    """
    found, counts = np.unique(values, return_counts=True)
    complete = found[0] in (0, 1) and found[-1] - found[0] + 1 == len(found)
    return bool(complete and len(found) <= MAX_LABELS and counts.std() < UNEVEN * counts.mean())


def encode_target(
    values: npt.NDArray[Any], task: TaskKind | None, what: str, *, scale: bool, whole_are_classes: bool = False
) -> Target:
    """Classes or numbers, decided as above."""
    truth = values.dtype.kind in "OU" and are_mixed_truths(values)
    kind, notes = classes_or_numbers(values, task, what, whole_are_classes=whole_are_classes)
    if kind == "regression":
        target = as_numbers(values, scale=scale)
        return target._replace(notes=(*notes, *target.notes))
    target = as_classes(as_truth(values) if truth else values)
    if len(target.classes) > max(MAX_INTEGER_CLASSES, len(values) // 2) and task is None:
        raise InputError(
            f"{what} has {len(target.classes)} different texts in {len(values)} rows, such as {str(values[0])!r}: "
            "too many for classes; name another target, or say task=classification"
        )
    if truth:
        notes += (f"{what} is true or false, in several spellings: read as one",)
        target = target._replace(encoding={**target.encoding, "truth": True})
    return target._replace(notes=(*notes, *alike_note(target.classes, what)))


def alike_note(classes: Sequence[str], what: str) -> tuple[str, ...]:
    """A note on classes of the same word: letters may differ by case, as handwritten ones do."""
    groups = [group for group in alike_groups(classes) if len(group[0]) > 1]
    return (f"{what} has the classes {' and '.join(map(repr, groups[0]))}: one class, spelt twice?",) if groups else ()


def encode_target_like(values: npt.NDArray[Any], encoding: dict[str, Any], what: str, *, episodic: bool) -> Target:
    """New rows' targets, numbered or scaled as the population's were.

    For episodic sets the labels that are found become 0…N−1 in sorted order: they mean something only here.
    """
    if encoding["kind"] == "numbers":
        if values.dtype.kind not in "fiub":
            raise InputError(f"{what} holds text such as {str(values.flat[0])!r}, but the model predicts numbers")
        y = (np.asarray(values, np.float64) - encoding["mean"]) / encoding["std"]
        return Target(torch.as_tensor(y, dtype=torch.float32), (), encoding, ())
    values = as_truth(values) if encoding.get("truth") and values.dtype.kind in "OU" else values
    return as_classes(values, () if episodic else encoding["classes"], what)
