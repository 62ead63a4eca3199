"""CSV and Parquet: what is read, how it is encoded, what is said, and what is refused."""

import json

import numpy as np
import pytest
import torch

from seedbed.data.readers import extras, read, read_like, sheet

pd = pytest.importorskip("pandas")

TABLE = """hospital,age,smoker,flat,label
a,30,yes,1,ill
a,40,no,1,well

b,,yes,1,ill
b,50,,1,well
b,60,no,1,well
"""


@pytest.fixture
def csv(tmp_path):
    def write(text, name="t.csv"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_encoding_worked_by_hand(csv):
    """age: 30, 40, median 45, 50, 60 has mean 45 and variance 100; smoker: no, yes, other, missing; flat is 0."""
    p = read(csv(TABLE))
    assert p.names == ("a", "b")
    assert p.classes == ("ill", "well")
    assert not p.episodic
    assert p.y.tolist() == [0, 1, 0, 1, 1]
    expected = [
        [-1.5, 0, 0, 1, 0, 0, 0],
        [-0.5, 0, 1, 0, 0, 0, 0],
        [0.0, 1, 0, 1, 0, 0, 0],
        [0.5, 0, 0, 0, 0, 1, 0],
        [1.5, 0, 1, 0, 0, 0, 0],
    ]
    assert torch.allclose(p.x, torch.tensor(expected), atol=1e-6)
    said = " | ".join(p.notes)
    for words in (
        "'age': 1 missing",
        "median 45",
        "'smoker': 1 missing",
        "'flat' is constant",
        "whole table",
    ):
        assert words in said


def test_new_rows_are_encoded_alike(csv):
    p = read(csv(TABLE))
    encoding = json.loads(json.dumps(p.encoding))
    assert torch.equal(read_like(csv(TABLE, "s.csv"), encoding, client="b").x, p.x[p.rows_of(1)])
    new = read_like(csv("label,age,smoker,flat\nwell,45,sometimes,1\n", "new.csv"), encoding)
    assert torch.allclose(new.x, torch.tensor([[0.0, 0, 0, 0, 1, 0, 0]]), atol=1e-6)
    assert new.y.tolist() == [1]
    assert new.names == ("new",)


def test_rows_without_target_or_client_are_dropped_and_said(csv):
    p = read(csv("client,x,y\na,1,0\n,2,1\nb,3,\nb,4,1\n"), drop_incomplete=True)
    assert p.sizes.tolist() == [1, 1]
    assert {"1 rows dropped: column 'y' is missing", "1 rows dropped: column 'client' is missing"} <= set(p.notes)


def test_classes_or_numbers(csv):
    rows = "".join(f"a,{i},{i % 3},{i / 7}\n" for i in range(30))
    path = csv("client,x,k,v\n" + rows)
    assert read(path, target="k").classes == ("0", "1", "2")
    assert read(path, target="k", task="regression", scale_target=False).y.dtype == torch.float32
    assert read(path, target="x").classes == ()
    numbers = read(path, target="v")
    assert numbers.classes == ()
    assert abs(float(numbers.y.mean())) < 1e-6
    back = numbers.y * numbers.encoding["target"]["std"] + numbers.encoding["target"]["mean"]
    assert torch.allclose(back, torch.arange(30) / 7, atol=1e-5)


def test_codes_may_be_read_as_text_and_columns_left_out(csv):
    path = csv("client,code,x,y\na,1,5,0\na,2,6,1\nb,1,7,0\nb,2,8,1\n")
    p = read(path, text="code", ignore=["x"])
    assert p.x.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]


def test_many_texts(csv):
    rng = np.random.default_rng(0)
    words = [*rng.integers(60, size=390), *range(100, 110)]
    rows = "".join(f"a,id{i},w{word},{i % 2}\n" for i, word in enumerate(words))
    p = read(csv("client,name,word,y\n" + rows))
    common = sum(words.count(word) >= 3 for word in set(words))
    assert p.x.shape == (400, common + 1)
    assert any("'name' has 400 different texts" in note and "left out" in note for note in p.notes)
    assert any(f"{common} most frequent of {len(set(words))}" in note for note in p.notes)


@pytest.mark.parametrize("sep", [";", "\t", "|"])
def test_separators(csv, sep):
    assert read(csv(TABLE.replace(",", sep))).sizes.tolist() == [2, 3]


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.xz", ".parquet"])
def test_packed_and_parquet_equal_csv(csv, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    plain = read(csv(TABLE))
    frame = pd.read_csv(csv(TABLE))
    path = tmp_path / f"same{suffix}"
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    same = read(str(path))
    assert torch.equal(same.x, plain.x)
    assert same.encoding == plain.encoding


def test_parquet_dates_are_dates_and_truth_values_are_texts(tmp_path):
    pytest.importorskip("pyarrow")
    days = ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"]
    frame = pd.DataFrame({"client": ["a"] * 4, "when": pd.to_datetime(days), "x": [1.0, 2, 3, 4]})
    frame["y"] = [True, False, True, False]
    frame.to_parquet(tmp_path / "t.parquet")
    p = read(str(tmp_path / "t.parquet"))
    assert p.classes == ("False", "True")
    assert any("'when' read as dates (ISO 8601): days, weekday" in note for note in p.notes)


def test_partition_needs_no_client_column(csv):
    path = csv("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    p = read(path, partition="dirichlet", clients=4, alpha=0.1, minimum=3)
    assert len(p) == 4
    assert p.sizes.min() >= 3
    assert p.sizes.sum() == 40


TEXT_IN_NUMBERS = "client,dose,y\n" + "".join(f"a,{i},{i % 2}\n" for i in range(12)) + "b,twelve,1\n"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (TEXT_IN_NUMBERS, {}, ["'dose'", "'twelve'", "line 14 of t.csv", "leave it empty", "text=dose"]),
        ("client,x,y\na,1,0\na,inf,1\n", {}, ["'x'", "infinite", "line 3 of t.csv", "correct it"]),
        (TABLE, {"client": "hopital"}, ["t.csv has no column 'hopital'", "did you mean 'hospital'"]),
        (TABLE, {"target": "lable"}, ["no column 'lable'", "did you mean 'label'"]),
        (TABLE, {"ignore": ["agee"]}, ["no column 'agee'", "did you mean 'age'"]),
        (
            "clinet,x,y\na,1,0\n",
            {},
            ["no column named client", "client=COLUMN", "did you mean 'clinet'", "partition="],
        ),
        (
            "client,x,tagret\na,1,0\n",
            {},
            ["no column named target", "target=COLUMN", "did you mean 'tagret'"],
        ),
        (TABLE, {"target": "hospital"}, ["'hospital'", "both client and target", "name another"]),
        (TABLE, {"task": "clasification"}, ["'clasification'", "did you mean 'classification'"]),
        (TABLE, {"task": "regression"}, ["'label'", "'ill'", "line 2 of t.csv"]),
        ("client,x,y\na,1,\n", {}, ["'y' of t.csv is empty in every row"]),
        ("client,y\na,1\n", {}, ["no feature column is left"]),
        ("client,x,y\n", {}, ["t.csv has no rows below its header"]),
        ("client,x,y\na,1,0\na,1,0,9,9\n", {}, ["t.csv cannot be read as a table", "line 3"]),
        ("", {}, ["t.csv cannot be read as a table", "No columns"]),
        (
            "client,x,y\n" + "".join(f"a,{i},w{i}\n" for i in range(30)),
            {},
            ["'y'", "30 different texts", "task="],
        ),
    ],
)
def test_refusals(refused, csv, text, options, words):
    refused(words, lambda: read(csv(text), **options))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("age,smoker,flat\n1,yes,1\n", ["s.csv has no column 'label'", "choose from age"]),
        ("label,agee,smoker,flat\nill,1,yes,1\n", ["no column 'age'", "did you mean 'agee'"]),
        ("label,age,smoker,flat\nil,1,yes,1\n", ["'label' of s.csv", "class 'il'", "did you mean 'ill'"]),
        ("label,age,smoker,flat\nill,old,yes,1\n", ["'age'", "'old'", "line 2 of s.csv"]),
        ("hospital,label,age,smoker,flat\nc,ill,1,yes,1\nd,ill,1,no,1\n", ["2 clients (c, d", "client=NAME"]),
    ],
)
def test_refusals_of_support(refused, csv, text, words):
    encoding = read(csv(TABLE)).encoding
    refused(words, lambda: read_like(csv(text, "s.csv"), encoding))


def test_unknown_client_of_support(refused, csv):
    refused(["'z'", "choose from a, b"], lambda: read_like(csv(TABLE), read(csv(TABLE)).encoding, client="z"))


def test_truncated_files(refused, csv, tmp_path):
    pytest.importorskip("pyarrow")
    pd.read_csv(csv(TABLE)).to_parquet(tmp_path / "whole.parquet")
    for name, data in {
        "torn.parquet": (tmp_path / "whole.parquet").read_bytes()[:100],
        "torn.csv.gz": b"\x1f\x8b\x08\x00",
        "torn.csv": b"client,x,y\na,\xff\xfe\x00,1\n",
    }.items():
        (tmp_path / name).write_bytes(data)
        refused([name, "cannot be read as a table"], lambda name=name: read(str(tmp_path / name)))


def test_missing_extra_names_the_command(refused, csv, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    path = sheet.Path(csv(TABLE, "t.parquet"))
    refused(["t.parquet needs pandas", "pip install 'seedbed[data]'"], lambda: sheet.load_table(path))


def test_a_path_takes_drop_short_whatever_its_kind(csv):
    assert len(read(csv(TABLE), drop_short=True)) == 2


def test_issue_figures_heart_disease_as_csv(real, tmp_path):
    """The four hospitals' raw files as one CSV with a hospital column: 920 rows, gaps said and filled."""
    names = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num,hospital"
    lines = [names]
    for hospital in ("cleveland", "hungarian", "switzerland", "va"):
        text = (real("heart_disease") / f"heart_disease/processed.{hospital}.data").read_text()
        lines += [f"{line},{hospital}" for line in text.split()]
    (tmp_path / "heart.csv").write_text("\n".join(lines))
    p = read(str(tmp_path / "heart.csv"), target="num")
    assert dict(zip(p.names, p.sizes.tolist(), strict=True)) == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va": 200,
    }
    assert p.classes == ("0", "1", "2", "3", "4")
    assert any("'thal'" in note and "missing" in note for note in p.notes)
