"""The run directory: whole files or none, a journal that survives being torn, damage that is named."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch

from seedbed.errors import InputError
from seedbed.experiments.run_directory import RunDirectory
from seedbed.federated import ServerState
from seedbed.learning.finetuning import FineTuning, Scored
from seedbed.serialization import (
    explain_write_errors,
    fill_template,
    tensors_from_bytes,
    trees_to_bytes,
    write_atomically,
)

PARAMS = {"head": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}}


def trees(round: int) -> dict[str, object]:
    """A state that tells its round."""
    return {"state": ServerState({"w": torch.full((4,), float(round))}, {"updates": torch.tensor(float(round))})}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Three rounds, a checkpoint after each."""
    made = RunDirectory.create(tmp_path / "run", {"settings": {}})
    for round in (1, 2, 3):
        made.log({"round": round, "loss": 1 / round})
        made.save("main", round, trees(round))
    return made


def state_of(run: RunDirectory, stage: str = "main") -> tuple[int, float]:
    found = run.latest(stage)
    assert found is not None
    return found[0], float(found[1]["state.params.w"][0])


# ---- atomic writes ---------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(InputError, match=r"No space left.*free some space.*seedbed resume"):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["f"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "may write to"),
        (errno.EROFS, "may write to"),
        (errno.ENOTDIR, "choose another place"),
    ],
)
def test_what_the_file_system_says_gets_a_way_out(number: int, way: str) -> None:
    with pytest.raises(InputError, match=way), explain_write_errors(Path("x")):
        raise OSError(number, os.strerror(number))


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path, run: RunDirectory) -> None:
    with pytest.raises(InputError, match=r"another --out; `seedbed resume"):
        RunDirectory.create(run.path, {})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"exists and is not empty: choose another --out$"):
        RunDirectory.create(tmp_path / "file", {})
    with pytest.raises(InputError, match=r"holds no run \(no manifest.json\)"):
        RunDirectory.open(tmp_path)
    RunDirectory.create(tmp_path / "deep" / "er", {})


# ---- the journal -----------------------------------------------------------------------------------------------------


def test_the_last_checkpoint_counts_and_two_are_kept(run: RunDirectory) -> None:
    assert state_of(run) == (3, 3.0)
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == [
        "main-000002.safetensors",
        "main-000003.safetensors",
    ]
    assert run.latest("other") is None


def test_stages_of_like_names_leave_each_other_s_checkpoints(run: RunDirectory) -> None:
    for round in (1, 2, 3):
        run.save("main-probe", round, trees(10 * round))
    run.save("main", 4, trees(4))
    assert state_of(run) == (4, 4.0)
    assert state_of(run, "main-probe") == (3, 30.0)


def test_rounds_of_more_digits_are_later(run: RunDirectory) -> None:
    for round in (999_999, 1_000_000, 1_000_001):
        run.save("main", round, trees(7))
    assert state_of(run)[0] == 1_000_001


def test_a_journal_torn_at_every_byte_of_its_last_line(run: RunDirectory) -> None:
    """Round 3 counts only when its line is whole; its metrics go with it, and what is torn is forgotten for good."""
    journal, metrics = run.path / "journal.jsonl", run.path / "metrics.jsonl"
    whole, told = journal.read_bytes(), metrics.read_bytes()
    file = run.path / "checkpoints" / "main-000003.safetensors"
    data = file.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for cut in range(start, len(whole) + 1):
        journal.write_bytes(whole[:cut])
        metrics.write_bytes(told)
        file.write_bytes(data)
        run.recover()
        last = 3 if cut >= len(whole) - 1 else 2
        assert state_of(run) == (last, float(last)), cut
        assert [line["round"] for line in run.metrics()] == list(range(1, last + 1))
        assert journal.read_bytes() == (whole if last == 3 else whole[:start])
        assert file.exists() == (last == 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("round", 1), ("round", "2"), ("round", -1), ("stage", "probe"), ("file", 5), ("file", "../x"), ("sha256", None)]
    + [("metrics_bytes", value) for value in (0, -1, 1.5, "a", None)],
)
def test_an_altered_value_of_an_inner_line_is_refused(run: RunDirectory, name: str, value: object) -> None:
    """A checkpoint under another round's number would be gone on with in silence."""
    journal = run.path / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], json.dumps({**json.loads(lines[2]), name: value}), lines[3]]) + "\n")
    with pytest.raises(InputError, match=r"journal.jsonl line 3 .*altered"):
        run.recover()


def test_tables_that_hold_something_else(run: RunDirectory) -> None:
    """One line that names the file, whichever table of a run's directory was altered."""
    manifest = json.loads((run.path / "manifest.json").read_text())
    for name in ("settings", "versions", "clients", "data"):
        (run.path / "manifest.json").write_text(json.dumps({**manifest, name: 5}))
        with pytest.raises(InputError, match=r"manifest.json is not as it was written"):
            RunDirectory.open(run.path)
    for odd in (5, {}, {"score": "x", "how": None}, {"score": 1, "how": {"a": 1}}):
        (run.path / "choices.json").write_text(json.dumps({"main": odd}))
        with pytest.raises(InputError, match=r"choices.json is not as it was written"):
            run.choice("main")
    for odd in (5, {"adapted": 5}, {"adapted": {"x": {}}}, {"adapted": {"1": {"a": 1}}}):
        (run.path / "result.json").write_text(json.dumps({"finetuning": odd}))
        with pytest.raises(InputError, match=r"result.json is not as it was written"):
            run.finetuning()
    (run.path / "result.json").write_text("[]")
    with pytest.raises(InputError, match=r"result.json is not JSON \(it is no table\)"):
        run.finetuning()


@pytest.mark.parametrize("line", ["{", "5", '{"stage": "main"}', "\x00\x00", "null"])
def test_an_altered_inner_line_is_refused(run: RunDirectory, line: str) -> None:
    journal = run.path / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], line, lines[2]]) + "\n")
    before = journal.read_bytes()
    for read in (lambda: run.latest("main"), run.recover):
        with pytest.raises(InputError, match=r"journal.jsonl line 2 .*altered.*restore it"):
            read()
    assert journal.read_bytes() == before


def test_metrics_after_the_last_checkpoint_are_forgotten(run: RunDirectory) -> None:
    run.log({"round": 4})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"round": 5, "lo')
    (run.path / "checkpoints" / "main-000009.safetensors").write_bytes(b"written, but not yet in the journal")
    torn = [run.path / ".model.safetensors.0123456789abcdef.part", run.path / "checkpoints" / f".a.{'f' * 16}.part"]
    others = [run.path / "model.safetensors.part", run.path / "notes.part", run.path / "checkpoints" / "mine.txt"]
    for place in (*torn, *others):
        place.write_bytes(b"torn, or somebody else's")
    run.recover()
    assert [line["round"] for line in run.metrics()] == [1, 2, 3]
    assert not (run.path / "checkpoints" / "main-000009.safetensors").exists()
    assert not any(place.exists() for place in torn)
    assert all(place.exists() for place in others), "only its own is removed"


def test_metrics_that_are_shorter_than_the_journal_says_are_refused(run: RunDirectory) -> None:
    metrics = run.path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"metrics.jsonl has \d+ bytes, but \d+"):
        run.recover()


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_cut_at_any_length_or_with_a_bit_flipped_is_named(run: RunDirectory) -> None:
    file = run.path / "checkpoints" / "main-000003.safetensors"
    data = file.read_bytes()
    cuts = [data[:n] for n in range(0, len(data), 7)]
    flips = [data[:i] + bytes([data[i] ^ 1 << (i % 8)]) + data[i + 1 :] for i in range(0, len(data), 7)]
    for bad in (*cuts, *flips, data + b"\0"):
        file.write_bytes(bad)
        with pytest.raises(InputError) as error:
            run.latest("main")
        for words in ("main-000003.safetensors", "round 3", "remove line 4", "journal.jsonl", "from round 2"):
            assert words in str(error.value)
    file.unlink()
    with pytest.raises(InputError, match=r"main-000003.safetensors .* is missing"):
        run.latest("main")


def test_the_way_out_of_a_damaged_checkpoint(run: RunDirectory) -> None:
    """As the message says: without the line, the round before is there, whatever lies around; rounds go on."""
    (run.path / "checkpoints" / "main-000003.safetensors").write_bytes(b"")
    journal = run.path / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))
    run.recover()
    assert state_of(run) == (2, 2.0)
    run.save("main", 3, trees(3))
    assert state_of(run) == (3, 3.0)


def test_a_tree_comes_back_as_it_went() -> None:
    back = fill_template(PARAMS, tensors_from_bytes(trees_to_bytes({"params": PARAMS}), "f"), "params")
    assert torch.equal(back["head"]["weight"], PARAMS["head"]["weight"])
    assert back.keys() == PARAMS.keys()


def test_another_model_s_file_is_refused() -> None:
    found = tensors_from_bytes(trees_to_bytes({"params": PARAMS}), "f")
    with pytest.raises(InputError, match=r"params.head.weight has shape \(2, 3\), not \(5, 3\).*another model"):
        fill_template({"head": {"weight": torch.zeros(5, 3)}}, found, "params")
    with pytest.raises(InputError, match=r"params.tail is missing.*another model"):
        fill_template({"tail": torch.zeros(1)}, found, "params")
    with pytest.raises(InputError, match=r"f is not a complete safetensors file"):
        tensors_from_bytes(b"nothing of the kind", "f")


def test_json_is_never_written_with_nan_and_never_read_torn(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant"):
        run.write_json("result.json", {"mean": float("nan")})
    assert run.result is None
    (run.path / "result.json").write_text('{"unseen": ')
    with pytest.raises(InputError, match=r"result.json is not JSON"):
        _ = run.result
    run.write_json("result.json", {"unseen": {}})
    assert run.result == json.loads((run.path / "result.json").read_text()) == {"unseen": {}}


def test_choices_are_found_again(run: RunDirectory) -> None:
    assert run.choice("probe, 1 shots") is None
    run.keep_choice("probe, 1 shots", Scored(0.1 + 0.2, FineTuning("head", head_lr=0.3)))
    run.keep_choice("probe, 5 shots", Scored(math.nan, None))
    again = RunDirectory.open(run.path)
    assert again.choice("probe, 1 shots") == Scored(0.1 + 0.2, FineTuning("head", head_lr=0.3))
    score, how = again.choice("probe, 5 shots") or Scored(0, FineTuning())
    assert math.isnan(score)
    assert how is None
