"""Names of settings: old ones are read, unknown ones get a short hint."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seedbed.cli.commands import app
from seedbed.errors import LONGEST_HINT, MOST_NAMES, InputError, closest_name, near_names
from seedbed.experiments.config import Settings, known_keys, read_toml, settings_from, table_from
from seedbed.experiments.identity import differences, identity
from seedbed.experiments.setting_hints import setting_hint
from seedbed.experiments.setting_names import (
    ALIASES,
    RENAMED,
    flat_with_new_names,
    with_new_names,
    with_old_names,
)

GOLDEN = Path(__file__).parent / "golden" / "before_digests" / "manifest.json"
OLD: dict[str, Any] = {
    "kept": "disk",
    "rival": {"local": {"lr": 0.3}},
    "root": "/d",
    "task": {"size": 7, "count": 2},
    "evaluation": {"rival_episodes": 3},
    "attack": {"name": "alie", "part": 3},
    "stragglers": {"part": 0.25},
}


def test_old_names_are_read_for_one_version() -> None:
    settings = settings_from(OLD)
    assert (settings.client_state, settings.data_dir, settings.baseline) == ("disk", "/d", {"local": {"lr": 0.3}})
    assert (settings.task.batch_size, settings.task.episodes) == (7, 2)
    assert (settings.attack.fraction, settings.stragglers.fraction) == (3, 0.25)
    assert settings.evaluation.baseline_episodes == 3
    assert set(RENAMED) == {*OLD} - {"task", "evaluation", "attack", "stragglers"} | {
        f"{section}.{key}" for section in ("task", "evaluation", "stragglers") for key in OLD[section]
    } | {"attack.part"}


def test_old_words_of_set_are_read_too() -> None:
    words = ["kept=disk", "rival.local.lr=0.3", "root=/d", "task.size=7", "task.count=2", "attack.part=3",
             "evaluation.rival_episodes=3", "stragglers.part=0.25", "attack.name=alie"]  # fmt: skip
    assert settings_from(table_from(assignments=words)) == settings_from(OLD)


def test_later_layers_go_over_earlier_whatever_their_names() -> None:
    assert settings_from({"task": {"batch_size": 3}}, {"task": {"size": 7}}).task.batch_size == 7
    assert settings_from({"task": {"size": 3}}, {"task": {"batch_size": 7}}).task.batch_size == 7


def test_names_go_there_and_back() -> None:
    assert with_old_names(with_new_names(OLD)) == OLD
    assert all(name in known_keys() for name in RENAMED.values())
    assert not set(RENAMED) & set(known_keys())


def test_a_manifest_of_an_older_version_is_the_same_run() -> None:
    """Its settings, and what its journal says of them, differ from today's in names only."""
    manifest = json.loads(GOLDEN.read_text())
    assert {"kept", "rival", "root"} & manifest["settings"].keys()
    settings = settings_from(read_toml(GOLDEN))
    today = {**manifest, "settings": settings.model_dump(mode="json")}
    flat = {f"settings.{key}": value for key, value in (("kept", "memory"), ("rival.local.lr", 0.05), ("seed", 0))}
    assert identity(manifest).keys() <= identity(today).keys()
    assert differences(identity(manifest), identity(today)) == []
    assert flat_with_new_names(flat).keys() == {
        "settings.client_state", "settings.baseline.local.lr", "settings.seed"}  # fmt: skip


def test_the_command_line_says_what_is_new() -> None:
    said = CliRunner().invoke(app, ["data", "inspect", "digits", "--set", "task.size=5"])
    assert said.exit_code == 0
    assert "task.size is now task.batch_size" in said.stderr


# ---- hints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("batch_size", "task.batch_size"),
        ("clients_per_round", "cohort"),
        ("episodes", "evaluation.episodes"),
        ("epoch", "task.epochs"),
        ("norm_cap", "gate.norm_cap"),
        ("evaluation.shot", "evaluation.shots"),
        ("num_rounds", "rounds"),
    ],
)
def test_a_run_s_setting_is_found_by_the_word_that_people_use(word: str, meant: str) -> None:
    assert f"'{meant}'" in closest_name(word, known_keys(), ALIASES)


@pytest.mark.parametrize(
    "word", [*ALIASES, "x", "lr", "zzz", "name", "a.b.c", "epochs", "momentum", "steps", "f" * 300]
)
def test_a_hint_is_short(word: str) -> None:
    names = [*known_keys(), *(f"{'long' * 20}.{i}.lr" for i in range(9))]
    hint = closest_name(word, names, ALIASES)
    assert len(hint) <= LONGEST_HINT
    assert hint.count("'") // 2 <= MOST_NAMES
    assert len(setting_hint(word, names, "fedavg")) <= LONGEST_HINT


def test_aliases_mean_settings_that_exist() -> None:
    from seedbed.experiments.setting_hints import owners_of

    for names in ALIASES.values():
        for name in names:
            assert name in known_keys() or name.startswith("reader.") or owners_of(name), name


def test_near_names_are_the_nearest_first() -> None:
    assert near_names("fedavgg", ["fedavg", "fedavgm", "fedprox"])[0] == "fedavg"
    assert near_names("lr", ["a.lr", "b.lr", "rounds"]) == ["a.lr", "b.lr"]
    assert near_names("zzz", ["a", "b"]) == []


@pytest.mark.parametrize(
    ("algorithm", "setting", "words"),
    [
        ("fedavg", "mu=0.1", ["fednova, fedprox have it, fedavg has not"]),
        ("fedavg", "learning_rate=0.1", ["'local.lr' or 'outer.lr'"]),
        ("fedavg", "lr=0.1", ["have it, fedavg has not", "'local.lr'"]),
        ("fedavg", "batch_size=5", ["'task.batch_size'"]),
    ],
)
def test_the_command_line_hints(algorithm: str, setting: str, words: list[str], tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["run", "--algorithm", algorithm, "--set", setting, "--out", str(tmp_path / "r")])
    assert isinstance(ended.exception, InputError)
    assert all(word in str(ended.exception) for word in words), str(ended.exception)


@pytest.mark.parametrize(
    ("algorithm", "key"), [("fedavg", ("local", "lr")), ("fedsgd", ("outer", "lr")), ("per_fedavg", None)]
)
def test_lr_is_the_algorithm_s_own(algorithm: str, key: tuple[str, str] | None) -> None:
    from seedbed.experiments.launch import plan_run

    made = plan_run({"algorithm": algorithm, "lr": 0.125, "cohort": 3}, ["executor=loop"], None)
    options: Any = made.settings.options
    assert (options[key[0]][key[1]] if key else 0.125 in _leaves(options)) in (0.125, True)
    assert made.settings.cohort == 3


def _leaves(table: Any) -> list[Any]:
    return [x for value in table.values() for x in (_leaves(value) if isinstance(value, dict) else [value])]


def test_settings_have_no_old_names() -> None:
    assert not RENAMED.keys() & Settings.model_fields.keys()


def test_noise_is_derived_under_the_names_and_settings_of_older_versions() -> None:
    """Else a private run that an older version began could not be resumed: its ledger holds these terms."""
    from seedbed.experiments.privacy_plan import noise_terms

    then = json.loads(GOLDEN.read_text())["settings"]
    terms = noise_terms(settings_from(then), "f")
    flat = {key.removeprefix("settings."): value for key, value in identity({"settings": with_old_names(then)}).items()}
    names = {key for key in terms if not key.startswith("version of ")} - {"data"}
    assert {"kept", "rival.local.lr", "task.size", "task.count", "attack.part", "stragglers.part"} <= names
    assert not {key for key in names if key.split(".")[0] in ("own", "weights", "cohort_by", "loss", "metric")}
    assert len(names) >= len(flat)
    changed = noise_terms(settings_from(then, {"weights": "uniform"}), "f")
    assert changed["weights"] == "uniform"
