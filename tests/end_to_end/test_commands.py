"""Every command on embedded data: what it writes, what it says, and that it can be done again."""

import html
import json
import math
import shlex
from pathlib import Path

import pytest

from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.experiments.stages import TABLE_COLUMNS

from .bench import NET, ONCE, PLAIN, TINY, files, kept, seedbed

CELL = {"mean": float, "ci95": float, "worst_tenth": float, "clients": int}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of fed_proto."""
    out = tmp_path_factory.mktemp("digits") / "run"
    assert seedbed("run", *TINY, "--out", out).code == 0
    return out


@pytest.mark.usefixtures("few_tunings")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("fd", "fedmd") else n for n in CATALOGUE]
)  # these two choose a newcomer's model as well
def test_every_algorithm_runs_end_to_end(name: str, tmp_path: Path) -> None:
    said = seedbed("run", "--algorithm", name, *TINY, "--set", "unseen=3", "--out", tmp_path / "r")
    assert said.code == 0, said
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    cells = result["unseen"]["1"]
    assert cells.keys() == {"unadapted", "adapted"}
    assert all(0 <= cell["mean"] <= 1 and cell["clients"] == 3 for cell in cells.values())
    assert (tmp_path / "r" / "report.html").stat().st_size > 1000


def test_a_run_says_which_executor_it_chose_and_another_can_be_named(tmp_path: Path) -> None:
    """With -v, on standard error; the choice is in the run's directory. One that is named is not measured."""
    words = ("run", "--algorithm", "fedavg", *TINY)
    said = seedbed(*words, "-v", "--out", tmp_path / "measured")
    assert said.code == 0, said
    [(executor, why)] = json.loads((tmp_path / "measured" / "executors.json").read_text()).values()
    assert f"executor {executor}" in said.err
    assert why in said.err
    said = seedbed(*words, "--executor", "factored", "--out", tmp_path / "named")
    assert said.code == 0, said
    assert "executor factored: no dense layer is large enough" in said.err
    assert not (tmp_path / "named" / "executors.json").exists()


def test_result_has_the_documented_structure(tmp_path: Path) -> None:
    """{"unseen": {"<shots>": {column: {"mean", "ci95", "worst_tenth", "clients"}}}}, the columns of all runs."""
    said = seedbed("run", "--rounds", 2, *NET, "--set", "evaluation.episodes=2", "--set", "evaluation.shots=[1,2]",
                   "--out", tmp_path / "r")  # fmt: skip
    assert said.code == 0, said
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert list(result["unseen"]) == ["1", "2"]
    for row in result["unseen"].values():
        assert tuple(row) == TABLE_COLUMNS[:-1] == ("unadapted", "adapted", "fedavg_finetuned", "local")
        for cell in row.values():
            assert {name: type(cell[name]) for name in CELL} == CELL
            assert cell["clients"] == 4
            assert cell["worst_tenth"] <= cell["mean"]
            assert math.isfinite(cell["ci95"])
    for words in ("unadapted", "adapted", "local", "never seen", "worst tenth", "report.html"):
        assert words in said.out
    assert "round" in (tmp_path / "r" / "report.html").read_text()
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert {"settings", "versions", "data", "clients"} <= manifest.keys()
    assert manifest["settings"]["seed"] == 0
    assert len(manifest["data"]["fingerprint"]) == 64
    assert not set(manifest["clients"]["train"]) & set(manifest["clients"]["unseen"])


def test_the_interval_of_one_client_is_null(tmp_path: Path) -> None:
    assert seedbed("run", *TINY, "--set", "unseen=1", "--out", tmp_path / "r").code == 0
    cell = json.loads((tmp_path / "r" / "result.json").read_text())["unseen"]["1"]["adapted"]
    assert (cell["ci95"], cell["clients"]) == (None, 1)


def test_resume_of_a_finished_run_changes_nothing(digits: Path) -> None:
    before = files(digits)
    said = seedbed("resume", digits)
    assert said.code == 0
    assert "never seen" in said.out
    assert files(digits) == before


def test_a_lost_report_is_written_again(digits: Path) -> None:
    before = files(digits)
    (digits / "report.html").unlink()
    assert seedbed("resume", digits).code == 0
    assert files(digits) == before


@pytest.mark.usefixtures("few_tunings")
def test_a_resumed_run_does_not_choose_again(tmp_path: Path) -> None:
    """Another choice in its place, which nobody would make, is taken as the run's own."""
    run = tmp_path / "r"
    assert seedbed("run", "--algorithm", "fedavg", *TINY, "--out", run).code == 0
    [(key, chosen)] = json.loads((run / "choices.json").read_text()).items()
    strange = {**chosen["how"], "layers": "all", "steps": 3, "lr": 0.0123}
    (run / "choices.json").write_text(json.dumps({key: {"score": 1.0, "how": strange}}))
    (run / "result.json").unlink()
    assert seedbed("resume", run).code == 0
    result = json.loads((run / "result.json").read_text())
    assert result["finetuning"]["adapted"]["1"]["text"] == "all layers, 3 steps of lr 0.0123"


@pytest.mark.parametrize("how", ["manifest", "toml", "options"])
def test_the_same_settings_give_the_same_run(digits: Path, tmp_path: Path, how: str) -> None:
    from seedbed.experiments.toml_text import to_toml

    settings = json.loads((digits / "manifest.json").read_text())["settings"]
    (tmp_path / "s.toml").write_text(to_toml(settings))
    words = {"manifest": ["--config", digits / "manifest.json"], "toml": ["--config", tmp_path / "s.toml"]}
    assert seedbed("run", *words.get(how, TINY), "--out", tmp_path / "again").code == 0
    assert kept(tmp_path / "again") == kept(digits)


def test_another_seed_gives_another_run(digits: Path, tmp_path: Path) -> None:
    assert seedbed("run", *TINY, "--seed", 1, "--out", tmp_path / "r").code == 0
    assert kept(tmp_path / "r")["model.safetensors"] != kept(digits)["model.safetensors"]


def test_settings_from_toml_and_options_over_it(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'algorithm = "fedprox"\nrounds = 9\n[model]\nname = "linear"\n'
        "[evaluation]\nepisodes = 2\nshots = 1\nbaselines = false\ncurve = false\n"
        '[options]\nmu = 0.5\nouter = {name = "adam", lr = 0.01}\n'
    )
    said = seedbed("run", "--config", tmp_path / "s.toml", "--rounds", 2, "--set", "mu=0.25", "--out", tmp_path / "r")
    assert said.code == 0, said
    settings = json.loads((tmp_path / "r" / "manifest.json").read_text())["settings"]
    assert (settings["algorithm"], settings["rounds"]) == ("fedprox", 2)
    assert settings["options"] == {"mu": 0.25, "outer": {"name": "adam", "lr": 0.01}}


def test_evaluate_gives_the_run_s_own_table_again(digits: Path) -> None:
    before = files(digits)
    again, first = seedbed("evaluate", digits), seedbed("resume", digits)
    assert again.code == 0, again
    rows = [line for line in again.out.splitlines() if line.startswith("│")]
    assert rows
    assert all(row in first.out for row in rows)
    assert seedbed("evaluate", digits, "--set", "evaluation.shots=[2,3]").code == 0
    assert seedbed("evaluate", digits, "--set", "evaluation.ways=3").code == 0
    assert files(digits) == before


def test_evaluate_keeps_what_training_settled(digits: Path) -> None:
    """Another seed or split would judge the model on clients that it was trained on."""
    for setting in ("seed=1", "unseen=8", "algorithm=fedavg", "model.hidden=9"):
        assert "was settled when" in seedbed("evaluate", digits, "--set", setting).line


@pytest.mark.usefixtures("few_tunings")
def test_compare_two_algorithms_over_two_seeds(tmp_path: Path) -> None:
    words = ("compare", "fed_proto", "per_fedavg", "--seeds", 2, *TINY, "--out", tmp_path / "c")
    said = seedbed(*words)
    assert said.code == 0, said
    assert "4 unseen clients, 2 seeds" in said.out
    assert {p.name for p in (tmp_path / "c").iterdir()} == {
        "fed_proto-0", "fed_proto-1", "per_fedavg-0", "per_fedavg-1", "comparison.json", "comparison.html", "lock",
    }  # fmt: skip
    assert "outer.lr" in said.out
    assert shlex.join(map(str, ("seedbed", *words))) in html.unescape((tmp_path / "c" / "comparison.html").read_text())
    before = files(tmp_path / "c")
    (tmp_path / "c" / "per_fedavg-1" / "result.json").unlink()
    assert seedbed(*words).out == said.out
    assert files(tmp_path / "c") == before
    assert "rounds=3" in seedbed(*words, "--rounds", 4).line
    assert files(tmp_path / "c") == before


def test_algorithms_lists_all_with_their_settings() -> None:
    said = seedbed("algorithms")
    assert said.code == 0
    assert all(name in said.out for name in CATALOGUE)


def test_algorithms_shows_one_whole() -> None:
    said = seedbed("algorithms", "fedrep")
    assert said.code == 0
    for word in ("head_i ← steps", "Collins et al. 2021", "Δ of the body", "head_epochs", "sgd, lr 0.1", "local.lr"):
        assert word in said.out
    assert "did you mean 'fedrep'" in seedbed("algorithms", "fedrepp").line


def test_data_list_and_inspect() -> None:
    listed, inspected = seedbed("data", "list"), seedbed("data", "inspect", "digits")
    assert (listed.code, inspected.code) == (0, 0)
    assert "omniglot" in listed.out
    assert "1797" in inspected.out


def test_help_of_every_command() -> None:
    for words in ([], ["run"], ["resume"], ["compare"], ["evaluate"], ["adapt"], ["algorithms"], ["data", "inspect"]):
        said = seedbed(*words, "--help")
        assert said.code == 0
        assert "--help" in said.out
    assert seedbed().code == 2
    assert seedbed("data").code == 2


def test_what_runs_by_default_is_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert seedbed("run", "--rounds", 1, *NET, *ONCE, *PLAIN).code == 0
    assert (tmp_path / "runs" / "digits-fed_proto-0" / "result.json").exists()


def test_the_client_and_the_target_have_flags_of_their_own(csv: Path) -> None:
    """The same as reader.client and reader.target; a wrong name is refused by the table, before any work."""
    short = seedbed("data", "inspect", csv, "--client", "hospital", "--target", "dose")
    long = seedbed("data", "inspect", csv, "--set", "reader.client=hospital", "--set", "reader.target=dose")
    assert (short.code, short.out) == (0, long.out)
    for command in (("run", "--data", csv), ("compare", "fedavg", "--data", csv), ("data", "inspect", csv)):
        assert "has no column 'hospitol'" in seedbed(*command, "--client", "hospitol").line
        assert "has no column 'dos'" in seedbed(*command, "--client", "hospital", "--target", "dos").line


def test_a_model_of_no_use_ends_with_3(tmp_path: Path, csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is said before the table."""
    monkeypatch.setattr("seedbed.reports.concerns.failures", lambda result: ["It is WORSE than the trivial predictor."])
    words = ("--client", "hospital", "--target", "label", "--out", tmp_path / "r")
    said = seedbed(
        "run", "--data", csv, *words, *PLAIN, "--set", "evaluation.episodes=1", "--set", "evaluation.shots=5"
    )
    assert said.code == 3
    assert said.out.index("WORSE") < said.out.index("never seen in training")
    assert (tmp_path / "r" / "report.html").exists()
