"""Every partition is disjoint, complete, reproducible, and honours the minimum, for all labels and skews."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.data import partition
from seedbed.data.population import Population
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
