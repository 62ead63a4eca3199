"""LEAF JSON: files, packed files, folders with train/ and test/."""

import json
import lzma

import pytest
import torch

from seedbed.data.readers import inspect, read, read_like


def leaf_of(**users):
    return {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {name: {"x": x, "y": y} for name, (x, y) in users.items()},
    }


@pytest.fixture
def put(tmp_path):
    def write(data, name="t.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = data if isinstance(data, str) else json.dumps(data)
        path.write_bytes(lzma.compress(text.encode()) if name.endswith(".xz") else text.encode())
        return str(path)

    return write


A = ([[1, 2], [3, 4]], [0.0, 9.0])
B = ([[5, 6], [7, 8]], [9.0, 9.0])


@pytest.mark.parametrize("name", ["t.json", "t.json.xz"])
def test_vectors(put, name):
    p = read(put(leaf_of(a=A, b=B), name))
    assert p.names == ("a", "b")
    assert p.classes == ("0", "9")
    assert p.x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert p.y.tolist() == [0, 1, 1, 1]


def test_train_and_test_are_joined(put, tmp_path):
    put(leaf_of(a=A, b=B), "set/train/1.json")
    put(leaf_of(a=B), "set/test/1.json")
    p = read(str(tmp_path / "set"))
    assert dict(zip(p.names, p.sizes.tolist(), strict=True)) == {"a": 4, "b": 2}
    assert "2 files joined" in p.notes


def test_strings_become_tokens(put):
    p = read(put(leaf_of(a=(["ab ", "b a"], ["a", " "]), b=(["aab"], ["\n"]))))
    assert p.x.tolist() == [[1, 2, 0], [2, 0, 1], [1, 1, 2]]
    assert p.x.dtype == torch.int64
    assert p.classes == ("\n", " ", "a")


def test_support(put, refused):
    encoding = json.loads(json.dumps(read(put(leaf_of(a=A, b=B))).encoding))
    one = put(leaf_of(new=([[1, 2]], [9])), "s.json")
    assert read_like(one, encoding).y.tolist() == [1]
    both = put(leaf_of(a=A, b=B), "both.json")
    assert read_like(both, encoding, client="b").x.tolist() == B[0]
    refused(["both.json holds 2 clients", "client=NAME"], lambda: read_like(both, encoding))
    refused(["no client 'c'", "choose from a, b"], lambda: read_like(both, encoding, client="c"))
    wide = put(leaf_of(a=([[1, 2, 3]], [9])), "wide.json")
    refused(["wide.json", "(3,)", "takes (2,)"], lambda: read_like(wide, encoding))


def test_support_of_strings(put, refused):
    encoding = read(put(leaf_of(a=(["ab", "ba"], ["a", "b"])))).encoding
    unknown = put(leaf_of(a=(["az"], ["a"])), "s.json")
    refused(["s.json", "character 'z'"], lambda: read_like(unknown, encoding))


def without(key):
    return {name: value for name, value in leaf_of(a=A).items() if name != key}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('{"users": ["a"], ', ["t.json cannot be read as JSON"]),
        (without("user_data"), ["t.json is not LEAF", "no 'user_data'"]),
        ([1], ["t.json is not LEAF", "no 'users'"]),
        (leaf_of(a=A) | {"num_samples": [3]}, ["client 'a'", "2 x and 2 y", "num_samples says 3", "complete?"]),
        (leaf_of(a=A) | {"user_data": {}}, ["client 'a'", "no x and y in user_data"]),
        (leaf_of(a=([[1], [1, 2]], [0, 1])), ["t.json", "lengths [1, 2]"]),
        (leaf_of(a=([[["a", "b"]]], [0])), ["x of t.json is neither vectors"]),
        (leaf_of(a=A, b=([], [])), ["client 'b'", "no samples", "drop_short=true"]),
    ],
)
def test_refusals(put, refused, data, words):
    refused(words, lambda: read(put(data)))


def test_empty_users_may_be_left_out(put):
    p = read(put(leaf_of(a=A, b=([], []))), drop_short=True)
    assert p.names == ("a",)
    assert "client 'b' left out: it has no samples" in p.notes


def test_torn_xz(put, tmp_path, refused):
    path = tmp_path / put(leaf_of(a=A), "t.json.xz")
    path.write_bytes(path.read_bytes()[:40])
    refused(["t.json.xz cannot be read as JSON"], lambda: read(str(path)))


def test_fedprox_synthetic(real):
    """30 clients of 60 features and 10 classes; (1,1): 5 to 662 rows, label skew 0.86 (ORIGIN.md)."""
    p = read(str(real("fedprox_synthetic") / "fedprox_synthetic/synthetic_1_1.test.json.xz"))
    found = inspect(p)
    assert (len(p), p.x.shape[1], len(p.classes)) == (30, 60, 10)
    assert (found.sizes[0], found.sizes[2]) == (5, 662)
    assert found.label_skew is not None
    assert 0.5 < found.label_skew < 0.9
