"""The user's own data, in every layout: train, judge, and grow a model for one more client."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from seedbed.data.readers import read_like
from seedbed.experiments.adapt import load_personal

from .bench import TINY, seedbed, table

pytest.importorskip("pandas")
Real = Callable[[str], Path]
HEART = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num,hospital"


def run(data: Path, out: Path, *words: object) -> dict[str, object]:
    said = seedbed("run", "--data", data, *TINY, "--out", out, *words)
    assert said.code == 0, said
    result: dict[str, object] = json.loads((out / "result.json").read_text())
    return result


def adapt(out: Path, support: Path, model: Path, *words: object) -> str:
    said = seedbed("adapt", out, "--support", support, "--out", model, *words)
    assert said.code == 0, said
    assert model.stat().st_size > 100
    return said.out


def test_csv_with_support_and_query(csv: Path, tmp_path: Path) -> None:
    run(csv, tmp_path / "r")
    header, *rows = csv.read_text().splitlines()
    mine = [row for row in rows if row.startswith("a,")]
    for name, lines in {"s.csv": mine[:10], "q.csv": mine[10:]}.items():
        (tmp_path / name).write_text("\n".join([header, *lines]))
    out = adapt(tmp_path / "r", tmp_path / "s.csv", tmp_path / "m.safetensors", "--query", tmp_path / "q.csv")
    assert "grown from 10 examples of 2 classes (ill, well)" in " ".join(out.split())
    assert "accuracy on the query set" in " ".join(out.split())
    for steps in (0, 3):
        adapt(tmp_path / "r", tmp_path / "s.csv", tmp_path / f"{steps}.safetensors", "--steps", steps)
    still, moved = (load_personal(tmp_path / f"{steps}.safetensors").params for steps in (0, 3))
    assert not torch.equal(still["head.weight"], moved["head.weight"])
    adapt(tmp_path / "r", csv, tmp_path / "c.safetensors", "--client", "a", "--query", csv)


def test_a_loaded_model_predicts_what_was_scored(csv: Path, tmp_path: Path) -> None:
    run(csv, tmp_path / "r")
    out = adapt(tmp_path / "r", csv, tmp_path / "m.safetensors", "--client", "b", "--query", csv)
    encoding = json.loads((tmp_path / "r" / "manifest.json").read_text())["data"]["encoding"]
    mine = read_like(csv, encoding, client="b")
    model = load_personal(tmp_path / "m.safetensors")
    right = (model.predict(mine.x).argmax(1) == mine.y).double().mean()
    assert f"accuracy on the query set: {float(right):.4g}" in " ".join(out.split())


def test_numbers_to_predict(tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text(table(numbers=True))
    result = run(tmp_path / "n.csv", tmp_path / "r", "--algorithm", "fedmeta")
    assert (result["metric"], result["higher_is_better"]) == ("squared error", False)
    out = adapt(tmp_path / "r", tmp_path / "n.csv", tmp_path / "m.safetensors", "--client", "a")
    assert "grown from 24 examples" in " ".join(out.split())
    assert load_personal(tmp_path / "m.safetensors").predict(torch.zeros(2, 2)).shape == (2, 1)


def test_two_clients_are_enough(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text(table("ab"))
    run(tmp_path / "two.csv", tmp_path / "r")


def test_names_in_any_script(tmp_path: Path) -> None:
    (tmp_path / "dåta ü.csv").write_text(table("ñ北éz'").replace("hospital", "client"), encoding="utf-8")
    run(tmp_path / "dåta ü.csv", tmp_path / "läuft ☺")
    assert "北" in (tmp_path / "läuft ☺" / "report.html").read_text(encoding="utf-8")


def test_npz(arrays: Path, tmp_path: Path) -> None:
    run(arrays, tmp_path / "r")
    with np.load(arrays) as found:
        np.savez(tmp_path / "s.npz", x=found["x"][:9], y=found["y"][:9])
    assert "grown from 9 examples" in adapt(tmp_path / "r", tmp_path / "s.npz", tmp_path / "m.safetensors")


def test_other_data_of_the_same_shape_is_judged_by_evaluate(csv: Path, tmp_path: Path) -> None:
    run(csv, tmp_path / "r")
    (tmp_path / "more.csv").write_text(table("xyz"))
    said = seedbed("evaluate", tmp_path / "r", "--data", tmp_path / "more.csv")
    assert said.code == 0, said
    assert "3 clients" in " ".join(said.out.split())
    (tmp_path / "n.csv").write_text(table(numbers=True))
    assert "the model does not know" in seedbed("evaluate", tmp_path / "r", "--data", tmp_path / "n.csv").line
    assert "shape" in seedbed("evaluate", tmp_path / "r", "--data", "digits").line


def test_made_up_clients(csv: Path, tmp_path: Path) -> None:
    words = [f"reader.{key}" for key in ("partition=dirichlet", "clients=4", "alpha=100", "minimum=10")]
    run(csv, tmp_path / "r", *(part for word in words for part in ("--set", word)))


def test_a_run_is_gone_on_with_from_any_directory(
    csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopping: Callable[[int], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    stopping(1)
    assert seedbed("run", "--data", "wards.csv", *TINY, "--out", "r").code == 130
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    said = seedbed("resume", "../r")
    assert said.code == 0, said


# ---- real data -----------------------------------------------------------------------------------------------------


def test_heart_disease_as_a_csv_with_a_hospital_column(real: Real, tmp_path: Path) -> None:
    lines = [HEART]
    for hospital in ("cleveland", "hungarian", "switzerland", "va"):
        text = (real("heart_disease") / f"processed.{hospital}.data").read_text()
        lines += [f"{line},{hospital}" for line in text.split()]
    (tmp_path / "heart.csv").write_text("\n".join(lines))
    result = run(tmp_path / "heart.csv", tmp_path / "r", "--set", "reader.target=num")
    assert list(result["unseen"]) == ["1"]  # type: ignore[call-overload]
    notes = json.loads((tmp_path / "r" / "manifest.json").read_text())["data"]["notes"]
    assert any("missing" in note for note in notes)
    adapt(tmp_path / "r", tmp_path / "heart.csv", tmp_path / "m.safetensors", "--client", "va")


def test_omniglot_as_a_folder_of_images(real: Real, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    with zipfile.ZipFile(real("omniglot") / "images_background_small1.zip") as archive:
        for name in archive.namelist():
            alphabet, character = (name.split("/") + [""] * 3)[1:3]
            few = 7 if alphabet == "Greek" else 6  # with the same names everywhere, classes would mean the same
            if name.endswith(".png") and int(character[-2:]) <= few and int(name[-6:-4]) <= 8:
                archive.extract(name, tmp_path)
    root = tmp_path / "images_background_small1"
    words = ("--set", "reader.size=14", "--set", "evaluation.queries=5", "--set", "task.ways=5", "--engine", "auto")
    result = run(root, tmp_path / "r", *words)
    assert result["algorithm"] == "fed_proto"
    assert result["unseen"]["1"]["adapted"]["clients"] == 2  # type: ignore[index]
    out = adapt(tmp_path / "r", root / "Greek", tmp_path / "m.safetensors", "--query", root / "Greek")
    assert "of 7 classes (character01" in " ".join(out.split())
    assert load_personal(tmp_path / "m.safetensors").predict(torch.zeros(2, 1, 14, 14)).shape == (2, 7)


def test_leaf_json_of_fedprox_synthetic(real: Real, tmp_path: Path) -> None:
    file = real("fedprox_synthetic") / "synthetic_iid.test.json.xz"
    result = run(file, tmp_path / "r", "--algorithm", "fedprox")
    assert result["unseen"]["1"]["adapted"]["clients"] == 9  # type: ignore[index]
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    client = manifest["clients"]["unseen"][0]
    adapt(tmp_path / "r", file, tmp_path / "m.safetensors", "--client", client, "--steps", 2)
