"""Nothing runs because data name it: every place that rebuilds a structure is given hostile ones.

Each ends in one line (`InputError`), and no program, function or constructor that the structure names was called.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from seedbed import serialization, tree
from seedbed.data.population import Population
from seedbed.deployment import wire
from seedbed.deployment.agreement import AGREEMENT_FILE, Agreement
from seedbed.deployment.peers.address_book import AddressBook
from seedbed.engines.client_state_store import KINDS_FILE, ClientStateStore
from seedbed.engines.handing import SharedMemory, SharedPiece
from seedbed.errors import InputError
from seedbed.experiments.adapt import load_personal
from seedbed.experiments.config import read_toml
from seedbed.experiments.multi_rank import copy_files
from seedbed.federated import Message, ServerState
from seedbed.limits import from_json, inside

from . import bench
from .bench import altered, as_json, deep, nested, packed, program, structures

HOSTILE = [name for name, _ in structures(Path("mark"))]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that a program which ran would have made; at the end it is not there."""
    bench.ran.clear()
    yield tmp_path / "mark"
    time.sleep(0.05)
    assert not (tmp_path / "mark").exists(), "the program ran"
    assert not bench.ran, "a constructor ran"


def refused(what: Callable[[], object]) -> str:
    """The line in which it is refused."""
    with pytest.raises(InputError) as why:
        what()
    assert "\n" not in str(why.value)
    return str(why.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_structures_that_are_none(name: str, mark: Path) -> None:
    """Between ranks, from a file, and in memory that another process wrote."""
    structure = dict(structures(mark))[name]
    refused(lambda: serialization.unpack_tree(packed(structure)))
    refused(lambda: serialization.meta_tree_of([structure, [[[1], "float32"]]]))
    with SharedMemory() as memory:
        head = as_json([{}, [structure, [[[1], "float32"]]], [None]])
        data = len(head).to_bytes(8, "little") + head
        os.pwrite(memory.file, data.ljust(8192, b"\0"), 0)
        refused(lambda: memory.read(SharedPiece(0, 8192)))


@pytest.mark.parametrize("name", HOSTILE)
def test_what_clients_keep_on_disk(name: str, mark: Path, tmp_path: Path) -> None:
    """`kinds.json` of a run that keeps on disk, which `seedbed resume` reads."""
    index = _kept(tmp_path / "kept")
    (tmp_path / "kept" / KINDS_FILE).write_bytes(as_json([[dict(structures(mark))[name], [[[1], "float32"]]]]))
    assert KINDS_FILE in refused(lambda: ClientStateStore(tmp_path / "kept").restore(index))


@pytest.mark.parametrize(
    "outline",
    [
        [["leaf", "0"], [[[-1], "float32"]]],
        [["leaf", "0"], [[[1.5], "float32"]]],
        [["leaf", "0"], [[[2**40, 2**40], "float32"]]],
        [["leaf", "0"], [[[1], "load"]]],
        [["leaf", "0"], [[[1], "Tensor"]]],
        [["leaf", "0"], [[[1], ["float32"]]]],
        [["leaf", "0"], [[1, "float32"]]],
        [["leaf", "0"]],
        "ab",
        None,
        {},
    ],
)
def test_outlines_that_are_none(outline: Any, tmp_path: Path) -> None:
    """Types are a closed list, and not whatever PyTorch has under a name."""
    refused(lambda: serialization.meta_tree_of(outline))
    index = _kept(tmp_path / "kept")
    (tmp_path / "kept" / KINDS_FILE).write_bytes(as_json([outline]))
    refused(lambda: ClientStateStore(tmp_path / "kept").restore(index))


@pytest.mark.parametrize("entry", [[9, 1, 0], [-1, 1, 0], [0, 0, 0], [0, -5, 0], [0, 2**40, 0], [0, 2**62, 0]], ids=str)
def test_an_index_that_points_elsewhere(entry: list[int], tmp_path: Path) -> None:
    _kept(tmp_path / "kept")
    index = {"clients": torch.tensor([0]), "entries": torch.tensor([entry])}
    refused(lambda: ClientStateStore(tmp_path / "kept").restore(index))
    large = {"clients": torch.tensor([2**50]), "entries": torch.tensor([[0, 1, 0]])}
    refused(lambda: ClientStateStore(tmp_path / "kept").restore(large))


@pytest.mark.parametrize("depth", [300, 600, 1000, 100_000])
def test_deep_structures(depth: int, tmp_path: Path) -> None:
    sound_or_refused(lambda: serialization.unpack_tree(packed(deep(depth))))
    index = _kept(tmp_path / "kept")
    (tmp_path / "kept" / KINDS_FILE).write_bytes(b"[[" + deep(depth) + b',[[[1],"float32"]]]]')
    sound_or_refused(lambda: ClientStateStore(tmp_path / "kept").restore(index))


def _kept(folder: Path) -> dict[str, Tensor]:
    held = ClientStateStore(folder)
    held[0] = {"a": torch.ones(1)}
    return held.checkpoint()


class Own(NamedTuple):
    """A structure of somebody's own algorithm."""

    mean: Tensor
    parts: tuple[Tensor, dict[str, Tensor]]


def test_own_structures_come_back(tmp_path: Path) -> None:
    """An algorithm's own NamedTuples work over ranks, between processes and on disk, as the library's do."""
    whole = {"own": Own(torch.ones(2), (torch.zeros(1), {"a": torch.ones(3)})), "state": ServerState(torch.ones(1), ())}
    message = Message(whole, torch.ones(()), {"loss": torch.ones(())})
    held = ClientStateStore(tmp_path / "kept")
    held[3] = whole
    again = ClientStateStore(tmp_path / "kept")
    again.restore(held.checkpoint())
    with SharedMemory() as memory:
        handed = memory.read(memory.write({}, message))[1]
    for found, wanted in (
        (serialization.unpack_tree(serialization.pack_tree(message)), message),
        (again[3], whole),
        (handed, message),
    ):
        assert tree.structure_of(found) == tree.structure_of(wanted)
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(found), tree.leaves(wanted), strict=True))


def test_a_class_that_was_defined_again_is_the_last_one() -> None:
    """As a notebook does."""
    made = [NamedTuple("Twice", [("x", Tensor)]) for _ in range(2)]
    assert type(serialization.unpack_tree(serialization.pack_tree(made[1](torch.ones(1))))) is made[1]


# ---- names of files -------------------------------------------------------------------------------------------------

OUTSIDE = ["../x", "a/../../x", "/tmp/x", "..", ".", "", "a//b", "a/./b", "a\0b", "a\\..\\b", "a\nb", "./a"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_of_their_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    assert "not a file name inside" in refused(lambda: inside(folder, name))
    files = {"good": torch.zeros(1, dtype=torch.uint8), name: torch.zeros(1, dtype=torch.uint8)}
    refused(lambda: copy_files(serialization.unpack_tree(serialization.pack_tree(files)), folder))
    assert list(folder.iterdir()) == [], "nothing is written where one name is wrong"
    assert not (tmp_path / "x").exists()


def test_links_that_lead_out_of_their_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link").symlink_to(tmp_path)
    assert "through a link" in refused(lambda: inside(tmp_path / "inner", "link/x"))


def test_files_that_are_none(tmp_path: Path) -> None:
    for whole in ([torch.ones(1)], {"a": torch.ones(1)}, {"a": {"b": torch.ones(1)}}, {7: torch.zeros(1).byte()}):
        refused(lambda whole=whole: copy_files(whole, tmp_path))
    assert list(tmp_path.iterdir()) == []


# ---- tables ---------------------------------------------------------------------------------------------------------


def sound_or_refused(read: Callable[[], object]) -> None:
    """A table of which one value was replaced is taken, or refused in a line: nothing else is raised."""
    with suppress(InputError):
        read()


@pytest.fixture(scope="module")
def agreement(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agreement")
    rng = np.random.default_rng(0)
    np.savez(folder / "like.npz", x=rng.normal(size=(30, 3)).astype(np.float32), y=np.arange(30) % 2)
    given = {"rounds": 2, "algorithm": "fedavg", "model": {"name": "mlp", "hidden": [4]}}
    Agreement.make("heart", ["basel", "bern"], str(folder / "like.npz"), given).write(folder)
    return folder


def test_an_agreement(agreement: Path, mark: Path, tmp_path: Path) -> None:
    """Members' names become names of files: of keys and folders."""
    table = json.loads((agreement / AGREEMENT_FILE).read_text())
    hostiles = (program(mark), "../../x", {"__class__": "os.system"}, 1e308, None, [[]], 2**70)
    for number, hostile in enumerate(hostiles):  # every place is given some of them
        for _, changed in list(altered(table, hostile))[number % 5 :: 5]:
            (tmp_path / AGREEMENT_FILE).write_text(json.dumps(changed))
            sound_or_refused(lambda: Agreement.read(tmp_path))
    for name in ("../x", "a/b", "", "..", 7, None, "a\nb"):
        (tmp_path / AGREEMENT_FILE).write_text(json.dumps({**table, "members": ["basel", name]}))
        refused(lambda: Agreement.read(tmp_path))
    (tmp_path / AGREEMENT_FILE).write_bytes(nested())
    refused(lambda: Agreement.read(tmp_path))


def test_a_circle(mark: Path, tmp_path: Path) -> None:
    AddressBook(("10.0.0.1:7000", "10.0.0.2:7000"), (bytes(32), bytes([1]) * 32)).write(tmp_path)
    table = json.loads((tmp_path / "circle.json").read_text())
    for hostile in (program(mark), "../../x", 7, None, {"a": 1}):
        for _, changed in altered(table, hostile):
            (tmp_path / "circle.json").write_text(json.dumps(changed))
            sound_or_refused(lambda: AddressBook.read(tmp_path))
    (tmp_path / "circle.json").write_bytes(nested())
    refused(lambda: AddressBook.read(tmp_path))


def test_settings(mark: Path, tmp_path: Path) -> None:
    """TOML and a run's manifest, as `--config` takes them."""
    for text in ("a = " + "[" * 100_000, "a = " + "9" * 5000, "\0", "a = 1\na = 2", "\ud800"):
        (tmp_path / "a.toml").write_text(text, errors="surrogatepass")
        refused(lambda: read_toml(tmp_path / "a.toml"))
    for data in (nested(), as_json({"settings": program(mark)}), as_json([1]), b"9" * 5000):
        (tmp_path / "a.json").write_bytes(data)
        refused(lambda: read_toml(tmp_path / "a.json"))


def test_a_model_file(mark: Path, tmp_path: Path) -> None:
    """What `seedbed adapt` writes: its words must fit its tensors, before a model of their size is made."""
    good = {"kind": "seedbed personal model", "model": '{"name": "mlp", "hidden": [4]}', "split": "false",
            "inputs": "[3]", "classes": '["a", "b"]', "algorithm": "fedavg", "targets": "1"}  # fmt: skip
    from seedbed.experiments.builder import build_model
    from seedbed.experiments.config import ModelSettings

    params = build_model(ModelSettings.model_validate_json(good["model"]), [3], 2).params
    path = tmp_path / "m.safetensors"
    path.write_bytes(serialization.trees_to_bytes(params, good))
    assert load_personal(path).classes == ("a", "b")
    bad = {
        "inputs": ["[1000000000000]", "[-1]", "7", "{}", nested().decode(), "[[]]", "null"],
        "classes": ["7", "[[]]", '{"a": 1}', json.dumps(program(mark)), "[" * 9999],
        "model": ["{}", "[]", '{"name": "os.system"}', '{"name": "mlp", "hidden": [100000000000]}', nested().decode()],
        "split": ["7", "{", nested().decode()],
        "targets": ["x"],
        "effects": ["[3]", "[-1]", "[0.5]", "{}", "null", nested().decode()],
        "interval": ["[]", "[0.9, NaN, 3]", '["a", "b", "c"]', "[0.9, -1, 3]", nested().decode()],
        "encoding": ["[]", '{"format": "table"}', '{"format": "table", "columns": [{"kind": "numeric"}]}', "7"],
    }
    for key, values in bad.items():
        for value in values:
            path.write_bytes(serialization.trees_to_bytes(params, {**good, key: value}))
            sound_or_refused(lambda: load_personal(path))
        path.write_bytes(serialization.trees_to_bytes(params, {k: v for k, v in good.items() if k != key}))
        sound_or_refused(lambda: load_personal(path))
    wrong = {"inputs": "[1000000000000]", "effects": "[3]", "interval": "[0.9, NaN, 3]", "encoding": bad["encoding"][2]}
    for key, value in wrong.items():
        path.write_bytes(serialization.trees_to_bytes(params, {**good, key: value}))
        refused(lambda: load_personal(path))


def test_a_payload(mark: Path) -> None:
    agreed = wire.tensor_schemas({"a": torch.ones(2)})
    for name, structure in structures(mark):
        text = as_json(structure)
        with pytest.raises(wire.FrameRefused):
            wire.unpack_tensors(len(text).to_bytes(8, "little") + text, agreed)
        assert name
    deep = nested(40)
    for header in (deep, as_json({"a": program(mark)}), as_json(program(mark))):
        with pytest.raises(wire.FrameRefused):
            wire.unpack_tensors(len(header).to_bytes(8, "little") + header + bytes(8), agreed)


def test_safetensors_that_lie() -> None:
    """Headers that say more than there is: refused by their library before memory is taken."""
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    odd = [entry, {**entry, "dtype": "F4"}, {**entry, "shape": [-1]}, program(Path("x")), {**entry, "dtype": "os"}]
    for one in odd:
        text = as_json({"a": one})
        refused(
            lambda text=text: serialization.tensors_from_bytes(
                len(text).to_bytes(8, "little") + text + bytes(8), "a file"
            )
        )
    for data in (b"", bytes(8), b"\xff" * 8, b"\xff" * 100, (10**9).to_bytes(8, "little") + bytes(100)):
        refused(lambda data=data: serialization.tensors_from_bytes(data, "a file"))
    deep = nested()
    refused(lambda: serialization.tensors_from_bytes(len(deep).to_bytes(8, "little") + deep, "a file"))


@pytest.mark.parametrize("text", [nested().decode(), "9" * 5000, '"\\ud800"', "[1,", "", '{"a"'])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        from_json(text)
    assert from_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_a_rank_that_sends_a_program(mark: Path) -> None:
    """Through the engine that shares clients out over ranks."""
    from seedbed.engines.distributed import Distributed

    class Hostile:
        rank, size = 0, 2

        def gather(self, data: bytes) -> Sequence[bytes]:
            return [data, packed(program(mark))]

        def add(self, numbers: Tensor) -> None: ...

    class Engine:
        def memory(self) -> dict[int, Tensor]:
            return {0: torch.ones(1)}

    engine = Distributed(Engine(), Population, ranks=Hostile())  # type: ignore[arg-type]
    refused(engine.memory)
