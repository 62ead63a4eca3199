"""The command line: names in data are only text, and a run directory names no program to `seedbed resume`."""

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from seedbed.cli import main
from seedbed.cli.console import PlainConsole
from seedbed.experiments.run_directory import RunDirectory

from .bench import as_json, nested, program

ODD = ["[/b]", "[bold]x", "[link=file:///etc]y[/link]", ":smile:", "\x1b[2J", "a\nb", "[", "{x}"]


def seedbed(*words: object) -> tuple[int, str]:
    said, before = io.StringIO(), sys.argv
    sys.argv = ["seedbed", *map(str, words)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    return int(end.value.code or 0), said.getvalue()


def arrays(path: Path, names: list[str]) -> Path:
    rng = np.random.default_rng(0)
    y = np.array(names)[np.arange(100) % len(names)]
    client = np.repeat([f"c{i}{names[i % len(names)]}" for i in range(5)], 20)
    np.savez(path, x=rng.normal(size=(100, 3)).astype(np.float32), y=y, client=client)
    return path


@pytest.mark.parametrize("name", ODD)
def test_names_that_look_like_markup(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of classes, clients and files."""
    monkeypatch.chdir(tmp_path)
    file = name.replace("/", "")
    data = arrays(tmp_path / f"data {file}.npz", [name, "plain"])
    for words in (("data", "inspect", data), ("data", "pack", data, f"packed {file}")):
        code, said = seedbed(*words)
        assert code == 0, said
        assert "\x1b[2J" not in said
    code, said = seedbed("data", "inspect", f"no such {file}.npz")
    assert code == 2
    assert said.count("\n") == 1, "one line"
    assert "\x1b[2J" not in said


def test_the_console_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    PlainConsole().print("[bold]a[/bold] [/b] :smile:")
    assert capsys.readouterr().out.strip() == "[bold]a[/bold] [/b] :smile:"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a file that is always full")
def test_standard_output_on_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["seedbed", "data", "list"])
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    with contextlib.suppress(OSError):
        full.close()


@pytest.mark.slow
def test_resuming_a_run_that_names_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kinds.json` of a run that keeps on disk."""
    data, mark = arrays(tmp_path / "a.npz", ["x", "y"]), tmp_path / "mark"
    save, left = RunDirectory.save, [2]

    def saving(run: RunDirectory, *words: object) -> None:
        save(run, *words)  # type: ignore[arg-type]
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "save", saving)
    sets = ["client_state=disk", "checkpoint_seconds=0", "model.name=mlp", "model.hidden=4"]
    sets += ["evaluation.baselines=false", "evaluation.episodes=1", "evaluation.shots=1", "evaluation.curve=false"]
    words = [word for one in sets for word in ("--set", one)]
    code, said = seedbed(
        "run", "--data", data, "--algorithm", "scaffold", "--rounds", 4, "--out", tmp_path / "r", *words
    )
    assert code == 130, said
    every = list((tmp_path / "r").rglob("kinds.json"))
    good = [kinds.read_bytes() for kinds in every]
    assert good
    for bad in (as_json([[program(mark), [[[1], "float32"]]]]), nested(), as_json([["leaf", [[[1], "load"]]]])):
        for kinds in every:
            kinds.write_bytes(bad)
        code, said = seedbed("resume", tmp_path / "r")
        assert (code, "kinds.json" in said, "Traceback" in said, mark.exists()) == (2, True, False, False), said
    for kinds, data in zip(every, good, strict=True):
        kinds.write_bytes(data)
    code, said = seedbed("resume", tmp_path / "r")
    assert code == 0, said
