"""Every partition is disjoint, complete, reproducible, and honours the minimum, for all labels and skews."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.data import partition
from seedbed.data.partition_file import read_partition, write_partition
from seedbed.data.population import Population
from seedbed.data.readers import read
from seedbed.errors import InputError

clients = st.integers(1, 12)
seeds = st.integers(0, 2**31)
alphas = st.floats(1e-308, 1e8) | st.sampled_from([5e-324, 1e-12, 1e-3])


def labels_of(n, classes, seed):
    return np.random.default_rng(seed).integers(0, classes, n)


def check(make, n, clients, minimum):
    parts = make()
    assert len(parts) == clients
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    assert min(map(len, parts)) >= minimum
    assert all(np.array_equal(a, b) for a, b in zip(parts, make(), strict=True))


@settings(max_examples=60, deadline=None)
@given(clients, st.integers(0, 5), st.integers(0, 100), st.integers(1, 7), alphas, seeds)
def test_dirichlet(c, minimum, spare, classes, alpha, seed):
    n = max(1, c * minimum + spare)
    labels = labels_of(n, classes, seed)
    check(lambda: partition.dirichlet(labels, c, alpha, minimum=minimum, seed=seed), n, c, minimum)


@settings(max_examples=60, deadline=None)
@given(clients, st.integers(0, 5), st.integers(0, 100), alphas, seeds)
def test_quantity(c, minimum, spare, alpha, seed):
    n = max(1, c * minimum + spare)
    check(lambda: partition.quantity(n, c, alpha, minimum=minimum, seed=seed), n, c, minimum)


@settings(max_examples=40, deadline=None)
@given(clients, st.integers(0, 100), seeds)
def test_iid(c, spare, seed):
    check(lambda: partition.iid(c + spare, c, seed=seed), c + spare, c, (c + spare) // c)


@settings(max_examples=40, deadline=None)
@given(clients, st.integers(1, 4), st.integers(0, 100), st.integers(1, 7), seeds)
def test_shards(c, per_client, spare, classes, seed):
    n = c * per_client + spare
    labels = labels_of(n, classes, seed)
    check(lambda: partition.shards(labels, c, per_client, seed=seed), n, c, per_client)


def test_shards_give_few_classes():
    labels = np.repeat(np.arange(10), 50)
    parts = partition.shards(labels, 10, 2)
    assert all(len(np.unique(labels[part])) <= 2 for part in parts)


def test_alpha_is_the_skew():
    """Small α: nearly all of a class at one client. Large α: each client has the pooled shares."""
    labels = np.repeat(np.arange(5), 200)

    def largest_share(alpha):
        parts = partition.dirichlet(labels, 5, alpha, minimum=0)
        counts = np.array([np.bincount(labels[part], minlength=5) for part in parts])
        return (counts.max(0) / 200).mean()

    assert largest_share(1e-3) > 0.98
    assert largest_share(1e5) < 0.22


def test_seeds_differ():
    assert not np.array_equal(partition.iid(50, 2, seed=0)[0], partition.iid(50, 2, seed=1)[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: partition.iid(3, 4), ["3 rows", "4 clients", "fewer clients"]),
        (
            lambda: partition.dirichlet([0, 1], 2, 0.1, minimum=2),
            ["2 rows", "2 clients of at least 2", "lower"],
        ),
        (lambda: partition.dirichlet([0, 1], 2, 0.0), ["alpha=0.0", "above 0"]),
        (lambda: partition.quantity(9, 2, float("nan")), ["alpha=nan", "above 0"]),
        (lambda: partition.shards([0, 1], 1, 0), ["per_client=0", "at least 1"]),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InputError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


def test_repartition_deals_only_the_rows_in_use():
    whole = Population.from_arrays(
        torch.arange(40.0)[:, None],
        torch.arange(40) % 4,
        ["a", "b"] * 20,
        classes=("p", "q", "r", "s"),
        unseen=("b",),
    )
    dealt = partition.repartition(whole.only([1]), "dirichlet", clients=4, alpha=0.3, minimum=2)
    assert len(dealt) == 4
    assert sorted(dealt.rows.tolist()) == list(range(1, 40, 2))
    assert dealt.x is whole.x
    assert dealt.unseen == ()
    assert "partition 'dirichlet'" in dealt.notes[-1]


def test_repartition_refuses_label_skew_of_numbers():
    numbers = Population.from_arrays(torch.zeros(4, 1), torch.zeros(4), ["a"] * 4)
    with pytest.raises(InputError, match="needs classes"):
        partition.repartition(numbers, "shards", clients=2)


def test_partitioned_names_clients():
    made = partition.partitioned(torch.zeros(12, 1), torch.zeros(12), partition.iid(12, 11))
    assert made.names[:2] == ("client00", "client01")


# ---- classes each, extended Dirichlet, given sizes ------------------------------------------------------------------

LABELS = np.repeat(np.arange(6), 40)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 12), st.integers(2, 6), seeds)
def test_classes_each(c, k, seed):
    check(lambda: partition.classes_each(LABELS, c, k, seed=seed), 240, c, k)
    parts = partition.classes_each(LABELS, c, k, seed=seed)
    assert {len(np.unique(LABELS[part])) for part in parts} == {k}
    holders = [sum(label in LABELS[part] for part in parts) for label in range(6)]
    assert max(holders) - min(holders) <= 1
    for label in range(6):
        counts = [n for part in parts if (n := int((LABELS[part] == label).sum()))]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 10), st.integers(2, 4), st.integers(0, 6), alphas, seeds)
def test_extended_dirichlet(c, k, minimum, alpha, seed):
    def make():
        return partition.extended_dirichlet(LABELS, c, k, alpha, minimum=minimum, seed=seed)

    check(make, 240, c, minimum)
    assert {len(np.unique(LABELS[part])) for part in make()} == {k}


def test_extended_dirichlet_between_its_limits():
    """Large α: classes are shared evenly, as by `classes_each`. Small α: one holder has nearly all of a class."""

    def largest(alpha):
        parts = partition.extended_dirichlet(LABELS, 12, 2, alpha)
        counts = np.array([np.bincount(LABELS[part], minlength=6) for part in parts])
        return (counts.max(0) / 40).mean()

    assert largest(1e6) == 0.25
    assert largest(1e-3) > 0.9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 5), seeds)
def test_given_sizes(sizes, spare, seed):
    parts = partition.given_sizes(sum(sizes) + spare, sizes, seed=seed)
    assert [len(part) for part in parts] == sizes
    assert len(np.unique(np.concatenate(parts))) == sum(sizes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: partition.classes_each(LABELS, 2, 2), ["2 clients of 2 classes", "cannot share 6 classes"]),
        (lambda: partition.classes_each(LABELS, 9, 7), ["per_client must be 1 to 6"]),
        (lambda: partition.classes_each([0, 1, 1, 1, 1, 1], 3, 2), ["class 0 has 1 rows", "fewer clients"]),
        (lambda: partition.extended_dirichlet(LABELS, 6, 2, 0.0), ["alpha=0.0", "above 0"]),
        (lambda: partition.given_sizes(5, [3, 3]), ["sizes=[3, 3]", "at most the 5 rows"]),
        (lambda: partition.given_sizes(5, [3, 0]), ["each at least 1"]),
    ],
)
def test_refusals_of_the_newer_ones(make, words):
    test_refusals(make, words)


# ---- written and read again -----------------------------------------------------------------------------------------

WHOLE = Population.from_arrays(
    torch.randn(240, 2, generator=torch.Generator().manual_seed(0)), torch.as_tensor(LABELS), ["all"] * 240
)
WAYS = {
    "iid": {"clients": 7},
    "dirichlet": {"clients": 7, "alpha": 0.3},
    "shards": {"clients": 7},
    "quantity": {"clients": 7},
    "classes": {"clients": 7, "per_client": 3},
    "extended_dirichlet": {"clients": 7, "per_client": 3, "alpha": 0.3},
    "sizes": {"sizes": [9, 100, 4]},
}


@pytest.mark.parametrize("how", WAYS)
def test_a_partition_is_read_as_it_was_written(how, tmp_path):
    dealt = partition.repartition(WHOLE, how, **WAYS[how], seed=3)
    write_partition(dealt, tmp_path / "p.json")
    again = partition.repartition(WHOLE, "file", partition_file=str(tmp_path / "p.json"))
    assert again.fingerprint() == dealt.fingerprint()
    assert again.names == dealt.names
    assert np.array_equal(again.rows, dealt.rows)


def test_the_command_writes_what_the_setting_reads(tmp_path):
    from typer.testing import CliRunner

    from seedbed.cli.commands import app

    out = str(tmp_path / "p.json")
    ways = ["--set", "reader.partition=classes", "--set", "reader.clients=10", "--set", "reader.per_client=3"]
    done = CliRunner().invoke(app, ["data", "partition", "digits", out, *ways])
    assert done.exit_code == 0, done.output
    made = read("digits", partition="classes", clients=10, per_client=3)
    assert read("digits", partition="file", partition_file=out).fingerprint() == made.fingerprint()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.update(rows=9), ["other data", "write it anew"]),
        (lambda table: table.update(targets="0" * 64), ["other data"]),
        (lambda table: table["clients"].update(a=[0]), ["two clients"]),
        (lambda table: table["clients"].update(a=[240]), ["does not have"]),
        (lambda table: table["clients"].update(a=[True]), ["'a'", "no list of row numbers"]),
        (lambda table: table["clients"].update(a=[]), ["'a'", "no list of row numbers"]),
        (lambda table: table.update(clients={}), ["no clients"]),
        (lambda table: table.update(form=9), ["no partition of form 1"]),
    ],
)
def test_damaged_partitions_are_refused(change, words, tmp_path, refused):
    path = tmp_path / "p.json"
    write_partition(partition.repartition(WHOLE, "iid", clients=3), path)
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    refused(["p.json", *words], lambda: read_partition(path, WHOLE))


def test_a_partition_that_is_missing_or_torn_is_refused(tmp_path, refused):
    refused(["partition_file=PATH"], lambda: partition.repartition(WHOLE, "file"))
    (tmp_path / "p.json").write_text('{"form": 1,')
    refused(["p.json", "cannot be read as a partition"], lambda: read_partition(tmp_path / "p.json", WHOLE))
    (tmp_path / "p.json").write_text('{"form": 1, "form": 1}')
    refused(["'form' twice"], lambda: read_partition(tmp_path / "p.json", WHOLE))
