"""The house rules that a machine can hold: who may import whom, no pickle, no global randomness, no network."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import seedbed

PACKAGE = Path(seedbed.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A room may import only from these (and from itself): reading order is import order.
CORE = ("errors", "limits", "locks", "lowrank", "randomness", "temporary", "tree")
LIBRARY = (
    *("aggregation", "algorithms", "attacks", "data", "engines", "evaluation", "executors", "federated", "learning"),
    *("models", "privacy", "rounds", "serialization"),
)
ROOMS = {
    "errors": [],
    "randomness": [],
    "renamed": [],
    "temporary": [],
    "limits": ["errors"],
    "locks": ["errors"],
    "lowrank": [],
    "tree": ["lowrank"],
    "serialization": ["errors", "limits", "temporary", "tree"],
    "data": ["errors", "limits", "randomness", "temporary", "tree"],
    "aggregation": ["errors", "tree"],
    "learning": ["errors", "lowrank", "randomness", "tree", "data"],
    "federated": ["tree", "data", "learning", "aggregation"],
    "models": ["errors", "tree", "learning"],
    "algorithms": ["errors", "tree", "data", "learning", "federated", "aggregation"],
    "executors": ["errors", "lowrank", "tree", "data", "learning"],
    "engines": [
        "errors",
        "limits",
        "lowrank",
        "randomness",
        "tree",
        "data",
        "learning",
        "federated",
        "serialization",
        "executors",
    ],
    "evaluation": ["tree", "data", "learning", "federated"],
    "rounds": ["errors", "lowrank", "randomness", "tree", "federated", "aggregation"],
    "attacks": ["errors", "randomness", "tree", "data", "learning", "aggregation", "federated", "rounds"],
    "privacy": [
        *("errors", "lowrank", "randomness", "temporary", "tree"),
        *("data", "learning", "aggregation", "federated", "rounds"),
    ],
    "experiments": [*CORE, *LIBRARY],
    "audit": [*CORE, *LIBRARY, "experiments"],
    "reports": [*CORE, *LIBRARY, "experiments", "audit"],
    "api": [*CORE, *LIBRARY, "experiments", "audit", "reports"],
    "bench": [*CORE, *LIBRARY, "experiments"],
    "deployment": [*CORE, *LIBRARY, "experiments"],
    "cli": [*CORE, *LIBRARY, "experiments", "audit", "reports", "bench", "deployment"],
    "__main__": ["cli"],
}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_what_comes_before_them(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # the public names of all rooms
    allowed = {room, *ROOMS[room], "__version__"}
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("seedbed.")}
    assert used <= allowed, f"{path.name} in {room} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_pickle_and_no_global_randomness(path: Path) -> None:
    assert not imports_of(path) & {"pickle", "dill", "cloudpickle", "joblib", "random"}
    text = path.read_text()
    assert "np.random.seed" not in text
    assert "torch.load(" not in text
    assert "torch.manual_seed" not in text or path.name == "randomness.py"


RESOLVES = {  # where a name that is no constant becomes an object, and why that is safe
    ("data/readers/extras.py", "import_module"): "the caller names the library, as a constant: pandas, PIL.Image",
    ("executors/fused/cpp_launch.py", "getattr"): "a function of our compiled library, chosen by the type of numbers",
    ("deployment/flower/superlink.py", "getattr"): "Flower's own handlers, by a name that our own code gives",
    ("privacy/differential/binding.py", "getattr"): "reads the fields of a value, to digest them",
    ("__init__.py", "import_module"): "only the modules in its own table",
    ("__init__.py", "getattr"): "only the names in its own table",
    ("experiments/named_code.py", "import_module"): "only what this process's command line names",
    ("experiments/named_code.py", "getattr"): "only what this process's command line names",
    ("renamed.py", "import_module"): "only the new names in its own table",
    ("renamed.py", "getattr"): "only the new names in its own table",
    ("renamed.py", "modules"): "only the modules in its own table",
    ("lowrank/factored_matrix.py", "getattr"): "constants in a loop over properties of Tensor",
}


def names_to_objects(path: Path) -> set[str]:
    """By which means a file turns names into objects: `sys.modules`, imports by a variable, `eval`, ..."""
    whole = ast.parse(path.read_text())
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(whole)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return {word for node in ast.walk(whole) for word in _resolving(node, imported)}


def _resolving(node: ast.AST, imported: set[str]) -> set[str]:
    banned = {"import_module", "__import__", "eval", "exec", "compile", "globals", "run_path", "run_module"}
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
        loaded = {node.attr} & {"modules"} if node.value.id == "sys" else set()
        return loaded | {node.attr} & (banned - {"compile", "eval"} | {"attrgetter", "methodcaller"})
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return set()
    name = node.func.id
    if name in ("getattr", "setattr", "vars") and node.args:
        owner = node.args[0]
        constant = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
        foreign = isinstance(owner, ast.Call) or (isinstance(owner, ast.Name) and owner.id in imported)
        return {name} if foreign and not constant and name != "vars" else set()
    return {name} & (banned | {"attrgetter", "methodcaller"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_name_from_data_becomes_an_object(path: Path) -> None:
    """Data name no code: neither a module nor an attribute of one is looked up by a name that is no constant."""
    where = str(path.relative_to(PACKAGE))
    assert {word for word in names_to_objects(path) if (where, word) not in RESOLVES} == set()


@pytest.mark.parametrize(
    "line",
    [
        "import sys; found = sys.modules[name]",
        "import sys; found = sys.modules.get(name)",
        "import torch; found = getattr(torch, name)",
        "import importlib; importlib.import_module(name)",
        "from importlib import import_module; import_module(name)",
        "__import__(name)",
        "eval(text)",
        "exec(text)",
        "found = getattr(library(), name)",
        "import operator; operator.attrgetter(name)(thing)",
        "import runpy; runpy.run_path(name)",
    ],
)
def test_the_rule_sees(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(line)
    assert names_to_objects(tmp_path / "a.py")


def test_only_downloading_uses_the_network() -> None:
    """And what a federation is asked to do: Flower's port, sockets in the file system, figures on this machine,
    peers' ports."""
    network = {"urllib.request", "requests", "http.client", "http.server", "httpx", "socket", "uvicorn", "zmq"}
    users = {str(p.relative_to(PACKAGE)) for p in FILES if imports_of(p) & network}
    inside = {"engines/crew.py", "deployment/federation/local_transport.py"}
    outside = {
        "deployment/flower/serve.py",
        "deployment/flower/listener.py",
        "deployment/flower/superlink.py",
        "deployment/flower/fleet.py",
        "deployment/peers/network.py",
    }
    assert users <= {"data/readers/download.py", "deployment/metrics.py"} | outside | inside
    assert not [name for name in inside if "AF_INET" in (PACKAGE / name).read_text()]


def test_every_module_imports_and_says_what_it_is_for() -> None:
    for info in pkgutil.walk_packages([str(PACKAGE)], "seedbed."):
        if info.name != "seedbed.__main__":
            assert importlib.import_module(info.name).__doc__, f"{info.name} has no docstring"


def test_what_is_exported_exists() -> None:
    for info in pkgutil.walk_packages([str(PACKAGE)], "seedbed."):
        if info.name != "seedbed.__main__":
            module = importlib.import_module(info.name)
            for name in getattr(module, "__all__", []):
                assert hasattr(module, name), f"{info.name}.__all__ names {name}"
    for name in seedbed.__all__:
        assert hasattr(seedbed, name)
