"""Files made from tables that are known, in many ways of writing: read right bit for bit, or refused in a line."""

from collections import Counter

import numpy as np
import pytest
import torch

from seedbed.data.encoding.timestamps import parse_dates
from seedbed.data.readers import read
from seedbed.data.readers.column_values import numbers_of
from seedbed.data.readers.sheet import load_table
from seedbed.errors import InputError

from .file_maker import MadeFile, make_file

KINDS = {"temp": "numeric", "change": "numeric", "big": "numeric", "share": "numeric", "price": "numeric"}
KINDS |= {"count": "numeric", "when": "time", "flag": "text", "grade": "text", "code": "text", "note": "text"}


def outcome(made: MadeFile) -> str:
    """How it was read; raises where a value is wrong or what is to be refused is not."""
    if made.refusals:
        with pytest.raises(InputError) as error:
            read(str(made.path), **made.options)
        assert "\n" not in str(error.value)
        assert any(words in str(error.value) for words in made.refusals), error.value
        return "refused"
    found = read(str(made.path), **made.options)
    plain = read(str(made.twin), target="y")
    assert torch.equal(found.x, plain.x)
    assert torch.equal(found.y, plain.y)
    assert found.names == plain.names == tuple(dict.fromkeys(made.client))
    assert found.classes == plain.classes == tuple(sorted(set(made.words["y"]), key=order) if made.classes else ())
    kinds = {spec["name"]: spec["kind"] for spec in found.encoding["columns"]}
    assert {name: kinds[name] for name in KINDS} == KINDS
    assert set(kinds) - set(KINDS) <= {"y_code"}
    assert all(any(words in note for note in found.notes) for words in made.notes), found.notes
    check_values(made, found.encoding.get("decimal"))
    return "read"


def order(label: str) -> tuple[int, str]:
    return (int(label), "") if label.isdigit() else (0, label)


def check_values(made: MadeFile, decimal: str | None) -> None:
    """The values of the file's columns are those of the table, bit for bit."""
    encoding = made.options.get("encoding")
    raw = load_table(made.path, encoding=encoding)
    for name, numbers in made.numbers.items():
        assert np.array_equal(numbers_of(name, raw.columns[name], raw.where, decimal=decimal), numbers, equal_nan=True)
    for name, seconds in made.dates.items():
        dates = parse_dates(raw.columns[name].tolist())
        assert dates is not None
        assert np.array_equal(dates.seconds, seconds, equal_nan=True)
    for name, words in made.words.items():
        assert raw.columns[name].tolist() == words
    assert raw.columns["client"].tolist() == made.client


@pytest.mark.parametrize("number", range(12))
def test_a_made_file(number, tmp_path):
    outcome(make_file(number, tmp_path))


@pytest.mark.slow
def test_two_hundred_made_files(tmp_path):
    """None is wrong. How many are refused is printed: those that no reader can know how to read."""
    found: Counter[str] = Counter()
    wrong = []
    for number in range(200):
        try:
            found[outcome(make_file(number, tmp_path))] += 1
        except (AssertionError, InputError) as error:
            wrong.append(f"{number}: {str(error)[:300]}")
    print(dict(found))
    assert not wrong, "\n".join(wrong)
    assert found["read"] >= 150
