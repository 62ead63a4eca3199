"""An .npz with x, y and client."""

import json

import numpy as np
import pytest
import torch

from seedbed.data.readers import read, read_like


@pytest.fixture
def npz(tmp_path):
    def write(name="t.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return str(tmp_path / name)

    return write


X = np.arange(12.0).reshape(6, 2)
Y = np.array([3, 7, 3, 7, 3, 7])
CLIENT = np.array(["b", "a", "b", "a", "b", "a"])


def test_classes(npz):
    p = read(npz(x=X, y=Y, client=CLIENT))
    assert p.names == ("b", "a")
    assert p.classes == ("3", "7")
    assert p.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert p.x.dtype == torch.float32
    assert not p.episodic
    assert read(npz(x=X, y=Y, client=CLIENT), episodic=True).episodic


def test_numbers_and_several_numbers(npz):
    p = read(npz(x=X, y=Y / 10, client=CLIENT))
    assert p.classes == ()
    assert torch.allclose(p.y, torch.tensor(Y / 10, dtype=torch.float32))
    assert read(npz(x=X, y=X, client=CLIENT)).y.shape == (6, 2)
    assert read(npz(x=X, y=Y, client=CLIENT), task="regression").y.dtype == torch.float32


def test_images_and_tokens_keep_their_kind(npz):
    assert read(npz(x=np.zeros((6, 1, 4, 4), np.uint8), y=Y, client=CLIENT)).x.dtype == torch.uint8
    assert read(npz(x=np.zeros((6, 5), np.int32), y=Y, client=CLIENT)).x.dtype == torch.int64


def test_support_is_numbered_alike(npz):
    encoding = json.loads(json.dumps(read(npz(x=X, y=Y, client=CLIENT)).encoding))
    new = read_like(npz("s.npz", x=X[:2], y=[7, 3]), encoding)
    assert new.y.tolist() == [1, 0]
    assert new.classes == ("3", "7")


def test_labels_of_episodic_support_are_its_own(npz):
    encoding = read(npz(x=X, y=Y, client=CLIENT), episodic=True).encoding
    new = read_like(npz("s.npz", x=X[:4], y=[100, 9, 9, 20]), encoding)
    assert new.classes == ("9", "20", "100")
    assert new.y.tolist() == [2, 0, 0, 1]


def test_images_may_come_as_bytes_or_as_fractions(npz):
    encoding = read("digits").encoding
    pixels = np.array([[[0, 255]] * 8] * 4).reshape(1, 8, 8).astype(np.uint8)
    as_bytes = read_like(npz("b.npz", x=pixels, y=[1]), encoding)
    as_fractions = read_like(npz("f.npz", x=pixels / 255, y=[1]), encoding)
    assert as_bytes.x.shape == (1, 1, 8, 8)
    assert torch.equal(as_bytes.x, as_fractions.x)


def test_partition_needs_no_client(npz):
    assert len(read(npz(x=X, y=Y), partition="iid", clients=3)) == 3


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X, "y": Y}, ["no array 'client'", "it holds x, y", "numpy.savez", "partition="]),
        ({"x": X, "y": Y[:5], "client": CLIENT}, ["differ in length", "'y': 5"]),
        ({"x": X[:0], "y": Y[:0], "client": CLIENT[:0]}, ["no rows"]),
        ({"x": np.where(X == 4, np.nan, X), "y": Y, "client": CLIENT}, ["x of row 2", "'b'", "drop or fill"]),
        ({"x": X.astype(str), "y": Y, "client": CLIENT}, ["x of t.npz holds <U", "must be numbers"]),
        ({"x": X.astype(object), "y": Y, "client": CLIENT}, ["t.npz cannot be read", "allow_pickle=False"]),
    ],
)
def test_refusals(npz, refused, arrays, words):
    refused(words, lambda: read(npz(**arrays)))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X, "y": [3, 7, 3, 7, 3, 8]}, ["y of s.npz", "class '8'", "choose from 3, 7"]),
        ({"x": X[:, :1], "y": Y}, ["x of s.npz", "(1,)", "the model takes (2,)"]),
        ({"x": X}, ["no array 'y'"]),
    ],
)
def test_refusals_of_support(npz, refused, arrays, words):
    encoding = read(npz(x=X, y=Y, client=CLIENT)).encoding
    refused(words, lambda: read_like(npz("s.npz", **arrays), encoding))


def test_refuses_images_of_another_scale(npz, refused):
    encoding = read("digits").encoding
    refused(
        ["x of s.npz goes from 0 to 16", "0…1", "scale them alike"],
        lambda: read_like(npz("s.npz", x=np.eye(8)[None] * 16.0, y=[1]), encoding),
    )


def test_refuses_torn_files(tmp_path, npz, refused):
    (tmp_path / "torn.npz").write_bytes((tmp_path / npz(x=X, y=Y, client=CLIENT)).read_bytes()[:300])
    refused(["torn.npz cannot be read"], lambda: read(str(tmp_path / "torn.npz")))
