"""The named sets, against the counts that their origins state; read(), inspect(), drop_short(), with_rotations()."""

import json

import numpy as np
import pytest
import torch

from seedbed.data.augment import with_distortions, with_rotations
from seedbed.data.population import Population
from seedbed.data.readers import KNOWN, drop_small_clients, inspect, omniglot, read, read_like

FORM_SIZES = [130, 126, 130, 130, 130, 130, 130, 123, 128, 130, 128, 130, 122, 130]


def test_digits():
    p = read("digits")
    assert p.sizes.tolist() == FORM_SIZES
    assert p.unseen == ("writer11", "writer12", "writer13", "writer14")
    assert p.x.shape == (1797, 1, 8, 8)
    assert (p.x * 16).max() == 16
    assert p.episodic
    assert p.classes == tuple("0123456789")
    train, unseen = p.split_clients()
    assert (len(train), len(unseen)) == (10, 4)


def test_digits_forms_have_one_text():
    """Every writer copied the same 130 digits: the twelve without a slip agree in their first hundred."""
    p = read("digits")
    texts = [tuple(p.labels[p.rows_of(i)][:100]) for i in range(len(p))]
    assert max(texts.count(text) for text in texts) >= 10


def test_omniglot_bits(real):
    p = read("omniglot", root=real("omniglot28"))
    assert (len(p), len(p.rows), len(p.classes), len(p.unseen)) == (50, 32460, 1623, 20)
    assert p.x.shape == (32460, 1, 28, 28)
    assert p.x[::100].unique().tolist() == [0, 255]
    assert 0.02 < (p.x[::100] == 255).float().mean() < 0.3  # ink is the rare one
    assert p.classes[0] == "Alphabet_of_the_Magi/character01"
    assert np.unique(p.labels, return_counts=True)[1].tolist() == [20] * 1623
    assert (inspect(p).classes_per_client[0], inspect(p).classes_per_client[2]) == (14, 55)
    assert all(p.classes[y].startswith(p.names[3] + "/") for y in p.labels[p.rows_of(3)])


@pytest.mark.parametrize("alphabet", ["Blackfoot_(Canadian_Aboriginal_Syllabics)", "Ge_ez"])
def test_omniglot_zips_equal_the_bits(real, alphabet):
    """A training alphabet and an evaluation one, bit for bit."""
    pytest.importorskip("PIL.Image")
    zips = omniglot.read(real("omniglot") / "omniglot", alphabets=[alphabet])
    bits = omniglot.read(real("omniglot28") / "omniglot28", alphabets=[alphabet])
    assert zips.names == bits.names
    assert set(zips.unseen) <= set(bits.unseen)
    assert torch.equal(zips.x[zips.rows_of(0)], bits.x[bits.rows_of(0)])


def test_omniglot_support_is_prepared_alike(real, tmp_path):
    """An original 105×105 drawing becomes the very bits that the model was trained on."""
    import zipfile

    root = real("omniglot")
    with zipfile.ZipFile(root / "omniglot/images_background.zip") as archive:
        member = next(name for name in archive.namelist() if "Greek/character01" in name)
        (tmp_path / "alpha").mkdir()
        (tmp_path / "alpha/1.png").write_bytes(archive.read(member))
    p = read("omniglot", root=real("omniglot28"))
    new = read_like(tmp_path, json.loads(json.dumps(p.encoding)))
    assert torch.equal(new.x[0], p.x[p.rows_of(p.names.index("Greek"))[0]])


def test_omniglot_refusals(real, tmp_path, refused):
    refused(
        ["no alphabet 'Grek'", "did you mean 'Greek'"],
        lambda: read("omniglot", root=real("omniglot28"), alphabets=["Grek"]),
    )
    (tmp_path / "images_background.zip").write_bytes(b"PK\x03\x04 torn")
    refused(["images_background.zip cannot be read", "data get omniglot"], lambda: read("omniglot", root=tmp_path))
    (tmp_path / "omniglot28.bits.xz").write_bytes(b"torn")
    (tmp_path / "omniglot28.json").write_text('{"alphabets": [["A", 2, "background"]]}')
    refused(["omniglot28.bits.xz", "cannot be read"], lambda: read("omniglot", root=tmp_path))


def test_rotations():
    x = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    p = Population.from_arrays(x, torch.tensor([0, 1]), ["a", "b"], classes=("p", "q"), episodic=True)
    turned = with_rotations(p.only([1]))
    assert turned.names == ("b",)
    assert turned.classes == ("p", "q", "p@90", "q@90", "p@180", "q@180", "p@270", "q@270")
    assert turned.y[turned.rows_of(0)].tolist() == [1, 3, 5, 7]
    expected = [[[4, 5], [6, 7]], [[5, 7], [4, 6]], [[7, 6], [5, 4]], [[6, 4], [7, 5]]]
    assert turned.x[turned.rows_of(0)][:, 0].tolist() == expected


def test_distortions_keep_classes_and_clients():
    p = read("digits").only([0, 1])
    more = with_distortions(p, copies=3, strength=0.5, seed=4)
    assert more.sizes.tolist() == [3 * n for n in p.sizes]
    for client in (0, 1):
        own, grown = p.rows_of(client), more.rows_of(client)
        assert torch.equal(more.x[grown[: len(own)]], p.x[own])
        assert more.labels[grown].reshape(3, -1).tolist() == [p.labels[own].tolist()] * 3
        moved = (more.x[grown[len(own) : 2 * len(own)]] - p.x[own]).abs().flatten(1).mean(1)
        assert 0.01 < float(moved.mean()) < 0.2
    assert torch.equal(with_distortions(p, copies=3, strength=0.5, seed=4).x, more.x)
    assert torch.allclose(with_distortions(p, copies=2, strength=0.0).x[len(p.rows) :], p.x[p.rows], atol=1e-6)


def test_rotations_of_several_clients_keep_to_their_clients():
    p = read("digits").only([0, 3])
    turned = with_rotations(p)
    assert turned.sizes.tolist() == [4 * n for n in p.sizes]
    assert torch.equal(turned.x[turned.rows_of(1)][: p.sizes[1]], p.x[p.rows_of(1)])


def test_rotations_refusals(refused):
    flat = Population.from_arrays(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), ["a", "b"], episodic=True)
    refused(["square images", "(3,)"], lambda: with_rotations(flat))
    plain = Population.from_arrays(torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64), ["a", "b"])
    refused(["episodic"], lambda: with_rotations(plain))


def test_heart_disease(real):
    p = read("heart_disease", root=real("heart_disease"))
    assert dict(zip(p.names, p.sizes.tolist(), strict=True)) == {
        "cleveland": 303,
        "hungarian": 261,
        "switzerland": 46,
        "va": 130,
    }
    assert p.x.shape == (740, 13)
    assert set(p.x[:, 8:].unique().tolist()) == {0, 1}
    raw = read("heart_disease", root=real("heart_disease"), standardise=False)
    assert raw.x[0].tolist() == pytest.approx([63, 1, 145, 233, 1, 150, 0, 2.3, 0, 0, 0, 0, 1])
    assert p.y[p.rows_of(0)].float().mean() == pytest.approx(139 / 303)


def test_mnist(real):
    p = read("mnist", root=real("mnist"), partition="shards", clients=100, per_client=2)
    assert (len(p.rows), p.x.shape[1:], len(p)) == (70000, (1, 28, 28), 100)
    assert p.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert inspect(p).classes_per_client[2] <= 4
    assert inspect(read("mnist", root=real("mnist"))).sizes[0] >= 10


@pytest.mark.parametrize(
    ("name", "clients", "sizes"),
    [
        ("parkinsons_telemonitoring", 42, (101, 141, 168)),
        ("bank_marketing", 12, (38, 206.5, 969)),
        ("credit_default", 36, (33, 432, 3799)),
        ("shakespeare_roles", 615, None),
    ],
)
def test_counts(real, name, clients, sizes):
    if name != "shakespeare_roles":
        pytest.importorskip("pandas")
    found = inspect(read(name, root=real(name)))
    assert found.clients == clients
    assert sizes is None or found.sizes == sizes
    assert found.source == name


@pytest.mark.slow
@pytest.mark.parametrize(("device", "windows"), [("sp", 1937), ("sw", 2041)])
def test_sp_sw_har(real, device, windows):
    p = read("sp_sw_har", root=real("sp_sw_har"), device=device)
    assert (len(p), len(p.rows), len(p.classes)) == (23, windows, 5)


def test_shakespeare_windows(real):
    p = read("shakespeare_roles", root=real("shakespeare_roles"), least_characters=20000, stride=80)
    symbols = p.encoding["symbols"]
    first, second = ("".join(symbols[t] for t in p.x[i]) for i in p.rows_of(0)[:2])
    assert symbols[p.y[p.rows_of(0)[0]]] == second[0]
    assert len(first) == 80


def test_every_encoding_is_json():
    assert json.loads(json.dumps(read("digits").encoding)) == read("digits").encoding


def test_unknown_sources(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEDBED_DATA", str(tmp_path))
    refused(["'digit'", "did you mean 'digits'"], lambda: read("digit"))
    refused(["no file or folder ./x.csv", "looked in"], lambda: read("./x.csv"))
    refused(["omniglot is not at hand", str(tmp_path), "seedbed data get omniglot", "--root"], lambda: read("omniglot"))
    refused(["credit_default is not at hand", "archive.ics.uci.edu"], lambda: read("credit_default", root=tmp_path))
    (tmp_path / "t.doc").write_text("")
    refused(["t.doc", "none of the layouts", ".csv"], lambda: read(str(tmp_path / "t.doc")))


def test_unknown_options(refused):
    refused(["digits takes no option 'size'", "choose from episodic"], lambda: read("digits", size=3))
    refused(["clients=5", "partition=dirichlet"], lambda: read("digits", clients=5))
    refused(["'dirichle'", "choose from iid"], lambda: read("digits", partition="dirichle"))
    refused(["'alph'", "did you mean 'alpha'"], lambda: read("digits", partition="iid", alph=5))


def test_every_known_set_is_described():
    for known in KNOWN.values():
        assert known.summary
        assert known.clients
        assert known.licence
        assert known.homepage.startswith("http")
        assert all(file.url.startswith("https://") for file in known.files)


def test_inspect_of_skew():
    """Client a holds all of class 0, b all of class 1: each is ½ away from the pooled half and half."""
    y = torch.tensor([0, 0, 1, 1])
    p = Population.from_arrays(torch.zeros(4, 1), y, list("aabb"), classes=("x", "y"))
    assert inspect(p).label_skew == 0.5
    assert inspect(p).classes_per_client == (1, 1.0, 1)
    assert inspect(Population.from_arrays(torch.zeros(4, 1), y.float(), list("aabb"))).label_skew is None


def test_drop_short(refused):
    y = torch.tensor([0, 0, 1, 1, 0, 0, 0, 1])
    p = Population.from_arrays(torch.zeros(8, 1), y, list("aaaabbbc"), classes=("x", "y"))
    assert drop_small_clients(p, least_examples=3).names == ("a", "b")
    kept = drop_small_clients(p, least_classes=2, per_class=2)
    assert kept.names == ("a",)
    assert kept.notes[-1].startswith("2 of 3 clients left out")
    assert "'b', 'c'" in kept.notes[-1]
    assert drop_small_clients(p) is p
    refused(["none of 3 clients", "fewer than 9 examples"], lambda: drop_small_clients(p, least_examples=9))
