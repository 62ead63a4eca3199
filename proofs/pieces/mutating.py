"""Small changes to a source file, and what the tests say of each.

A mutant is one change at one place of the file's syntax tree. It runs in a copy of the project, so that processes that
a test starts run it too. The parent imports what is slow (PyTorch), and forks for each mutant: an import of two seconds
for each would be most of the time.
"""

import ast
import copy
import hashlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SLOW_IMPORTS = ("torch", "torch.distributed", "numpy", "scipy.special", "scipy.stats", "pytest", "safetensors.torch")
LONGEST = 100  # characters of a mutant's text

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
METHODS = {"norm": "amax", "amax": "norm", "sum": "mean", "mean": "sum", "fmean": "fsum", "add": "discard"}


class Mutant(NamedTuple):
    """One change. `key` stays the same when lines move: the function, what stood there, and what stands there now."""

    path: str
    line: int
    key: str
    source: str


def mutants(root: Path, path: str) -> list[Mutant]:
    """Every mutant of a file, in the order of the file."""
    whole = ast.parse((root / path).read_text())
    seen: Counter[str] = Counter()
    found = []
    for place, (line, name, old, changed) in enumerate(_changes(whole)):
        key = f"{path} {name}: {_short(old)} → {_short(changed)}"
        seen[key] += 1
        key += f" ({seen[key]})" if seen[key] > 1 else ""
        found.append(Mutant(path, line, key, _source(root / path, place)))
    return found


def sample(every: Sequence[Mutant], most: int) -> list[Mutant]:
    """At most so many, drawn by the hash of each key: the same ones every time."""
    order = sorted(every, key=lambda mutant: hashlib.sha256(mutant.key.encode()).digest())
    return sorted(order[:most], key=lambda mutant: mutant.line)


class Bench:
    """A copy of the project in which tests run on a mutant.

    Args:
        folder: empty; the copy goes there.
    """

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder, self._writes = root, folder, 0
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, check=True, capture_output=True, text=True
        )
        for name in names.stdout.splitlines():
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, folder / name)
        self._sources: dict[str, str] = {}
        for name in SLOW_IMPORTS:
            importlib.import_module(name)

    def run(self, tests: Sequence[str], seconds: float, mutant: Mutant | None = None) -> tuple[str, float]:
        """What the tests say: "passed", "failed" or "too long", and the seconds that they took."""
        if mutant is not None:
            self._write(mutant.path, mutant.source)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _test(self.folder, tests)
        try:
            said = _awaited(child, seconds)
        finally:
            if mutant is not None:
                self._write(mutant.path, self._sources[mutant.path])
        return said, time.monotonic() - began

    def _write(self, path: str, text: str) -> None:
        """With a time of its own, so that Python compiles it again, and nothing else."""
        self._sources.setdefault(path, (self.folder / path).read_text())
        (self.folder / path).write_text(text)
        self._writes += 1
        os.utime(self.folder / path, (self._writes, self._writes))


def _test(folder: Path, tests: Sequence[str]) -> None:
    """In the child: run the tests on the copy, and end with pytest's status."""
    status = 99
    try:
        os.setsid()
        os.chdir(folder)
        sys.path[0] = str(folder)
        os.environ |= {"PYTHONPATH": str(folder)}
        silent = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(silent, standard)
        import pytest

        status = int(pytest.main(["-x", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(status)


def _awaited(child: int, seconds: float) -> str:
    """Wait for a child, at most so long; what is left of its session is killed."""
    deadline = time.monotonic() + seconds
    said = "too long"
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            said = "passed" if os.waitstatus_to_exitcode(status) == 0 else "failed"
            child = 0
            break
        time.sleep(0.02)
    if child:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return said


def _source(path: Path, place: int) -> str:
    """The file's text with one change: that of this number."""
    whole = ast.parse(path.read_text())
    for number, _ in enumerate(_changes(whole)):
        if number == place:
            return ast.unparse(whole) + "\n"
    raise IndexError(place)


def _changes(whole: ast.Module) -> Iterator[tuple[int, str, str, str]]:
    """Each change in turn, made in the tree while its (line, function, before, after) is out, and then taken back."""
    for name, node in _nodes(whole, ""):
        for field, value in _fields(node):
            for new in _others(value, field):
                before = copy.copy(value)
                holder, at = (field[0], field[1]) if isinstance(field, tuple) else (node, field)
                _put(holder, at, new)
                yield getattr(value, "lineno", 0), name or "the module", ast.unparse(before), ast.unparse(new)
                _put(holder, at, value)


def _nodes(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """All nodes but annotations, docstrings and imports, each with the name of its function or class."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        name = f"{name}.{node.name}" if name else node.name
    yield name, node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST) and not isinstance(each, ast.Import | ast.ImportFrom):
                yield from _nodes(each, name)


def _fields(node: ast.AST) -> Iterator[tuple[object, ast.AST]]:
    """Where a node holds others that may be changed: (a field's name, or a list and a place in it; the other)."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "exc"):
            continue
        if isinstance(value, list):
            yield from (((value, i), each) for i, each in enumerate(value) if isinstance(each, ast.AST))
        elif isinstance(value, ast.AST):
            yield field, value


def _others(node: ast.AST, field: object) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARED:
            yield ast.Compare(node.left, [COMPARED[type(op)]()], node.comparators)
        case ast.BinOp(op=op) if type(op) in COMPUTED and not _is_text(node):
            yield ast.BinOp(node.left, COMPUTED[type(op)](), node.right)
        case ast.AugAssign(op=op) if type(op) in COMPUTED:
            yield ast.AugAssign(node.target, COMPUTED[type(op)](), node.value)
        case ast.BoolOp(op=op):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
            if value > 1:
                yield ast.Constant(0)
        case ast.Constant(value=float()):
            yield ast.Constant(0.0)
        case ast.Name(id=name) if name in NAMES:
            yield ast.Name(NAMES[name], ast.Load())
        case ast.Attribute(attr=name) if name in METHODS:
            yield ast.Attribute(node.value, METHODS[name], ast.Load())
        case ast.IfExp():
            yield ast.IfExp(node.test, node.orelse, node.body)
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()):
            yield ast.Pass()
        case ast.If(orelse=[]):
            yield ast.If(ast.Constant(False), node.body, [])


def _is_text(node: ast.BinOp) -> bool:
    """Whether texts are added up: subtracting them is no mutant, but an error."""
    return any(isinstance(x, ast.JoinedStr) or (isinstance(x, ast.Constant) and isinstance(x.value, str))
               for x in (node.left, node.right))  # fmt: skip


def _put(holder: object, at: object, node: ast.AST) -> None:
    if isinstance(holder, list):
        holder[at] = node  # type: ignore[call-overload]
    else:
        setattr(holder, str(at), node)


def _short(text: str) -> str:
    line = " ".join(text.split()).replace("`", "'").replace("|", "¦")
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
