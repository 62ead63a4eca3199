"""Files as people have them: each kind of thing that was read wrong, and its siblings."""

import json
import time

import numpy as np
import pytest
import torch

import seedbed as sb
from seedbed.data import sampling
from seedbed.data.encoding.timestamps import form_of_most, parse_dates
from seedbed.data.readers import inspect, pack_population, read, read_like

N = 120
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=N).round(3), RNG.normal(size=N).round(3)
Y, H = (A + B + RNG.normal(size=N) > 0).astype(int), [f"h{i % 6}" for i in range(N)]
PLAIN = list(zip(H, A, B, Y, strict=True))


@pytest.fixture
def put(tmp_path):
    def write(text, name="t.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return str(path)

    return write


def table(rows=PLAIN, header="hospital,a,b,outcome", sep=",", end="\n"):
    return end.join([header, *(sep.join(map(str, row)) for row in rows)]) + end


def column(values, rows=PLAIN):
    """The plain table with another first feature."""
    return [(h, value, b, y) for (h, _, b, y), value in zip(rows, values, strict=False)]


def kinds(population):
    return {spec["name"]: spec["kind"] for spec in population.encoding["columns"]}


def said(population):
    return " | ".join(population.notes)


# ---- the lines of a file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "above",
    ["\n", "\n\n \n", ";;;\n", "# exported, 2024\n", "# a\n\n# b, c, d, e, f\n", "sep=;\n", '"sep=;"\n', "\ufeff\n"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_above_the_header(put, above, end):
    plain = read(put(table(), "plain.csv"))
    text = above.replace("\n", end) + table(sep=";", header="hospital;a;b;outcome", end=end)
    found = read(put(text))
    assert torch.equal(found.x, plain.x)
    assert found.names == plain.names
    assert ("comment" in said(found)) == ("#" in above)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_that_are_recognised(put, encoding):
    rows = [(f"Köln {h}", *rest) for h, *rest in PLAIN]
    text = ("\ufeff" if encoding == "utf-16-be" else "") + table(rows)
    assert read(put(text, encoding=encoding)).names == tuple(f"Köln h{i}" for i in range(6))


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "iso-8859-15", "cp1250"])
def test_other_encodings_are_asked_for(put, refused, encoding):
    path = put(table([(f"Köln {h}", *rest) for h, *rest in PLAIN]), encoding=encoding)
    refused(["line 2 is not UTF-8", "byte 0xf6", "encoding=cp1252", "Köln h0"], lambda: read(path))
    assert read(path, encoding=encoding).names[0] == "Köln h0"
    refused(["encoding='cp1253x'", "did you mean 'cp1253'"], lambda: read(path, encoding="cp1253x"))
    new = read_like(path, read(path, encoding=encoding).encoding, client="Köln h1")
    assert len(new.rows) == 20


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("above", "line"), [("", 32), ("\n# a comment\n\n", 35), ("sep=,\n", 33)], ids=["plain", "comments", "sep"]
)
def test_lines_are_those_of_the_file(put, refused, end, above, line):
    """A header of two lines, then records of two lines each: row 15 begins in line 2 · 15 + 2 = 32."""
    rows = [(h, "bad" if i == 15 else a, f'"x{end}{y}"', y) for i, (h, a, _, y) in enumerate(PLAIN)]
    text = above.replace("\n", end) + table(rows, f'hospital,a,"b{end}b",outcome', end=end)
    refused(["'bad'", f"line {line + 1} of"], lambda: read(put(text)))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("h0,1,2", ["line 122 has 3 fields, but the header in line 1 has 4", "cut off"]),
        ("h0,1,2,1,9", ["line 122 has 5 fields", "quote fields that hold a separator"]),
        ('h0,1,"2,1', ["line 122", "unexpected end"]),
        ('h0,1,"2"2,1', ["line 122", "quote"]),
        ("#h0,1,2,1", ["line 122 of", "begins with #", "comments=skip", "comments=keep"]),
        ("h0,1,2\0,1", ["line 122", "character 0"]),
    ],
)
def test_rows_that_are_no_rows(put, refused, row, words):
    refused(words, lambda: read(put(table() + row + "\n")))


def test_rows_that_are_nearly_rows(put):
    """Trailing separators, rows of separators only, comments below the header."""
    assert len(read(put(table() + "\n,,,\nh0,1,2,1,,\n  \n# the end\n")).rows) == N + 1
    path = put(table() + "#h0,1,2,1\n")
    assert len(read(path, comments="skip").rows) == N
    assert read(path, comments="keep").names[-1] == "#h0"
    assert read(put(table([(f"#{h}", *rest) for h, *rest in PLAIN]))).names[0] == "#h0"
    assert len(read(put(table() + "#N/A,1,2,1\n")).rows) == N + 1


def test_headers_that_are_none(put, refused):
    refused(["begins with #", "comments=keep"], lambda: read(put("# " + table())))
    assert len(read(put("#" + table()), comments="keep", client="#hospital").rows) == N
    refused(["line 2 has 4 fields", "is line 1 a title"], lambda: read(put("Report of March\n" + table())))
    refused(["names 1 of 4 columns", "delete it"], lambda: read(put("Report,,,\n" + table())))


@pytest.mark.parametrize(
    ("header", "sep"),
    [
        ('hospital;"a, (y), [x], z";b;outcome', ";"),
        ('"hos;pi;tal;",a,b,outcome', ","),
        ('hospital\t"a;b;c;d;e"\tb\toutcome', "\t"),
        ("hospital|a,1|b,2;3|outcome", "|"),
    ],
)
def test_separators_in_quotes_and_names(put, header, sep):
    client = "hos;pi;tal;" if "hos;pi" in header else "hospital"
    assert read(put(table(header=header, sep=sep)), client=client).x.shape == (N, 2)


def test_settings_that_are_none(put, refused):
    refused(["comments='skipp'", "choose from auto, skip, keep"], lambda: read(put(table()), comments="skipp"))
    refused(["separator='::'", "one character"], lambda: read(put(table()), separator="::"))
    refused(["alike='same'", "choose from ask, merge, keep"], lambda: read(put(table()), alike="same"))


def test_a_separator_that_cannot_be_told_is_asked_for(put, refused):
    text = "client;k,y\n" + "".join(f"{h};{a},{y}\n" for h, a, _, y in PLAIN)
    refused(["may be separated by", "separator="], lambda: read(put(text)))
    assert read(put(table(sep=":", header="hospital:a:b:outcome"), "c.csv"), separator=":").x.shape == (N, 2)


# ---- columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["hospital,a,outcome,outcome", "hospital,a,a,outcome", "hospital,a, outcome ,outcome"]
)
def test_a_column_that_is_there_twice_is_refused(put, refused, header):
    refused(["more than once", "rename or delete"], lambda: read(put(table(header=header))))


def test_parquet_with_a_column_twice_is_refused(tmp_path, refused):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    twice = pyarrow.table([["a", "b"], [1, 2], [0, 1], [1, 0]], names=["client", "x", "y", "y"])
    parquet.write_table(twice, tmp_path / "t.parquet")
    refused(["'y' more than once (columns 3 and 4)"], lambda: read(str(tmp_path / "t.parquet")))


@pytest.mark.parametrize(
    "copy",
    [
        lambda y: ["ill" if v else "well" for v in y],  # in other words
        lambda y: 5 - 3 * y,  # in other numbers
        lambda y: (y + RNG.uniform(0, 0.9, len(y))).round(4),  # beyond a threshold
        lambda y: [("p", "q")[v] if i % 3 else ("r", "s")[v] for i, v in enumerate(y)],  # two words each
    ],
)
def test_a_copy_of_the_label_is_said(put, copy):
    assert "'a' tells the target without error" in said(read(put(table(column(copy(Y))))))


def test_a_copy_of_a_number_is_said_and_a_good_predictor_is_not(put):
    rows = [(h, 3 * a - 7, b, a) for h, a, b, _ in PLAIN]
    assert "'a' tells the target" in said(read(put(table(rows)), target="outcome"))
    near = [(h, a + 0.3 * b, b, a) for h, a, b, _ in PLAIN]
    assert "tells the target" not in said(read(put(table(near)), target="outcome"))
    assert "tells the target" not in said(read(put(table())))


def test_the_same_column_twice_and_a_second_client_are_said(put):
    rows = [(h, a, a * 2 + 1, y, h.upper(), i % 7) for i, (h, a, _, y) in enumerate(PLAIN)]
    p = read(put(table(rows, "hospital,a,b,outcome,ward,site")), client="hospital")
    assert "'b' = 'a'" in said(p)
    assert "'ward' names each client by another word: left out; text=ward keeps it" in said(p)
    assert "ward" not in kinds(p)
    assert "ward" in kinds(read(put(table(rows, "hospital,a,b,outcome,ward,site")), client="hospital", text="ward"))
    p = read(put(table(rows, "hospital,a,b,outcome,label,site")), ignore="label")
    assert "client=hospital takes 'hospital'" in said(p)
    p = read(put(table(rows, "hospital,a,b,outcome,label,site")), client="hospital")
    assert "target=outcome takes 'outcome'" in said(p)


# ---- words that look like gaps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["None", "NA", "nan", "null", "?", "N/A", "-"])
def test_a_class_whose_name_looks_like_a_gap(put, word):
    rows = [(h, a, b, (word, "mild", "severe")[i % 3]) for i, (h, a, b, _) in enumerate(PLAIN)]
    p = read(put(table(rows)))
    assert set(p.classes) == {word, "mild", "severe"}
    assert len(p.rows) == N
    assert f"missing=[{word}] makes it a gap" in said(p)


@pytest.mark.parametrize("word", ["NA", "None", "null", "nan"])
def test_a_client_whose_name_looks_like_a_gap(put, word):
    p = read(put(table([(word if h == "h1" else h, *rest) for h, *rest in PLAIN])))
    assert word in p.names
    assert len(p.rows) == N
    assert "client column 'hospital'" in said(p)


def test_what_means_a_gap_can_be_said(put, refused):
    rows = column(["NA" if i == 5 else "-999" if i == 7 else a for i, a in enumerate(A)])
    p = read(put(table(rows)), missing=["NA", "-999"])
    assert "2 missing values" in said(p)
    assert all("2 missing values" in said(read(put(table(rows)), missing=m)) for m in ("[NA, -999]", "-999", -999))
    assert read_like(put(table(rows, end="\n"), "s.csv"), p.encoding, client="h5").x[0, 1] == 1
    assert "1 missing values" in said(read(put(table(rows))))


def test_a_target_is_never_dropped_in_silence(put, refused):
    """One in a hundred rows at most, with a note; more are asked for."""
    rows = [(h, a, b, "" if i == 3 else a) for i, (h, a, b, _) in enumerate(PLAIN)]
    p = read(put(table(rows)))
    assert "1 rows dropped: column 'outcome' is missing" in p.notes
    rows = [(h, a, b, "NA" if i < 3 else a) for i, (h, a, b, _) in enumerate(PLAIN)]
    refused(
        ["'outcome' is missing in 3 of 120 rows", "line 2 of", "drop_incomplete=true"], lambda: read(put(table(rows)))
    )
    assert len(read(put(table(rows)), drop_incomplete=True).rows) == N - 3
    rows = [("" if i < 3 else h, a, b, y) for i, (h, a, b, y) in enumerate(PLAIN)]
    refused(["'hospital' is missing in 3 of 120 rows"], lambda: read(put(table(rows))))


# ---- numbers, codes, dates, truth values, ids -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "codes",
    [
        ("1_1", "1_2", "2_1", "11"),
        ("007", "07", "7"),
        ("01234", "12345", "98765"),
        ("0x1F", "31"),
        ("1E5", "2E3"),
        ("1-2", "3"),
    ],
)
def test_codes_are_words(put, codes):
    p = read(put(table(column([codes[i % len(codes)] for i in range(N)]))))
    assert kinds(p)["a"] == "text"
    assert set(p.encoding["columns"][0]["levels"]) == set(codes)


@pytest.mark.parametrize(
    "write",
    [
        lambda v: f'"{v:,}"',
        lambda v: f"{v:,}".replace(",", " "),
        lambda v: f"{v:,}".replace(",", "'"),
        lambda v: f"{v} €",
        lambda v: f"{v}%",
    ],
)
def test_numbers_with_signs_are_no_classes(put, write):
    rows = [(h, a, b, write(46500 + 500 * (i % 13))) for i, (h, a, b, _) in enumerate(PLAIN)]
    p = read(put(table(rows)), scale_target=False)
    assert p.classes == ()
    assert p.y.tolist() == [46500 + 500 * (i % 13) for i in range(N)]


def test_points_that_may_be_thousands_are_asked_for(put, refused):
    text = table(column([f"{i + 1}.{(i * 137) % 1000:03}" for i in range(N)]), "hospital;a;b;outcome", ";")
    text = text.replace(f";{B[0]};", ";1;")
    rows = [(h, f"{i + 1}.{(i * 137) % 1000:03}", i, y) for i, (h, _, _, y) in enumerate(PLAIN)]
    text = table(rows, "hospital;a;b;outcome", ";")
    refused(["'1.000' in line 2", "semicolons", "decimal="], lambda: read(put(text)))
    one, thousand = (read(put(text), decimal=mark) for mark in ".,")
    assert "decimal mark ','" in said(thousand)
    assert "decimal" not in said(one)
    assert read(put(text.replace(";", ","))).x.shape == (N, 2)


def test_a_sign_that_only_some_have_is_refused(put, refused):
    rows = column([f"{abs(a):.2f}%" if i % 9 else f"{abs(a) + 0.01:.2f}" for i, a in enumerate(A)])
    refused(["without the sign %", "line 2"], lambda: read(put(table(rows))))


def test_new_rows_need_the_unit_of_training(put, refused):
    p = read(put(table(column([f"{abs(a):.2f}%" for a in A]))))
    new = table(column([f"{abs(a) / 100:.4f}" for a in A[:6]], PLAIN[:6]))
    refused(["unit 'none'", "'%' in the data"], lambda: read_like(put(new, "s.csv"), p.encoding, client="h1"))


@pytest.mark.parametrize(
    "spellings",
    [
        ("True", "TRUE", "false", "False"),
        ("yes", "Yes", "NO", "no"),
        ("true", "1", "false", "0"),
        ("ja", "JA", "nein", "Nein"),
    ],
)
def test_truth_in_several_spellings_is_one_column_of_two(put, spellings):
    p = read(put(table(column([spellings[i % 4] for i in range(N)]))))
    assert p.encoding["columns"][0]["levels"] == ["false", "true"]
    assert "'a' is true or false" in said(p)
    labels = read(put(table([(h, a, b, spellings[i % 4]) for i, (h, a, b, _) in enumerate(PLAIN)])))
    assert labels.classes == ("false", "true")
    new = read_like(put(table([("h1", 1, 2, spellings[0])]), "s.csv"), labels.encoding)
    assert new.y.tolist() == [1]


def test_letters_are_not_taken_for_truth(put):
    p = read(put(table(column([("t", "f", "y", "T")[i % 4] for i in range(N)]))))
    assert p.encoding["columns"][0]["levels"] == ["T", "f", "t", "y"]


@pytest.mark.parametrize("name", ["patient_id", "recordID", "case no", "uuid", "Unnamed: 1"])
def test_ids_are_said_and_left_out_and_can_be_kept(put, name):
    ids = (RNG.permutation(N) * 7 + 1000) if name != "Unnamed: 1" else np.arange(N)
    path = put(table(column(ids), f"hospital,{name if name != 'Unnamed: 0' else ''},b,outcome"))
    p = read(path)
    assert name not in kinds(p)
    assert f"number={name} or text={name} keeps it" in said(p)
    assert kinds(read(path, number=name))[name] == "numeric"
    assert kinds(read(path, text=name))[name] == "text"


def test_texts_that_name_their_rows_can_be_kept(put):
    path = put(table(column([f"case {i}" for i in range(N)])))
    assert "text=a keeps it" in said(read(path))
    assert read(path, text="a").x.shape == (N, N + 2)


@pytest.mark.parametrize(
    ("texts", "day"),
    [
        (["20200304", "20200315"], 4),
        (["2020.03.04", "2020.03.15"], 4),
        (["04.03.20", "15.03.20"], 4),
        (["03/04/2020 2:30 PM", "03/15/2020 11:00 AM"], 4),
        (["4-Mar-2020", "15-Mar-2020"], 4),
        (["2020-03-04 10:20:30.5", "NA", "2020-03-05"], 4),
    ],
)
def test_dates_in_more_forms(texts, day):
    dates = parse_dates(texts)
    assert dates is not None
    assert not dates.ambiguous
    assert np.datetime64(int(dates.seconds[0]), "s").astype("datetime64[D]") == np.datetime64(f"2020-03-{day:02}")


@pytest.mark.parametrize("form", ["{:02}:{:02}", "{:02}:{:02}:00", "{:d}:{:02} PM"])
def test_times_of_day_are_waves(put, form):
    clock = [form.format(i % 12 + 1, i % 60) for i in range(N)]
    p = read(put(table(column(clock))))
    assert [part["part"] for part in p.encoding["columns"][0]["parts"]] == ["hour (sin)", "hour (cos)"]
    new = read_like(put(table(column(clock[:6], PLAIN[:6])), "s.csv"), p.encoding, client="h3")
    assert torch.equal(new.x[0], p.x[3])
    assert kinds(read(put(table(column([f"{i % 3}:{i % 4}" for i in range(N)])))))["a"] == "text"


@pytest.mark.parametrize("texts", [["01/02/03", "02/03/04"], ["04/03/20", "05/06/20"]])
def test_dates_that_may_be_either_way_round(texts):
    dates = parse_dates(texts)
    assert dates is not None
    assert dates.ambiguous


def test_a_date_that_is_none_is_refused_by_its_line(put, refused):
    days = [f"2020-03-{i % 28 + 1:02}" if i != 50 else "soon" for i in range(N)]
    refused(["'soon' in line 52", "column of dates (ISO 8601)", "text=a"], lambda: read(put(table(column(days)))))
    assert form_of_most(["ward 1-2", "x"] * 20) is None


# ---- classes or numbers ---------------------------------------------------------------------------------------------


def labelled(values):
    return table([(h, a, b, y) for h, a, b, y in zip(H * 9, [*A] * 9, [*B] * 9, values, strict=False)])


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (RNG.integers(0, 26, 600), 26),
        (RNG.integers(1, 101, 1000), 100),
        (RNG.integers(0, 62, 1000), 62),
        (RNG.integers(18, 90, 1000), 0),  # ages
        (RNG.poisson(30, 1000), 0),  # counts
        (RNG.geometric(0.1, 1000), 0),
        (RNG.permutation(600), 0),  # ranks
    ],
)
def test_whole_numbers_are_classes_where_they_look_like_labels(put, values, classes):
    p = read(put(labelled(values)))
    assert len(p.classes) == classes
    other = "task=regression" if classes else "task=classification"
    assert other in said(p)


def test_whole_numbers_of_leaf_and_of_arrays_are_classes(put, tmp_path, refused):
    y = RNG.permutation(np.arange(400) % 62)
    users = {f"u{i}": {"x": [[float(v)] for v in range(40)], "y": y[40 * i : 40 * i + 40].tolist()} for i in range(10)}
    whole = {"users": list(users), "num_samples": [40] * 10, "user_data": users}
    p = read(put(json.dumps(whole), "femnist.json"))
    assert len(p.classes) == 62
    assert "task=regression" in said(p)
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=(400, 2)), y=y, client=np.arange(400) % 5)
    assert len(read(str(tmp_path / "a.npz")).classes) == 62
    np.savez(tmp_path / "b.npz", x=RNG.normal(size=(400, 2)), y=np.arange(400), client=np.arange(400) % 5)
    refused(["400 different whole numbers", "task=regression"], lambda: read(str(tmp_path / "b.npz")))
    assert read(str(tmp_path / "b.npz"), task="regression").classes == ()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_whole_numbers_in_python_are_classes(dtype):
    y = (torch.arange(30) % (2 if dtype == torch.bool else 3)).to(dtype)
    p = sb.Population.from_arrays(torch.randn(30, 2), y, [f"c{i % 3}" for i in range(30)])
    assert p.classes == (("0", "1") if dtype == torch.bool else ("0", "1", "2"))
    assert p.y.dtype == torch.int64
    assert "y.float()" in said(p)
    assert inspect(p).classes == len(p.classes)


@pytest.mark.parametrize("y", [torch.arange(60), torch.arange(60) % 3 - 1, torch.arange(60) % 2 * 100_000])
def test_whole_numbers_in_python_that_are_no_class_numbers(y, refused):
    make = sb.Population.from_arrays
    refused(["whole numbers", "y.float()"], lambda: make(torch.randn(60, 2), y, ["a", "b"] * 30))
    assert make(torch.randn(60, 2), y.float(), ["a", "b"] * 30).classes == ()


# ---- names ----------------------------------------------------------------------------------------------------------

COMPOSED, APART = "Ko\u0308ln", "K\u00f6ln"


def test_two_forms_of_unicode_are_one_client(put, tmp_path):
    rows = [((COMPOSED, APART)[i % 2] if h == "h1" else h, *rest) for i, (h, *rest) in enumerate(PLAIN)]
    rows += [((COMPOSED, APART)[i % 2], 1, 2, 1) for i in range(4)]
    assert read(put(table(rows))).names.count(APART) == 1
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=(9, 2)), y=np.arange(9) % 2, client=[COMPOSED, APART, "b"] * 3)
    p = read(str(tmp_path / "a.npz"))
    assert p.names == (APART, "b")
    assert "two forms of Unicode" in said(p)
    users = {name: {"x": [[1.0], [2.0]], "y": [0, 1]} for name in (COMPOSED, APART, "b")}
    whole = {"users": list(users), "num_samples": [2] * 3, "user_data": users}
    assert read(put(json.dumps(whole), "l.json")).sizes.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("one", "two"),
    [("Ward", "ward"), ("Ward 1", "Ward  1"), ("01", "1"), ("\uff28\uff11", "H1"), ("straße", "STRASSE")],
)
def test_names_that_may_be_one_client_are_asked_for(put, refused, one, two):
    path = put(
        table([((one, two)[i % 2] if h == "h1" else h, *rest) for i, (h, *rest) in enumerate(PLAIN)] + [(one, 1, 2, 1)])
    )
    refused([repr(one), repr(two), "alike=merge", "alike=keep"], lambda: read(path))
    assert len(read(path, alike="merge")) == 6
    assert len(read(path, alike="keep")) == 7
    assert "taken for one" in said(read(path, alike="merge"))


def test_large_whole_numbers_stay_two_clients(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"client": [2**53, 2**53 + 1] * 3, "x": range(6), "y": [0, 1, 1, 0, 1, 0]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert read(str(tmp_path / "t.parquet")).names == ("9007199254740992", "9007199254740993")
    frame["client"] = pd.array([2**53, 2**53 + 1, 2**53, 2**53 + 1, 2**53, None], "Int64")
    frame.to_parquet(tmp_path / "t.parquet")
    assert read(str(tmp_path / "t.parquet"), drop_incomplete=True).sizes.tolist() == [3, 2]


def test_a_named_index_of_parquet_is_a_column(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"client": list("ab") * 3, "x": range(6), "y": [0, 1, 1, 0, 1, 0]})
    frame.set_index("client").to_parquet(tmp_path / "t.parquet")
    assert read(str(tmp_path / "t.parquet")).names == ("a", "b")


# ---- LEAF's own split -----------------------------------------------------------------------------------------------


def leaf_of(users):
    data = {name: {"x": [[float(v)] for v in y], "y": [v % 2 for v in y]} for name, y in users.items()}
    return json.dumps({"users": list(data), "num_samples": [len(y) for y in users.values()], "user_data": data})


@pytest.fixture
def leaf_split(tmp_path):
    """Three users in both parts, one in test/ only."""

    def write(train, test):
        for part, users in (("train", train), ("test", test)):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / part / "all.json").write_text(leaf_of(users))
        return str(tmp_path / "set")

    return write


def test_the_split_by_samples_is_kept(leaf_split, tmp_path):
    p = read(leaf_split({"a": [1, 2, 3], "b": [4, 5]}, {"a": [6], "b": [7, 8]}))
    assert "test/ holds out 3 samples" in said(p)
    assert p.unseen == ()
    for population in (p, packed_again(p, tmp_path / "packed"), p.only([1, 0]).only([1, 0])):
        train, test = population.hold_out(0.2)
        assert [train.x[train.rows_of(i)].flatten().tolist() for i in range(2)] == [[1, 2, 3], [4, 5]]
        assert [test.x[test.rows_of(i)].flatten().tolist() for i in range(2)] == [[6], [7, 8]]
    assert len(p.hold_out(0)[1].rows) == 0
    assert p.fingerprint() == packed_again(p, tmp_path / "again").fingerprint()


def packed_again(population, path):
    pack_population(population, path)
    return read(str(path))


def test_the_split_by_users_is_kept(leaf_split):
    p = read(leaf_split({"a": [1, 2], "b": [3, 4]}, {"c": [5, 6]}))
    assert p.unseen == ("c",)
    assert "1 users are in test/ only: set apart as never seen" in said(p)
    known, unseen = p.split_clients()
    assert (known.names, unseen.names) == (("a", "b"), ("c",))
    assert known.hold_out(0.5)[0].sizes.tolist() == [2, 2]


def test_users_that_are_not_listed_are_said(put, refused):
    whole = json.loads(leaf_of({"a": [1, 2], "b": [3, 4], "c": [5, 6]}))
    whole["users"], whole["num_samples"] = ["a", "b"], [2, 2]
    p = read(put(json.dumps(whole), "l.json"))
    assert "1 users in user_data left out, since `users` does not list them: 'c'" in said(p)
    whole["users"] = ["a", "a"]
    refused(["lists the user 'a' twice"], lambda: read(put(json.dumps(whole), "l.json")))
    text = leaf_of({"a": [1, 2], "b": [3, 4]}).replace('"b": {', '"a": {')
    refused(["the key 'a' twice"], lambda: read(put(text, "l.json")))


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("PIL")

    def write(make, clients=3, labels=("disc", "square"), suffix="png", root="d", **form):
        for c in range(clients):
            for label in labels:
                place = tmp_path / root / f"c{c}" / label
                place.mkdir(parents=True)
                for i in range(3):
                    make(label, i).save(place / f"{i}.{suffix}", **(form.get(label) or {}))
        return str(tmp_path / root)

    return write


def drawn(label, i, mode="L"):
    from PIL import Image, ImageDraw

    image = Image.new("L", (12, 10), 0)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if label == "disc" else draw.rectangle)((1 + i, 1, 8 + i, 8), fill=255)
    return image.convert(mode)


def in_alpha(ink, mode):
    from PIL import Image

    def make(label, i):
        alpha = drawn(label, i)
        image = Image.new(mode, alpha.size, (ink, 0) if mode == "LA" else (ink, ink, ink, 0))
        image.putalpha(alpha)
        return image

    return make


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("ink", [0, 255, 200])
def test_drawings_in_the_alpha_channel_are_seen(folder, ink, mode):
    """Laid on what differs from the ink: ink where alpha is 255, ground where it is 0."""
    p = read(folder(in_alpha(ink, mode)))
    ground = 255 if ink == 0 else 0
    expected = np.where(np.asarray(drawn("disc", 0)) > 0, ink, ground)
    assert np.array_equal(p.x[0, 0].numpy(), expected)
    assert "18 images have transparent pixels" in said(p)
    new = read_like(folder(in_alpha(ink, mode), clients=1, root="s"), p.encoding)
    assert torch.equal(new.x, p.x[p.rows_of(0)])


def test_an_alpha_channel_that_hides_nothing_changes_nothing(folder):
    opaque = read(folder(lambda label, i: drawn(label, i, "RGBA")))
    plain = read(folder(lambda label, i: drawn(label, i, "RGB"), root="e"))
    assert torch.equal(opaque.x, plain.x)
    assert "transparent" not in said(opaque)


def test_palettes(folder):
    plain = read(folder(drawn))
    grey = read(folder(lambda label, i: drawn(label, i, "P"), root="p"))
    assert torch.equal(grey.x, plain.x)

    def see_through(label, i):
        image = drawn(label, i).point(lambda v: 1 if v else 0).convert("P")
        image.putpalette([255, 255, 255, 200, 0, 0])
        return image

    clear = read(folder(see_through, root="t", suffix="gif", disc={"transparency": 0}, square={"transparency": 0}))
    assert clear.x[0, :, 0, 0].tolist() == [255, 255, 255]
    assert clear.x[0, :, 5, 5].tolist() == [200, 0, 0]


def test_cmyk_and_16_bit(folder, refused):
    p = read(folder(lambda label, i: drawn(label, i, "RGB").convert("CMYK"), suffix="tif"))
    assert torch.equal(p.x, read(folder(lambda label, i: drawn(label, i, "RGB"), root="e")).x)
    deep = folder(lambda label, i: drawn(label, i).convert("I;16"), root="deep")
    refused(["more than 8 bits", "I;16"], lambda: read(deep))


@pytest.mark.parametrize("turn", [2, 3, 4, 5, 6, 7, 8])
def test_photographs_are_turned_as_their_camera_says(folder, turn):
    """Stored as the camera's inverse of each turn, all are the same picture; those on their side have other sizes."""
    from PIL import Image

    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]
    form = {"exif": exif(turn), "quality": 100}
    root = folder(
        lambda label, i: drawn("disc", i) if label == "disc" else drawn("disc", i).transpose(Image.Transpose(back)),
        suffix="jpg", disc={"quality": 100}, square=form,
    )  # fmt: skip
    p = read(root)
    assert p.x.shape[2:] == (10, 12)
    assert (p.x[p.y == 0].float() - p.x[p.y == 1].float()).abs().mean() < 3
    assert "9 images turned as their camera says" in said(p)


def exif(turn):
    from PIL import Image

    found = Image.Exif()
    found[0x0112] = turn
    return found


@pytest.mark.parametrize(
    ("own", "episodic"),
    [
        ([("cat", "dog", "owl"), ("cat", "dog", "owl"), ("cat", "dog")], False),
        ([("cat", "dog"), ("dog", "owl"), ("owl", "cat")], False),
        ([tuple("0123456789"), tuple("0123456789"), tuple("012345678")], False),
        ([("alpha", "beta"), ("fehu", "ur"), ("alef", "bet")], True),
        ([("c01", "c02"), ("c01", "c02", "c03", "c04"), ("c01",)], True),
        ([("alpha", "other"), ("fehu", "other"), ("alef", "other")], True),
    ],
)
def test_clients_that_lack_classes(tmp_path, own, episodic):
    pytest.importorskip("PIL")
    for c, labels in enumerate(own):
        for label in labels:
            (tmp_path / f"c{c}" / label).mkdir(parents=True)
            drawn("disc", 0).save(tmp_path / f"c{c}" / label / "0.png")
    p = read(str(tmp_path))
    assert p.episodic == episodic
    assert f"episodic={str(not episodic).lower()}" in said(p)
    assert len(p.classes) == (sum(map(len, own)) if episodic else len(set().union(*own)))


def test_folder_names_in_two_forms_of_unicode(tmp_path):
    pytest.importorskip("PIL")
    for name in (COMPOSED, APART, "b"):
        for label in ("x", "y"):
            (tmp_path / name / label).mkdir(parents=True)
            drawn("disc", 0).save(tmp_path / name / label / f"{len(name)}.png")
    p = read(str(tmp_path))
    assert dict(zip(p.names, p.sizes.tolist(), strict=True)) == {APART: 4, "b": 2}


# ---- wide -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_columns_are_read_in_seconds(put):
    """60 rows of 10,000 numbers: half a minute of CPU at most; it was minutes."""
    rows = [(h, *row, y) for h, row, y in zip(H, RNG.normal(size=(60, 10_000)).round(3), Y, strict=False)]
    text = table(rows, "hospital," + ",".join(f"v{i}" for i in range(10_000)) + ",outcome")
    path, start = put(text), time.process_time()
    assert read(path).x.shape == (60, 10_000)
    assert time.process_time() - start < 30


# ---- time -----------------------------------------------------------------------------------------------------------


def dated(order):
    """Row i is of day i, whatever place it has in the file."""
    days = [f"2020-{1 + i // 28:02}-{i % 28 + 1:02}" for i in range(N)]
    return table([(H[i], days[i], i, Y[i]) for i in order], "hospital,when,b,outcome")


def test_support_is_the_past(put, tmp_path):
    """Whatever the order in the file, no support row is later than a query row, and the last rows are held out."""
    p = read(put(dated(RNG.permutation(N))), time="when", number="b")
    days = p.x[:, 0]
    assert (days.diff() > 0).all()
    for population in (p, packed_again(p, tmp_path / "packed")):
        train, test = population.hold_out(0.3)
        days = population.x[:, 0]
        assert all(days[train.rows_of(i)].max() < days[test.rows_of(i)].min() for i in range(6))
        for sampler in (sb.fresh_support(3, draws=4), sb.support_query(0.5), sampling.own_half(draws=2)):
            task = sb.Sampled(population, sampler).tasks([0, 3], 0)
            support, query = task.items.support.x[..., 0], task.items.query.x[..., 0]
            assert (support.amax(-1) < query.amin(-1)).all()


def test_rows_without_a_time_are_refused(put, refused):
    text = dated(range(N)).replace("2020-01-05", "")
    refused(["time=when is missing in line 6"], lambda: read(put(text), time="when"))
    refused(["no column 'wen'", "did you mean 'when'"], lambda: read(put(text), time="wen"))
    assert read(put(dated(range(N))), time="b", number="b").ordered
    assert not read(put(dated(range(N)))).ordered
