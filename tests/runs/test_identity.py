"""A run belongs to what began it: what a resume may find changed, and what it refuses by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seedbed.errors import InputError, Stopped
from seedbed.experiments import identity as identities
from seedbed.experiments import launch as starting
from seedbed.experiments.identity import differences, has_rounds_to_add, identity, identity_digest, refuse_changed
from seedbed.experiments.launch import evaluate_run, resume_run, start_run
from seedbed.experiments.run_directory import MADE_BY, RunDirectory
from seedbed.experiments.stages import Show

WITHOUT_DIGESTS = Path(__file__).parent / "golden" / "before_digests"  # a stopped run, as version 0.1.0 wrote it
ASKED = {"algorithm": "fedavg", "executor": "loop", "workers": 1}
TINY = [
    *("model.name=linear", "cohort=3", "evaluation.episodes=1", "evaluation.shots=1", "evaluation.baselines=false"),
    *("evaluation.curve=false", "checkpoint_seconds=0", "local.lr=0.1"),
]


class Notes(Show):
    """Keeps what a run says, and interrupts the training after so many rounds."""

    def __init__(self, rounds: int = 0):
        self.notes: list[str] = []
        self.rounds = rounds

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, title: str, total: int) -> Callable[[str], None]:
        left = [self.rounds if title == "fedavg" else 0]

        def tick(word: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        return tick


def begun(out: Path, *more: str, rounds: int = 3, stop: int = 2, **asked: Any) -> Path:
    """A run that was interrupted in round 2, so that round 1 counts."""
    with pytest.raises(Stopped):
        start_run({**ASKED, "rounds": rounds, **asked}, [*TINY, *more], None, out, Notes(stop))
    return out


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    change(manifest)
    (run / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(tmp_path_factory.mktemp("stopped") / "run")


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", 1, ["seed was 0", "is 1 now", "put seed=0 back", "manifest.json", "seedbed run --config"]),
        ("rounds", 2, ["rounds=3", "rounds=2", "3 are planned already"]),
        ("algorithm", "fedprox", ["algorithm was fedavg", "is fedprox now", 'put algorithm="fedavg" back']),
        ("cohort", 4, ["cohort was 3", "is 4 now"]),
        ("unseen", 0.5, ["unseen was null", "is 0.5 now"]),
        ("options", {"local": {"lr": 0.2}}, ["options.local.lr was 0.1", "is 0.2 now"]),
        ("executor", "stacked", ["executor was loop", "is stacked now"]),
    ],
)
def test_a_changed_setting_is_refused_by_name_and_nothing_is_touched(
    run: Path, key: str, value: Any, words: list[str]
) -> None:
    edit(run, lambda manifest: manifest["settings"].__setitem__(key, value))
    before = contents(run)
    with pytest.raises(InputError) as refusal:
        resume_run(run, Show())
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)
    after = contents(run)
    assert {**before, "lock": b""} == after


def test_the_refused_run_goes_on_once_the_value_is_put_back(run: Path) -> None:
    edit(run, lambda manifest: manifest["settings"].__setitem__("seed", 1))
    with pytest.raises(InputError, match="seed"):
        resume_run(run, Show())
    edit(run, lambda manifest: manifest["settings"].__setitem__("seed", 0))
    shown = Notes()
    assert resume_run(run, shown)
    assert not shown.notes


@pytest.mark.parametrize("part", ["train", "validation", "unseen"])
def test_a_changed_list_of_clients_is_refused(run: Path, part: str) -> None:
    """An unseen client that was trained on would be judged as one never seen."""
    edit(run, lambda manifest: manifest["clients"][part].append("writer99"))
    with pytest.raises(InputError, match=rf"the list of its clients \({part}\) was .* restore its manifest.json"):
        resume_run(run, Show())


def test_another_split_by_the_same_settings_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are drawn by the seed: a library that draws others must not go on with the run."""
    real = starting._manifest

    def other(experiment: Any) -> dict[str, Any]:
        made = real(experiment)
        clients = made["clients"]
        return {**made, "clients": {**clients, "unseen": clients["train"][:1] + clients["unseen"][1:]}}

    monkeypatch.setattr(starting, "_manifest", other)
    with pytest.raises(InputError, match=r"the list of its clients \(unseen\)"):
        resume_run(run, Show())


def test_the_data_s_fingerprint_cannot_be_edited_to_fit_other_data(run: Path) -> None:
    edit(run, lambda manifest: manifest["data"].__setitem__("fingerprint", "0" * 64))
    with pytest.raises(InputError, match=r"its data \(fingerprint\) was"):
        resume_run(run, Show())


def test_a_data_file_with_one_other_byte_is_refused(tmp_path: Path) -> None:
    rows = [f"c{i % 8},{i % 3},{(i * 7) % 11},{(i * 5) % 13}" for i in range(160)]
    data = tmp_path / "t.csv"
    data.write_text("\n".join(["client,y,a,b", *rows]) + "\n")
    reader = ("reader.client=client", "reader.target=y", "task.batch_size=4", "evaluation.queries=4")
    run = begun(tmp_path / "run", *reader, data=str(data))
    text = data.read_text()
    data.write_text(text.replace("10,12", "10,11", 1))
    assert len(data.read_text()) == len(text)
    with pytest.raises(InputError, match=r"t.csv is no longer the data that .* was started on"):
        resume_run(run, Show())
    data.write_text(text)
    assert resume_run(run, Show())


def test_a_finished_run_with_another_seed_is_not_judged_on_clients_that_it_was_trained_on(run: Path) -> None:
    resume_run(run, Show())
    edit(run, lambda manifest: manifest["settings"].__setitem__("seed", 5))
    for again in (lambda: evaluate_run(run, None, None, [], Show()), lambda: resume_run(run, Show())):
        with pytest.raises(InputError, match=r"seed was 0 when the run began and is 5 now"):
            again()


# ---- what may differ -------------------------------------------------------------------------------------------------


def test_rounds_can_be_added_and_give_the_run_that_had_them_from_the_start(run: Path, tmp_path: Path) -> None:
    whole, _ = start_run({**ASKED, "rounds": 5}, TINY, None, tmp_path / "whole", Show())
    for path in (run, Path(shutil.copytree(run, tmp_path / "later"))):
        if path.name == "later":
            resume_run(path, Show())  # first to the end of the 3 that were planned
        edit(path, lambda manifest: manifest["settings"].__setitem__("rounds", 5))
        shown = Notes()
        resume_run(path, shown)
        assert shown.notes == ["rounds 3 → 5: 2 more"]
        assert RunDirectory.open(path).result == RunDirectory.open(whole).result
        assert (path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"privacy": {"epsilon": 4}}, "noise and its budget are planned"),
        ({"tune": [1, 3]}, "probes of a part of them"),
        ({"options": {"outer": {"schedule": {"name": "cosine"}}}}, "schedule over them"),
        ({"options": {"schedule": "linear"}}, "schedule over them"),
    ],
)
def test_rounds_are_not_added_where_that_would_be_another_run(settings: dict[str, Any], reason: str) -> None:
    old, new = (identity({"settings": {**settings, "rounds": n}}) for n in (3, 5))
    with pytest.raises(InputError, match=reason):
        refuse_changed("r", old, new)


def test_what_changes_no_bit_may_change(run: Path) -> None:
    changes = {"workers": 2, "checkpoint_seconds": 9.0, "audit": {"clients": 4}}
    edit(run, lambda manifest: manifest["settings"].update(changes))
    shown = Notes()
    resume_run(run, shown)
    assert not shown.notes


def versioned(**versions: str) -> dict[str, Any]:
    return {"versions": {"seedbed": "0.1.0", "torch": "2.9.0", "numpy": "2.3.1", "python": "3.11.4", **versions}}


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"torch": "2.9.1+cpu", "python": "3.11.9"}, []),
        ({"torch": "2.10.0"}, ["torch 2.9.0 → 2.10.0 since the run began: the last bits of what follows may differ"]),
        ({"seedbed": "0.2.0"}, ["seedbed 0.1.0 → 0.2.0 since the run began: the last bits of what follows may differ"]),
    ],
)
def test_versions(other: dict[str, str], line: list[str]) -> None:
    """Patches go on in silence, others with a line; a private run keeps to the patch, for its noise is the same."""
    old, new = identity(versioned()), identity(versioned(**other))
    assert refuse_changed("r", old, new) == line
    private = {"settings.privacy.epsilon": 4.0}
    with pytest.raises(InputError, match=r"(torch|seedbed) was .* the same noise .*go on with (torch 2.9|seedbed 0.1)"):
        refuse_changed("r", private | old, private | new)


def test_a_private_run_keeps_its_device() -> None:
    old, new = (identity({"settings": {"device": device}}) for device in ("cpu", "cuda"))
    assert refuse_changed("r", old, new) == [
        "device cpu → cuda since the run began: the last bits of what follows may differ"
    ]
    with pytest.raises(InputError, match="put device"):
        refuse_changed("r", {**old, "settings.privacy.epsilon": 4.0}, {**new, "settings.privacy.epsilon": 4.0})


def test_another_version_is_said_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "versions", lambda: versioned(torch="9.9.0")["versions"])
    shown = Notes(rounds=1)
    with pytest.raises(Stopped):
        resume_run(run, shown)
    assert len(shown.notes) == 1
    assert "→ 9.9.0" in shown.notes[0]
    again = Notes()
    resume_run(run, again)
    assert not again.notes


def test_a_setting_that_an_older_version_did_not_have_counts_as_its_default() -> None:
    new = identity({"settings": {"gate": {"norm": None}, "hold_out": 0.2, "seed": 0}})
    assert not differences({"settings.seed": 0}, new)
    changed = identity({"settings": {"gate": {"norm": 3.0}, "seed": 0}})
    assert differences({"settings.seed": 0}, changed) == [("settings.gate.norm", None, 3.0)]


# ---- the journal -----------------------------------------------------------------------------------------------------


def test_every_line_has_the_digest_of_what_made_it(run: Path) -> None:
    first, *others = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert others
    assert {line["digest"] for line in others} == {first["digest"]} == {identity_digest(first[MADE_BY])}
    assert json.loads((run / "manifest.json").read_text())["digest"] == first["digest"]


def test_a_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    """Its line and its file are whole, so that only the digest tells."""
    other = begun(tmp_path / "other", seed=1)
    line = (other / "journal.jsonl").read_text().splitlines()[-1]
    name = json.loads(line)["file"]
    shutil.copy(other / name, run / name)
    lines = (run / "journal.jsonl").read_text().splitlines()
    (run / "journal.jsonl").write_text("\n".join([*lines[:-1], line]) + "\n")
    with pytest.raises(InputError, match=r"journal.jsonl line \d is of a checkpoint that other settings"):
        resume_run(run, Show())


def test_an_identity_that_was_edited_or_cut_off_is_refused(run: Path) -> None:
    journal = run / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0].replace('"settings.seed": 0', '"settings.seed": 1'), *lines[1:]]))
    with pytest.raises(InputError, match="line 1 is no checkpoint's: the file was altered"):
        resume_run(run, Show())
    for left in (lines[1:], []):
        journal.write_text("".join(left))
        with pytest.raises(InputError, match=r"journal.jsonl (does not say what made|line 1 is of a checkpoint)"):
            resume_run(run, Show())


def test_a_run_from_before_digests_is_resumed_once_with_a_line_and_bound_from_then_on(tmp_path: Path) -> None:
    run = Path(shutil.copytree(WITHOUT_DIGESTS, tmp_path / "run"))
    shown = Notes(rounds=1)
    with pytest.raises(Stopped):
        resume_run(run, shown)
    unchecked = [note for note in shown.notes if "was not checked" in note]
    assert len(unchecked) == 1
    edited = Path(shutil.copytree(run, tmp_path / "edited"))
    edit(edited, lambda manifest: manifest["settings"].__setitem__("seed", 1))
    with pytest.raises(InputError, match="seed was 0"):
        resume_run(edited, Show())
    again = Notes()
    resume_run(run, again)
    assert not again.notes
    assert [line["round"] for line in RunDirectory.open(run).metrics() if line["stage"] == "fedavg"] == [1, 2, 3]


def test_an_identity_leaves_out_what_alters_no_bit_and_tells_lists_apart() -> None:
    """By hand: places, threads and what another command reads are out; another client of as many is another list."""
    settings = {"seed": 3, "data": "a.csv", "workers": 2, "audit": {"steps": 1}, "federation": {"deadline": 1}}
    assert identity({"settings": settings, "versions": {"platform": "x"}}) == {"settings.seed": 3}
    first, second = (identity({"clients": {"train": names}}) for names in (["a", "b"], ["a", "c"]))
    assert first["clients.train"].startswith("2, sha256 ")
    assert first != second


@pytest.mark.parametrize(("began", "now", "more"), [(3, 5, True), (3, 3, False), (None, 1, True), (None, None, False)])
def test_rounds_to_add(began: int | None, now: int | None, more: bool) -> None:
    """No rounds in an identity count as none."""
    before, after = ({} if rounds is None else {"settings.rounds": rounds} for rounds in (began, now))
    assert has_rounds_to_add(before, after) is more


def test_one_schedule_among_other_options_refuses_more_rounds() -> None:
    began = {"settings.rounds": 3, "settings.options.local.lr": 0.1, "settings.options.local.schedule": "cosine"}
    with pytest.raises(InputError, match="follows a schedule"):
        refuse_changed("run", began, {**began, "settings.rounds": 5})


def test_a_long_value_is_cut_in_a_refusal() -> None:
    assert [identities._said("x" * n) for n in (60, 61)] == ["x" * 60, "x" * 59 + "…"]
