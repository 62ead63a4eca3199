"""Populations on disk, memory-mapped: the same clients and tasks as in memory, and damage that is said."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seedbed import tree
from seedbed.data.population import Names, Population
from seedbed.data.readers import checksums, pack_population, packed_writer, read
from seedbed.data.sampling import Sampled, batches
from seedbed.errors import InputError


@pytest.fixture
def digits() -> Population:
    return read("digits")


def test_it_is_the_same_population(digits: Population, tmp_path: Path) -> None:
    """Every client's name, rows and tasks; classes, encoding, and who is set apart."""
    told: list[int] = []
    pack_population(digits, tmp_path / "packed", told.append)
    packed = read(str(tmp_path / "packed"))
    assert sum(told) == len(digits)
    for name in ("classes", "episodic", "unseen", "notes", "encoding", "source"):
        assert getattr(packed, name) == getattr(digits, name), name
    assert list(packed.names) == list(digits.names)
    for mine, theirs in zip(packed.split_clients(), digits.split_clients(), strict=True):
        assert list(mine.names) == list(theirs.names)
        tasks = [Sampled(p, batches(8), seed=1).tasks([3, 0, 1], 2) for p in (mine, theirs)]
        assert all(torch.equal(a, b) for a, b in zip(*map(tree.leaves, tasks), strict=True))


def test_it_lies_on_the_disk(digits: Population, tmp_path: Path) -> None:
    """The arrays are the files, mapped; neighbours share the row numbers; and packing again changes no byte."""
    pack_population(digits, tmp_path / "packed")
    packed = read(str(tmp_path / "packed"))
    assert isinstance(packed.rows, np.memmap)
    assert isinstance(packed.names, Names)
    assert isinstance(packed.only(range(2, 5)).rows, np.memmap)
    pack_population(packed, tmp_path / "again")
    for file in (tmp_path / "packed").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert np.array_equal(np.load(tmp_path / "packed" / "x.npy"), packed.x.numpy())


@pytest.mark.parametrize("clients", [[], [4], [2, 3, 4], [4, 3, 2], [0, 0, 5], [9, 1, 4]])
def test_some_of_the_clients(digits: Population, clients: list[int]) -> None:
    some = digits.only(clients)
    assert list(some.names) == [digits.names[c] for c in clients]
    assert [some.rows_of(i).tolist() for i in range(len(clients))] == [digits.rows_of(c).tolist() for c in clients]


def test_clients_are_added_one_by_one(tmp_path: Path) -> None:
    with packed_writer(tmp_path / "p", classes=("no", "yes")) as add:
        for client in range(5):
            add(f"é{client}", torch.full((client + 1, 2), float(client)), torch.arange(client + 1) % 2)
    packed = read(str(tmp_path / "p"))
    assert list(packed.names) == [f"é{client}" for client in range(5)]
    assert "é3" in packed.names
    assert "3" not in packed.names
    assert list(packed.names[1:3]) == ["é1", "é2"]
    assert packed.sizes.tolist() == [1, 2, 3, 4, 5]
    assert packed.x[packed.rows_of(3)].tolist() == [[3.0, 3.0]] * 4


one, label = torch.ones(1, 2), torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("clients", "line"),
    [
        ([], "no client was added"),
        ([("a", one, label), ("a", one, label)], "client 'a' comes twice"),
        ([("a", one, label[:0])], "client 'a' has 1 inputs and 0 targets"),
        ([("a", one[:0], label[:0])], "client 'a' has 0 inputs"),
        ([("a", one, label), ("b", one[:, :1], label)], r"x of client 'b' is float32 of shape \(1,\), those before"),
        ([("a", one, label), ("b", one, label.float())], "y of client 'b' is float32"),
        ([("a", one / 0, label)], "x of client 'a' is not finite"),
        ([("", one, label)], "client name '' has 0 bytes"),
        ([("a" * 65, one, label)], "has 65 bytes of UTF-8"),
    ],
)
def test_what_cannot_be_packed_leaves_nothing(clients: list[Any], line: str, tmp_path: Path) -> None:
    def write() -> None:
        with packed_writer(tmp_path / "p") as add:
            for client in clients:
                add(*client)

    with pytest.raises(InputError, match=line):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(digits: Population, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        pack_population(digits, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def cut(file: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:-1])

    return damage


def other_form(folder: Path) -> None:
    about = json.loads((folder / "population.json").read_text())
    (folder / "population.json").write_text(json.dumps(about | {"form": 9}))


def shorter(folder: Path) -> None:
    np.save(folder / "y.npy", np.load(folder / "y.npy")[:-1])


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (cut("x.npy"), "x.npy is missing or cut short"),
        (cut("names.npy"), "names.npy is missing or cut short"),
        (lambda folder: (folder / "offsets.npy").unlink(), "offsets.npy is missing or cut short"),
        (shorter, "y.npy holds <i8"),
        (other_form, "packed in form 9, this version reads 1 to 2"),
        (lambda folder: (folder / "population.json").write_text("{"), "population.json cannot be read"),
    ],
)
def test_damage_is_said(damage: Callable[[Path], None], line: str, digits: Population, tmp_path: Path) -> None:
    pack_population(digits, tmp_path / "packed")
    damage(tmp_path / "packed")
    with pytest.raises(InputError, match=line):
        read(str(tmp_path / "packed"))


# ---- contents that are not those written --------------------------------------------------------------------------


def changed(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """An array with other values, of the same length and type."""

    def damage(folder: Path) -> None:
        values = np.load(folder / file)
        np.save(folder / file, change(values.copy()).astype(values.dtype))

    return damage


def put(place: Any, value: Any) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[place] = value
        return values

    return change


CONTENTS = {
    "zeroed rows": changed("x.npy", put(slice(3, 5), 0)),
    "the last row": changed("x.npy", put((-1, -1), 99)),
    "labels that are no class": changed("y.npy", put(7, 99)),
    "a negative label": changed("y.npy", put(7, -1)),
    "a label of another class": changed("y.npy", lambda y: np.where(np.arange(len(y)) == 3, (y + 1) % 10, y)),
    "a repeated name": changed("names.npy", lambda names: names[[0, 0, *range(2, len(names))]]),
    "another name": changed("names.npy", put(1, b"stranger")),
    "row numbers": changed("rows.npy", put(2, 0)),
    "row numbers beyond the end": changed("rows.npy", put(2, 10**9)),
    "negative row numbers": changed("rows.npy", put(2, -1)),
    "offsets that go back": changed("offsets.npy", put(2, 0)),
    "offsets one aside": changed("offsets.npy", lambda o: np.where(np.arange(len(o)) == 2, o + 1, o)),
    "offsets beyond the end": changed("offsets.npy", put(1, 10**9)),
    "a checksum": changed("sums.npy", put(0, 1)),
    "too few checksums": lambda folder: np.save(folder / "sums.npy", np.load(folder / "sums.npy")[:-1]),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("what", CONTENTS)
def test_contents_that_were_altered(
    what: str, at_once: bool, digits: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, at opening or before the first task of the client: a large population is not read to be opened."""
    if not at_once:
        monkeypatch.setattr(checksums, "CHECK_AT_OPENING", 0)
    folder = tmp_path / "packed"
    pack_population(digits, folder)
    CONTENTS[what](folder)

    def use() -> None:
        packed = read(str(folder))
        assert not at_once
        Sampled(packed, batches(8), seed=1).tasks(range(len(packed)), 0)

    with pytest.raises(InputError) as why:
        use()
    assert str(folder) in str(why.value)
    assert "\n" not in str(why.value)


@pytest.mark.parametrize("what", [what for what in CONTENTS if "checksum" not in what and "another" not in what])
def test_a_population_that_was_packed_before_there_were_checksums(
    what: str, digits: Population, tmp_path: Path
) -> None:
    """Bounds are held all the same, and a note says what is not."""
    folder = tmp_path / "packed"
    pack_population(digits, folder)
    about = json.loads((folder / "population.json").read_text())
    del about["sum"]
    (folder / "population.json").write_text(json.dumps(about | {"form": 1}))
    (folder / "sums.npy").unlink()
    assert "without checksums" in read(str(folder)).notes[-1]
    CONTENTS[what](folder)
    if what in ("zeroed rows", "the last row", "offsets one aside"):
        read(str(folder))  # this needs checksums
        return
    with pytest.raises(InputError, match=str(folder)):
        read(str(folder))


def test_only_blocks_that_are_used_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage of one client's data stops nobody who does not use it; whoever reads everything sees it."""
    monkeypatch.setattr(checksums, "CHECK_AT_OPENING", 0)
    folder = tmp_path / "p"
    with packed_writer(folder) as add:
        for client in range(6):
            add(f"c{client}", torch.full((40, 1024), float(client)), torch.zeros(40))  # 160 KiB each
    changed("x.npy", put(130, 5.0))(folder)
    packed = read(str(folder))
    assert packed.rows_of(0).tolist() == list(range(40))
    halves = packed.only([0, 1, 5]).hold_out(0.5)
    assert [half.rows_of(1).min() >= 40 for half in halves] == [True, True]
    for use in (lambda: packed.rows_of(3), lambda: packed.only([3]).rows_of(0), packed.fingerprint, packed.every_row):
        with pytest.raises(InputError, match=r"x\.npy is not what was written \(in rows 1\d\d to 1\d\d\)"):
            use()


@pytest.mark.parametrize("value", [None, 7, "a", [1], [[]], {"a": 1}])
def test_words_of_another_kind(value: Any, digits: Population, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    pack_population(digits, folder)
    about = json.loads((folder / "population.json").read_text())
    for key in about.keys() - {"sum"}:  # that one may be missing
        if type(value) is type(about[key]):
            continue
        (folder / "population.json").write_text(json.dumps(about | {key: value}))
        with pytest.raises(InputError):
            read(str(folder))
        (folder / "population.json").write_text(json.dumps({k: v for k, v in about.items() if k != key}))
        with pytest.raises(InputError):
            read(str(folder))


def test_labels_that_are_no_class_are_not_packed(tmp_path: Path) -> None:
    def write(label: int) -> None:
        with packed_writer(tmp_path / "p", classes=("no", "yes")) as add:
            add("a", one, torch.tensor([label]))

    for label in (2, -1):
        with pytest.raises(InputError, match=f"client 'a' has the label {label}, but there are 2 classes"):
            write(label)


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """In the header of any file, and in population.json: classes that change places would be silent."""
    y = torch.arange(40) % 2
    whole = Population.from_arrays(torch.randn(40, 3), y, np.repeat(list("abcd"), 10), classes=("cat", "dog"))
    pack_population(whole, tmp_path / "packed")

    def seen() -> tuple[Any, ...]:
        found = read(str(tmp_path / "packed"))
        told = (found.classes, tuple(found.names), found.encoding, found.source, found.unseen, found.notes)
        return *told, found.x[found.rows_of(1)].tolist(), found.y[found.rows_of(3)].tolist()

    before = seen()
    for file in sorted((tmp_path / "packed").iterdir()):
        data = file.read_bytes()
        for at in (10, 60, 61, *range(0, min(len(data), 500), 17)):
            altered = bytearray(data)
            altered[at] ^= 1 << at % 8
            file.write_bytes(altered)
            with suppress(InputError):
                assert seen() == before, f"{file.name} {at}"
        file.write_bytes(data)
