"""Folders of images, client/class/*.png."""

import json

import numpy as np
import pytest
import torch

from seedbed.data.readers import read, read_like

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def put(tmp_path):
    """Writes an image of random pixels at root/name."""
    rng = np.random.default_rng(0)

    def write(name, size=(6, 6), mode="L", root="data"):
        path = tmp_path / root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = size if mode == "L" else (*size, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
        return str(tmp_path / root)

    return write


@pytest.fixture
def alphabets(put):
    for name in ("greek/alpha/1.png", "greek/alpha/2.png", "greek/beta/1.png", "runes/fehu/1.png", "runes/ur/1.png"):
        root = put(name)
    return root


@pytest.fixture
def wards(put):
    for client in ("north", "south"):
        for label in ("ill", "well"):
            root = put(f"{client}/{label}/1.png", root="wards")
            put(f"{client}/{label}/2.jpg", root="wards")
    return root


def test_classes_of_their_own_are_episodic(alphabets):
    p = read(alphabets)
    assert p.episodic
    assert p.names == ("greek", "runes")
    assert p.classes == ("greek/alpha", "greek/beta", "runes/fehu", "runes/ur")
    assert p.x.shape == (5, 1, 6, 6)
    assert p.x.dtype == torch.uint8


def test_the_same_classes_everywhere_mean_the_same(wards):
    p = read(wards)
    assert not p.episodic
    assert p.classes == ("ill", "well")
    assert read(wards, episodic=True).classes[0] == "north/ill"


def test_pixels_are_the_files(alphabets):
    with Image.open(f"{alphabets}/greek/alpha/1.png") as first:
        assert np.array_equal(read(alphabets).x[0, 0].numpy(), np.asarray(first))


def test_size_and_colour(put):
    put("a/x/1.png", (8, 10))
    root = put("b/y/1.png", (9, 9), mode="RGB")
    assert read(root, size=5).x.shape == (2, 3, 5, 5)


def test_support_in_both_layouts(alphabets, wards, tmp_path):
    encoding = json.loads(json.dumps(read(alphabets, size=4).encoding))
    new = read_like(f"{alphabets}/greek", encoding)
    assert new.classes == ("alpha", "beta")
    assert new.y.tolist() == [0, 0, 1]
    assert torch.equal(new.x, read(alphabets, size=4).x[:3])
    assert torch.equal(read_like(alphabets, encoding, client="greek").x, new.x)


def test_support_of_classes_that_mean_the_same(put, wards):
    encoding = read(wards).encoding
    assert read_like(put("well/1.png", root="s"), encoding).y.tolist() == [1]


def test_support_for_fractions(put):
    """Digits are kept as 0…1: an image of them comes so too."""
    new = read_like(put("3/1.png", (8, 8), root="s"), read("digits").encoding)
    assert new.x.dtype == torch.float32
    assert new.x.max() <= 1


def test_refusals(put, alphabets, refused, tmp_path):
    put("runes/ur/odd.png", (7, 6))
    refused(["odd.png is 6×7", "6×6", "size=28"], lambda: read(alphabets))
    torn = tmp_path / "data/runes/ur/odd.png"
    torn.write_bytes(torn.read_bytes()[:60])
    refused(["odd.png cannot be read as an image"], lambda: read(alphabets, size=6))
    torn.unlink()
    (tmp_path / "data/empty").mkdir()
    refused(["client 'empty' has no images", "drop_short=true"], lambda: read(alphabets))
    p = read(alphabets, drop_short=True)
    assert p.names == ("greek", "runes")
    assert "client 'empty' left out: it has no images" in p.notes


def test_refuses_other_layouts(put, refused, tmp_path):
    refused(["holds images of its own", "client/class/*.png"], lambda: read(put("x/1.png", root="flat")))
    (tmp_path / "bare").mkdir()
    refused(["none of the layouts", "client/class/*.png"], lambda: read(str(tmp_path / "bare")))


def test_refuses_deep_pixels(tmp_path, refused):
    (tmp_path / "data/a/x").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "data/a/x/1.png")
    refused(["1.png has more than 8 bits", "convert"], lambda: read(str(tmp_path / "data")))


def test_refusals_of_support(put, alphabets, wards, refused, tmp_path):
    encoding = read(wards).encoding
    refused(["class 'il'", "did you mean 'ill'"], lambda: read_like(put("il/1.png", root="s"), encoding))
    refused(["several clients", "client=NAME"], lambda: read_like(wards, encoding))
    refused(["no folder of client 'west'", "north"], lambda: read_like(wards, encoding, client="west"))
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    refused(["t.csv does not fit", "class/*.png"], lambda: read_like(tmp_path / "t.csv", encoding))
    refused(["no file", "missing", "class/*.png"], lambda: read_like(tmp_path / "missing", encoding))
    refused(["arrays made in Python"], lambda: read_like(tmp_path / "t.csv", {}))
