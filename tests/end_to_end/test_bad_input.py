"""Bad input: one line on standard error that names the thing and the way out, exit code 2, nothing lost or written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .bench import NET, ONCE, PLAIN, TINY, Said, files, kept, seedbed, table

pytest.importorskip("pandas")
Stop = Callable[[int], None]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(words: list[str], *command: object) -> str:
    """The command's line of refusal, which holds these words; no file is made or changed."""
    before = files(Path())
    line = seedbed(*command).line
    assert all(word in line for word in words), line
    assert files(Path()) == before
    return line


def refused_run(words: list[str], *options: object) -> None:
    refused(words, "run", *TINY, *options, "--out", "out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("evaluation.epsodes=2", ["'evaluation.epsodes'", "did you mean 'evaluation.episodes'"]),
        ("evaluatoin.shots=2", ["'evaluatoin.shots'", "did you mean 'evaluation.shots'"]),
        ("device=quantum", ["device='quantum'", "leave it out"]),
        ("device=meta", ["device='meta'", "leave it out"]),
        ("rond=2", ["'rond'", "did you mean 'rounds'"]),
        ("muu=2", ["'muu'", "did you mean 'mu'"]),
        ("outer.lrr=2", ["'outer.lrr'", "did you mean 'outer.lr'"]),
        ("loss=2", ["setting loss=2"]),
        ("outer=2", ["outer=2", "sgd, adam"]),
        ("outer=adm", ["outer='adm'", "did you mean 'adam'"]),
        ("outer.schedule=cosin", ["outer.schedule='cosin'", "did you mean 'cosine'"]),
        ("outer.schedule=3", ["outer.schedule=3", "constant, linear, cosine"]),
        ("outer.lr=abc", ["outer.lr='abc'", "number"]),
        ("outer.lr=-1", ["outer.lr=-1", "from 0 up"]),
        ("mu=nan", ["mu=nan", "from 0 up"]),
        ("rounds=2.5", ["rounds=2.5", "integer"]),
        ("rounds=-3", ["rounds=-3", "greater than or equal to 1"]),
        ("rounds=", ["rounds=''", "integer"]),
        ("rounds", ["'rounds'", "key=value"]),
        ("", ["''", "key=value"]),
        ("=3", ["unknown setting ''"]),
        ("seed=x", ["seed='x'", "integer"]),
        ("cohort=0", ["cohort=0", "greater than or equal to 1"]),
        ("task=3", ["task=3", "dictionary"]),
        ("task.support=0", ["task.support=0", "fraction"]),
        ("task.support=2.5", ["task.support=2.5", "fraction"]),
        ("unseen=0", ["unseen=0", "at least one"]),
        ("unseen=14", ["unseen=14 of 14"]),
        ("hold_out=1", ["hold_out=1", "less than 1"]),
        ("evaluation.shots=0", ["evaluation.shots", "greater than or equal to 1"]),
        ("evaluation.shots=[]", ["evaluation.shots=[]", "at least 1"]),
        ("evaluation.shots=50", ["writer", "51 examples", "lower ways or shots"]),
        ("evaluation.ways=11", ["writer", "needs 11", "lower ways or shots"]),
        ("model.name=convv", ["unknown model 'convv'", "'conv'"]),
        ("model.hidden=0", ["model.hidden", "greater than or equal to 1"]),
        ("engine=fast", ["'fast'", "auto, one_by_one, vectorised"]),
        ("executor=fuse", ["'fuse'", "did you mean 'fused'"]),
        ("data=digit", ["'digit'", "did you mean 'digits'"]),
        ("data=", ["no name"]),
        ("data=nothere.csv", ["nothere.csv", "looked in"]),
        ("data=.", ["none of the layouts", "client/class/*.png"]),
        ("reader.client=x", ["digits", "'client'"]),
    ],
)
def test_settings(setting: str, words: list[str]) -> None:
    refused_run(words, "--algorithm", "fedprox", "--set", setting)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["run", "--algorithm", "fedavgg"], ["'fedavgg'", "did you mean 'fedavg'"]),
        (["run", "--algorithm", ""], ["unknown algorithm ''"]),
        (["run", "--algoritm", "fedavg"], ["--algoritm", "--algorithm", "seedbed run --help"]),
        (["run", "--rounds", "two"], ["--rounds", "integer"]),
        (["run", "--seed", "-1"], ["--seed"]),
        (["run", "--config", "nothere.toml"], ["nothere.toml", "No such file"]),
        (["run", "--config", "."], ["Is a directory"]),
        (["run", "--algorithm", "fed_proto", "--set", "model.name=linear"], ["all head", "hidden layer"]),
        (["runn"], ["'runn'", "'run'"]),
        (["resume"], ["issing argument", "seedbed resume --help"]),
        (["resume", "nothere"], ["nothere holds no run", "--out"]),
        (["evaluate", "."], [". holds no run"]),
        (["adapt", "nothere", "--support", "a", "--out", "b"], ["nothere holds no run"]),
        (["compare"], ["issing argument", "seedbed compare --help"]),
        (["compare", "fedavg", "fedavgg"], ["'fedavgg'", "did you mean 'fedavg'"]),
        (["data", "inspect", "omniglott"], ["'omniglott'", "did you mean 'omniglot'"]),
        (["data", "get", "nothing"], ["'nothing'"]),
        (["run", "--data", "omniglot", "--root", "nowhere"], ["omniglot is not at hand", "--root DIR"]),
    ],
)
def test_words_of_a_command(command: list[str], words: list[str]) -> None:
    refused(words, *command)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds = ", ["s.toml", "TOML"]),
        ("roundz = 3", ["'roundz'", "did you mean 'rounds'"]),
        ("mu = 3", ["'mu'", "[options]"]),
        ("[task]\nwayz = 3", ["'task.wayz'", "did you mean 'task.ways'"]),
        ("task = 3", ["task=3"]),
        ("\xff", ["s.toml", "TOML"]),
    ],
)
def test_files_of_settings(text: str, words: list[str]) -> None:
    Path("s.toml").write_text(text, encoding="latin-1")
    refused_run(words, "--config", "s.toml")


# ---- data ------------------------------------------------------------------------------------------------------------

MIXED = table() + "a,old,2,ill\n"
INFINITE = table() + "a,inf,2,ill\n"
TINY_CLIENT = table() + "tiny,1,2,ill\n"
ONE_CLASS = "client,x,y\n" + "".join(f"{c},{i},same\n" for c in "abc" for i in range(12))


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (MIXED, [], ["'age'", "'old'", "line 122 of t.csv", "text=age"]),
        (INFINITE, [], ["'age'", "infinite", "line 122 of t.csv"]),
        (table(), ["reader.target=labl"], ["'labl'", "did you mean 'label'"]),
        (table(), ["reader.clint=hospital"], ["'clint'", "did you mean 'client'"]),
        (table(), ["reader.task=regression"], ["'label'", "line 2"]),
        (TINY_CLIENT, [], ["'tiny'", "1 examples", "drop_short=true"]),
        (table(), ["evaluation.shots=50"], ["24 examples", "51 needed", "fewer shots"]),
        (table("a"), [], ["one client, 'a'", "reader.partition=dirichlet"]),
        (ONE_CLASS, [], ["'same'", "nothing to learn"]),
        (table() + "mono,1,2,ill\n" * 24, ["reader.episodic=true", "task.ways=2", "evaluation.ways=2"],
         ["'mono'", "1 classes", "drop_short=true"]),
        ("", [], ["t.csv cannot be read as a table"]),
        (table().replace("label", "lable"), [], ["target", "did you mean 'lable'"]),
        (table(numbers=True), ["algorithm=fed_proto"], ["a target that is a number", "per_fedavg"]),
    ],
)  # fmt: skip
def test_tables(text: str, options: list[str], words: list[str]) -> None:
    Path("t.csv").write_text(text)
    refused_run(words, "--data", "t.csv", *(part for option in options for part in ("--set", option)))


def test_a_refusal_before_any_bar_is_the_only_line() -> None:
    """Of a run that its mechanism refuses, whose progress had begun: no empty line before it."""
    said = seedbed("run", "--algorithm", "fedavg", *TINY, "--secure", "--epsilon", "1", "--out", "run")
    assert said.code == 2
    assert said.err == said.line + "\n"


def test_arrays_with_nan_and_of_tokens() -> None:
    y, client = np.arange(40) % 2, np.repeat(list("abcd"), 10)
    x = np.zeros((40, 3), np.float32)
    np.savez("tokens.npz", x=x.astype(int), y=y, client=client)
    refused_run(["tokens", "floats"], "--data", "tokens.npz")
    x[7, 1] = np.nan
    np.savez("nan.npz", x=x, y=y, client=client)
    refused_run(["row 7", "'a'", "not finite"], "--data", "nan.npz")


def test_a_client_with_no_data() -> None:
    users = {name: {"x": [[float(i), 1.0] for i in range(n)], "y": [i % 2 for i in range(n)]}
             for name, n in (("ann", 12), ("bob", 0), ("cid", 12), ("dot", 12))}  # fmt: skip
    leaf = {"users": list(users), "num_samples": [len(u["y"]) for u in users.values()], "user_data": users}
    Path("l.json").write_text(json.dumps(leaf))
    refused_run(["'bob'", "no samples", "drop_short=true"], "--data", "l.json")


@pytest.mark.parametrize("seed", [0, 1])
def test_drop_short_goes_on_and_says_so(seed: int, stopping: Stop) -> None:
    """The short client is a training client for one seed, an unseen one for the other; a resumed run leaves it too."""
    Path("t.csv").write_text(TINY_CLIENT)
    words = ("run", "--data", "t.csv", *TINY, "--set", "drop_short=true", "--seed", seed, "--out")
    said = seedbed(*words, "r")
    assert said.code == 0, said
    manifest = json.loads(Path("r/manifest.json").read_text())
    for place in (said.err, " ".join(manifest["data"]["notes"])):
        assert "left out: client 'tiny' has 1 examples" in place
    assert "tiny" not in manifest["clients"]["train"] + manifest["clients"]["unseen"]
    stopping(1)
    assert seedbed(*words, "s").code == 130
    assert seedbed("resume", "s").code == 0
    assert kept(Path("s")) == kept(Path("r"))


# ---- places ----------------------------------------------------------------------------------------------------------


def test_where_something_is_already() -> None:
    run = ("run", *TINY, "--algorithm", "per_fedavg", "--out")
    assert seedbed(*run, "r").code == 0
    refused(["r exists", "another --out", "`seedbed resume r`"], *run, "r")
    refused(["r/manifest.json exists", "another --out"], *run, "r/manifest.json")
    refused(["Not a directory"], *run, "r/manifest.json/x")
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("years of work")
    refused(["full exists", "another --out"], *run, "full")
    refused(["exists"], *run, ".")
    Path("empty").mkdir()
    assert seedbed(*run, "empty").code == 0


def test_adapt_neither_overwrites_nor_leaves_half(csv: Path) -> None:
    assert seedbed("run", "--data", csv, *TINY, "--out", "r").code == 0
    words = ("adapt", "r", "--support", csv)
    Path("mine").write_text("precious")
    refused(["mine exists", "another --out"], *words, "--client", "a", "--out", "mine")
    refused(["5 clients"], *words, "--out", "m")
    refused(["'z'", "choose from a, b"], *words, "--client", "z", "--out", "m")
    refused(["no file nothere.csv"], *words, "--client", "a", "--query", "nothere.csv", "--out", "m")
    refused(["no file nothere.csv"], "adapt", "r", "--support", "nothere.csv", "--out", "m")
    refused(["cannot write", "No such file"], *words, "--client", "a", "--out", "nodir/m")
    refused(["--steps"], *words, "--client", "a", "--steps", -1, "--out", "m")
    Path("s.csv").write_text("age,dose,label\n50,1,sick\n")
    refused(["'sick'", "choose from ill, well"], "adapt", "r", "--support", "s.csv", "--out", "m")
    Path("s.csv").write_text("agee,dose,label\n50,1,ill\n")
    refused(["'age'", "did you mean 'agee'"], "adapt", "r", "--support", "s.csv", "--out", "m")
    model = Path("r/model.safetensors")
    data, before = model.read_bytes(), kept(Path("r"))
    for bad in (data[:-5], data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], b""):
        model.write_bytes(bad)
        refused(["model.safetensors", "not those written", "seedbed resume r"], *words, "--client", "a", "--out", "m")
        refused(["model.safetensors", "not those written"], "evaluate", "r")
    Path("r/result.json").unlink()
    assert seedbed("resume", "r").code == 0
    assert kept(Path("r")) == before


def test_what_is_not_finished_is_not_judged(stopping: Stop) -> None:
    stopping(2)
    assert seedbed("run", *TINY, "--out", "r").code == 130
    refused(["not finished", "`seedbed resume r`"], "evaluate", "r")
    refused(["not finished", "`seedbed resume r`"], "adapt", "r", "--support", "x", "--out", "m")


# ---- faults on the way -----------------------------------------------------------------------------------------------


def stopped_run(stopping: Stop, *words: object, rounds: int = 2) -> Path:
    stopping(rounds)
    said = seedbed("run", *TINY, "--rounds", 4, *words, "--out", "r")
    assert said == Said(130, "", said.err)
    assert said.err.strip().endswith("seedbed: stopped; `seedbed resume r` goes on from the last checkpoint")
    return Path("r")


def test_ctrl_c_says_how_to_go_on_and_the_end_is_the_same(stopping: Stop) -> None:
    run = stopped_run(stopping)
    assert seedbed("resume", run).code == 0
    assert seedbed("run", *TINY, "--rounds", 4, "--out", "whole").code == 0
    assert kept(run) == kept(Path("whole"))


@pytest.mark.usefixtures("few_tunings")
def test_stopped_again_and_again_with_a_probe(stopping: Stop) -> None:
    """Checkpoints of the stage fedavg are not those of fedavg-probe: each survives what the other throws away."""
    words = ("run", "--algorithm", "fedavg", "--rounds", 9, *NET, *ONCE, *PLAIN, "--set", "checkpoint_seconds=0")
    stopping(2)
    assert seedbed(*words, "--out", "r").code == 130
    stops = 1
    for _ in range(10):
        stopping(3)
        said = seedbed("resume", "r")
        stops += said.code == 130
        if said.code == 0:
            break
        assert said.code == 130, said
    stopping(0)
    assert stops == 4  # 2 rounds of the probe and 9 of fedavg; after 2, 5, 8 and 11 of these 11
    assert seedbed(*words, "--out", "whole").code == 0
    assert kept(Path("r")) == kept(Path("whole"))
    left = {p.name for p in Path("r/checkpoints").iterdir()}
    assert left == {f"fedavg-probe-00000{n}.safetensors" for n in (1, 2)} | {
        f"fedavg-00000{n}.safetensors" for n in (8, 9)
    }


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "gone"])
def test_a_damaged_checkpoint_is_refused_and_the_way_out_works(stopping: Stop, harm: str) -> None:
    run = stopped_run(stopping, rounds=3)
    file = run / "checkpoints" / "fed_proto-000003.safetensors"
    data = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        flipped = data[:200] + bytes([data[200] ^ 1]) + data[201:]
        file.write_bytes({"cut": data[:-7], "empty": b"", "flip": flipped}[harm])
    refused(["fed_proto-000003.safetensors", "round 3", "remove line 4", "round 2"], "resume", "r")
    journal = run / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))
    assert seedbed("resume", "r").code == 0
    assert seedbed("run", *TINY, "--rounds", 4, "--out", "whole").code == 0
    assert kept(run) == kept(Path("whole"))


def test_data_changed_between_start_and_resume(csv: Path, stopping: Stop) -> None:
    text = csv.read_text()
    run = stopped_run(stopping, "--data", csv)
    csv.write_text(text.replace("a,", "b,", 1))
    refused(["no longer the data", "put it back"], "resume", run)
    csv.unlink()
    refused(["no file or folder"], "resume", run)
    csv.write_text(text)
    assert seedbed("resume", run).code == 0
    csv.write_text(text.replace("a,", "b,", 1))
    refused(["no longer the data"], "evaluate", run)


def test_a_manifest_that_is_not_json() -> None:
    Path("r").mkdir()
    Path("r/manifest.json").write_text('{"settings": ')
    refused(["r/manifest.json is not JSON"], "resume", "r")


def test_a_learning_rate_that_blows_up() -> None:
    said = seedbed("run", *TINY, "--rounds", 9, "--set", "outer=sgd", "--set", "outer.lr=1e30", "--out", "r")
    assert "round 2: the model is no longer finite" in said.line
    assert "lower learning rates (local.lr, outer.lr)" in said.line
    assert [p.name for p in Path("r/checkpoints").iterdir()] == ["fed_proto-000001.safetensors"]
    assert not Path("r/result.json").exists()
    refused(["round 2: the model is no longer finite"], "resume", "r")
