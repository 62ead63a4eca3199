"""How columns become numbers: quantiles from sums over clients, bent tails, notations of numbers, dates, levels."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seedbed.data.encoding.levels import are_codes, count_levels, fit_levels
from seedbed.data.encoding.number_text import parse_numbers
from seedbed.data.encoding.numeric import CLIP, apply_numeric, fit_numeric, fit_shape
from seedbed.data.encoding.quantiles import counts_below, summed_quantiles
from seedbed.data.encoding.timestamps import parse_dates
from seedbed.data.readers import read, read_like
from seedbed.errors import InputError

LEVELS = (0.02, 0.25, 0.5, 0.75, 0.98)


def by_rank(values, p):
    """The quantile's definition: the mean of the values of rank ⌈pn⌉ and ⌊pn⌋ + 1."""
    ordered, n = np.sort(values), len(values)
    ranks = np.clip([np.ceil(p * n), np.floor(p * n) + 1], 1, n).astype(int)
    return ordered[ranks - 1].mean()


@given(st.lists(st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=1, max_size=60))
def test_quantiles_from_counts_are_those_of_the_values(values):
    values = np.array(values)
    found = summed_quantiles(lambda edges: counts_below(values, edges), LEVELS)
    for p, quantile in zip(LEVELS, found, strict=True):
        assert quantile == pytest.approx(by_rank(values, p), rel=1e-6, abs=1e-9 * np.abs(values).max() + 1e-9)


def test_quantiles_of_clients_are_those_of_all_rows_bit_for_bit():
    """Counts add up exactly, so clients that show only counts give what the whole table gives."""
    values = np.random.default_rng(0).lognormal(size=500) - 1
    clients = np.split(values, [3, 50, 51, 400])
    summed = summed_quantiles(lambda edges: sum(counts_below(own, edges) for own in clients), LEVELS)
    assert np.array_equal(summed, summed_quantiles(lambda edges: counts_below(values, edges), LEVELS))


def test_a_normal_column_is_only_standardised():
    values = np.random.default_rng(0).normal(50, 7, 20_000)
    spec = fit_numeric(values)
    assert spec["bend"] == 0
    plain = (values - values.mean()) / values.std()
    assert np.abs(apply_numeric(values, spec) - plain)[np.abs(plain) < 3.5].max() < 0.01


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_long_tail_is_bent_whatever_its_unit(scale):
    """exp of a standard normal: a bent column is nearly normal again, and no value is far off."""
    values = scale * np.exp(np.random.default_rng(0).normal(size=20_000) * 1.5)
    spec = fit_numeric(values)
    features = apply_numeric(values, spec)
    assert spec["bend"] > 0
    assert np.abs(features).max() < CLIP + 1
    assert abs((features**3).mean()) < 1  # a lognormal's third moment is above 30


def test_one_huge_value_leaves_the_others_apart():
    values = np.append(np.arange(100.0), 1e300)
    features = apply_numeric(values, fit_numeric(values))
    assert features[90] - features[10] > 1.5
    assert features.max() < 10


@pytest.mark.parametrize("values", [[5.0] * 8, [0.0] * 99 + [1.0], [0.0, np.nan], [-3.0, 2.0], [1e-320, 1e300, -1e300]])
def test_odd_columns_stay_finite(values):
    features = apply_numeric(np.array(values), fit_numeric(np.array(values)))
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 20


def test_shape_without_spread_is_left_to_the_deviation():
    assert fit_shape(lambda edges: counts_below(np.zeros(10), edges))["spread"] == 0


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["36,5", "37,0", "38"], [36.5, 37, 38]),
        (["1.234,5", "99,1"], [1234.5, 99.1]),
        (["1,234.5", "99.1"], [1234.5, 99.1]),
        (["1 234", "5 678,25"], [1234, 5678.25]),
        (["1'234.50", "7"], [1234.5, 7]),
        (["12.5%", "3 %"], [12.5, 3]),
        (["$3.20", "$1,004"], [3.2, 1004]),
        (["3,20 €", "10,00 €"], [3.2, 10]),
        (["50,000", "1,500", "800"], [50000, 1500, 800]),
        (["−3.5", "2"], [-3.5, 2]),
        (["1e-3", "2E5"], [1e-3, 2e5]),
        (["1.234.567", "12"], [1234567, 12]),
        (["-$5", "$1,004.5", "$-3"], [-5, 1004.5, -3]),
        (["(1,234.50)", "7.25"], [-1234.5, 7.25]),
        (["12 kg", "3.5 kg"], [12, 3.5]),
        (["37.2 °C", "38 °C"], [37.2, 38]),
        (["1 234,50 zł", "12,00 zł"], [1234.5, 12]),
    ],
)
def test_numbers_as_people_write_them(texts, numbers):
    parsed = parse_numbers(texts)
    assert parsed.numbers.tolist() == numbers
    assert not parsed.bad.any()
    assert not parsed.ambiguous


@pytest.mark.parametrize(
    "texts",
    [
        ["1_1", "1_2"],
        ["0x10", "7"],
        ["1,2,3", "4"],
        ["12:30", "13:45"],
        ["٣", "x"],
        ["w12", "w13"],
        ["12a", "12b"],
        ["5 kg", "5 g"],
        ["Ward 1", "Ward 2"],
    ],
)
def test_codes_are_no_numbers(texts):
    assert parse_numbers(texts).bad.any()


def test_a_mark_that_may_be_either_is_asked_for(tmp_path, refused):
    path = tmp_path / "t.csv"
    path.write_text("client;x;y\n" + "".join(f"c{i % 2};{i + 1},{137 * i % 899 + 101};{i % 2}\n" for i in range(9)))
    refused(["column 'x'", "line 2 of t.csv", "decimal="], lambda: read(str(path)))
    one, thousand = (read(str(path), decimal=mark) for mark in (",", "."))
    assert "decimal" in one.encoding
    assert torch.allclose(one.x, thousand.x, atol=1e-5)  # a factor of 1,000, which standardising takes out


def test_a_decimal_comma_anywhere_is_one_everywhere(tmp_path):
    """'1.500' beside '0,5' is one thousand five hundred."""
    path = tmp_path / "t.csv"
    path.write_text("client;a;b;y\n" + "".join(f"c{i % 2};{i}.500;{i},25;{i % 2}\n" for i in range(1, 9)))
    p = read(str(path))
    assert any("'a' read as numbers: decimal mark ','" in note for note in p.notes)
    new = tmp_path / "new.csv"
    new.write_text("a;b;y\n4.500;4,25;1\n")
    same = read_like(str(new), json.loads(json.dumps(p.encoding)))
    assert torch.allclose(same.x[0], p.x[3], atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "day"),
    [
        (["2020-03-04", "2020-03-05"], 4),
        (["04.03.2020", "15.03.2020"], 4),
        (["03/04/2020", "03/15/2020"], 4),
        (["04/03/2020", "15/03/2020"], 4),
        (["2020-03-04T00:00:00Z", "2020-03-05T11:30:00+02:00"], 4),
        (["Mar 4, 2020", "Mar 15, 2020"], 4),
    ],
)
def test_dates_as_people_write_them(texts, day):
    dates = parse_dates(texts)
    assert dates is not None
    assert np.datetime64(int(dates.seconds[0]), "s") == np.datetime64(f"2020-03-{day:02}")


def test_day_and_month_that_may_be_either_are_refused(tmp_path, refused):
    path = tmp_path / "t.csv"
    path.write_text("client,when,x,y\n" + "".join(f"a,0{i}/0{i + 1}/2020,{i},{i % 2}\n" for i in range(1, 8)))
    refused(["'when'", "day and month", "2020-12-31", "ignore=when"], lambda: read(str(path)))


def test_dates_in_new_rows_are_those_of_training(tmp_path, refused):
    path, new = tmp_path / "t.csv", tmp_path / "new.csv"
    path.write_text("client,when,y\n" + "".join(f"a,2020-01-{i:02},{i % 2}\n" for i in range(1, 29)) + "b,,1\n")
    p = read(str(path))
    assert p.x.shape[1] == 1 + 2 + 2 + 1  # days, week and season as waves, missing; the hour is the same in all
    new.write_text("when,y\n2020-01-05,1\n,0\n")
    same = read_like(str(new), json.loads(json.dumps(p.encoding)))
    assert torch.equal(same.x[0], p.x[4])
    assert torch.equal(same.x[1], p.x[28])
    new.write_text("when,y\nyesterday,1\n")
    refused(["'when'", "'yesterday'", "line 2", "dates"], lambda: read_like(str(new), p.encoding))


def test_levels_from_counts_of_clients():
    words = [f"w{i % 30}" for i in range(300)] + ["once", "twice", "twice"]
    pooled = count_levels(np.array(words, object))
    assert pooled == count_levels(np.array(words[:100], object)) + count_levels(np.array(words[100:], object))
    kept = fit_levels(pooled, len(words))
    assert kept is not None
    assert set(kept) == {f"w{i}" for i in range(30)}
    assert fit_levels(count_levels(np.array(list(map(str, range(100))), object)), 100) is None
    assert fit_levels(count_levels(np.array(["a", "b"], object)), 2) == ["a", "b"]


def test_codes_are_told_from_numbers_by_their_means():
    """40 lecturers with means of their own, met by all 50 students; an age that acts smoothly; a code of the client."""
    rng = np.random.default_rng(0)
    student, lecturer = rng.integers(50, size=4000), rng.integers(40, size=4000)
    age, effect = rng.integers(20, 60, size=4000), rng.normal(size=40)
    y = effect[lecturer] * 0.3 + (age / 20) ** 2 + rng.normal(size=50)[student] + rng.normal(size=4000)
    assert are_codes(lecturer.astype(float), y, student)
    assert not are_codes(age.astype(float), y, student)
    assert not are_codes(student.astype(float) + 7, y, student)
    assert not are_codes(lecturer + 0.5, y, student)
    assert not are_codes(lecturer.astype(float), rng.normal(size=4000), student)


def test_a_column_that_numbers_the_rows_is_left_out(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,client,x,y\n" + "".join(f"{i},a,{i * i % 7},{i % 2}\n" for i in range(30)))
    p = read(str(path))
    assert [column["name"] for column in p.encoding["columns"]] == ["x"]
    assert any("'id' numbers the rows: left out" in note for note in p.notes)


def test_encodings_of_older_runs_still_read_new_rows():
    from seedbed.data.readers.columns import fit_like

    old = [{"name": "a", "kind": "numeric", "median": 2.0, "mean": 1.0, "std": 2.0, "missing": True}]
    assert fit_like({"a": np.array([3.0, np.nan])}, old, str).tolist() == [[1.0, 0.0], [0.5, 1.0]]


def test_infinity_is_refused_by_place(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("client,x,y\na,1,0\na,-Infinity,1\n")
    with pytest.raises(InputError, match="infinite value in line 3"):
        read(str(path))
