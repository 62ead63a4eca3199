"""Settings in layers: TOML, options, assignments."""

import json
from pathlib import Path

import pytest

from seedbed.data.readers import read
from seedbed.errors import InputError
from seedbed.experiments.config import known_keys, read_toml, settings_from, table_from
from seedbed.experiments.presets import complete_settings


def test_later_layers_go_over_earlier_and_assignments_over_all() -> None:
    table = table_from(
        {"rounds": 1, "task": {"ways": 3, "queries": 2}},
        {"rounds": 2, "task": {"ways": 4}},
        assignments=["rounds=3", "task.batch_size=none"],
    )
    assert table == {"rounds": 3, "task": {"ways": 4, "queries": 2, "batch_size": None}}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("rounds=7", {"rounds": 7}),
        (" rounds = 7 ", {"rounds": 7}),
        ("unseen=0.5", {"unseen": 0.5}),
        ("task.rotations=True", {"task": {"rotations": True}}),
        ("root=None", {"root": None}),
        ("data=my file.csv", {"data": "my file.csv"}),
        ("data=a=b.csv", {"data": "a=b.csv"}),
        ("evaluation.shots=[1, 5]", {"evaluation": {"shots": [1, 5]}}),
        ("mu=0.1", {"options": {"mu": 0.1}}),
        ("outer.schedule.end=0.1", {"options": {"outer": {"schedule": {"end": 0.1}}}}),
        ("schedule.name=gossip", {"schedule": {"name": "gossip"}}),
        ("schedule=cosine", {"options": {"schedule": "cosine"}}),
        ("schedule.end=0.1", {"options": {"schedule": {"end": 0.1}}}),
        ("options.mu=0.1", {"options": {"mu": 0.1}}),
        ("reader.ignore=['a', 'b']", {"reader": {"ignore": ["a", "b"]}}),
    ],
)
def test_assignments(word: str, value: object) -> None:
    assert table_from(assignments=[word]) == value


def test_one_number_is_several() -> None:
    settings = settings_from({"task": {"shots": 3}, "evaluation": {"shots": 5}, "model": {"hidden": 8}})
    assert settings.task.shots == (3, 3)
    assert settings.evaluation.shots == (5,)
    assert settings.model.hidden == (8,)


def test_settings_survive_json() -> None:
    settings = settings_from({"task": {"size": None}, "unseen": 3, "options": {"outer": {"lr": 0.1}}})
    again = settings_from(json.loads(settings.model_dump_json()))
    assert again == settings
    assert isinstance(again.unseen, int)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"ronds": 1}, ["'ronds'", "did you mean 'rounds'", "[options]"]),
        ({"task": {"way": 1}}, ["'task.way'", "did you mean 'task.ways'"]),
        ({"rounds": "many"}, ["rounds='many'"]),
        ({"rounds": 0}, ["rounds=0"]),
        ({"task": {"support": 1.5}}, ["task.support=1.5", "fraction"]),
        ({"task": {"support": -1}}, ["task.support=-1", "fraction"]),
        ({"task": {"shots": [1, 2, 3]}}, ["task.shots"]),
        ({"evaluation": {"shots": []}}, ["evaluation.shots=[]"]),
        ({"evaluation": {"shots": [1, 0]}}, ["evaluation.shots"]),
        ({"model": {"hidden": [-1]}}, ["model.hidden"]),
    ],
)
def test_refusals(table: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        settings_from(table)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('data = "digits"\n[options]\nouter.lr = 0.003\n')
    assert read_toml(tmp_path / "s.toml") == {"data": "digits", "options": {"outer": {"lr": 0.003}}}
    (tmp_path / "manifest.json").write_text('{"settings": {"rounds": 3, "task": {"size": null}}}')
    assert read_toml(tmp_path / "manifest.json") == {"rounds": 3, "task": {"size": None}}
    for name, text in {"bad.toml": "a = ", "bad.json": "{", "other.json": "[]", "none.json": "{}"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=name):
            read_toml(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read_toml(tmp_path / "absent.toml")


def test_known_keys_are_dotted() -> None:
    assert {"rounds", "task.ways", "evaluation.shots", "model.name", "options"} <= set(known_keys())


def test_complete_leaves_nothing_open_and_what_is_given_wins() -> None:
    digits = read("digits")
    settings = complete_settings({"data": "digits"}, digits)
    assert settings.algorithm == "fed_proto"
    assert settings.rounds is not None
    assert settings.cohort is not None
    given = complete_settings({"data": "digits", "rounds": 7, "options": {"outer": {"lr": 0.5}}}, digits)
    assert given.rounds == 7
    assert given.options["outer"]["lr"] == 0.5
