"""The rules of language that a machine can hold; docs/glossary.md has them for people.

`DONE` lists the rooms whose prose follows the rules. A room that is rewritten joins the list, and never leaves it.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import seedbed

PACKAGE = Path(seedbed.__file__).parent
GLOSSARY = PACKAGE.parent / "docs" / "glossary.md"
DONE = [
    *("audit", "bench", "deployment", "lowrank", "privacy", "reports"),
    *(
        "errors.py",
        "limits.py",
        "locks.py",
        "randomness.py",
        "renamed.py",
        "serialization.py",
        "temporary.py",
        "tree.py",
    ),
]
PAGES = [  # pages whose prose follows the rules; code blocks are not prose
    *(f"docs/{page}.md" for page in ("audit", "design", "fast", "federation", "peers", "performance", "privacy")),
    *(f"docs/{page}.md" for page in ("promises", "robustness", "scale", "secure_aggregation", "start", "types")),
    *("README.md", "CONTRIBUTING.md"),
]
FILES = sorted(
    file for room in DONE for file in ([PACKAGE / room] if room.endswith(".py") else (PACKAGE / room).rglob("*.py"))
)

BANNED = {  # pattern: what to write instead
    r"\b(who|whom|whoever)\b": "the noun: the client that, the attacker that",
    r"\b(nobody|somebody|anybody|everybody)\b": "no client, all clients, an attacker",
    r"\balone\b": "only",
    r"\bgo(es|ne|ing)? on\b": "continue, resume",
    r"\bof whose\b": "a sentence of its own",
    r"\bas many as there are\b": "all",
    r"\b(is|are|be) (said|told)\b": "is reported, can be distinguished",
    r"\bbegun\b": "started",
    r"\bis no (name|file|address|table|key|folder|member|client|number|shape|JSON|TOML)\b": "is not a ...",
    r"\bholds no\b": "has no, does not contain",
    r"\bthat is none\b|\bis none any more\b": "is not a ..., is damaged",
    r"\bto be had\b": "available",
    r"\bits own affair\b": "its choice",
    r"\bwhat (it|he|they) (say|says|said)\b": "its content, its text",
    r"\bsums alone\b": "only sums",
}
BAD_NAMES = {  # variables; `said`, `heard`, `told` are parameters and fields that callers use by name
    *("found", "made", "gave", "who", "whom", "nobody", "somebody"),
}
PARTICIPLES = {  # functions that may be called so, each with a reason
    "renamed": "the module's word: resolves a renamed name",
    "sampled": "noun: the run's `Sampled` tasks",
    "scaled": "public method of a subject: inputs in 0…1",
    "signed": "adjective: words as signed integers",
    "spent": "public method of mechanisms: the releases of some rounds",
    "assumed": "public method of masked sums: the assumptions",
    "applied": "public method of matrices: the product with an input",
    "correlated": "a condition",
    "awaited": "a condition",
    "_correlated": "adjective: correlated noise",
}
IRREGULAR = "built drawn given gone heard held kept known left lost made meant said seen sent shown taken told written"

# Public names that stand in several modules, and why one name is right.
HOMONYMS = {
    "A": "a type variable: an argument",
    "B": "a type variable: another one",
    "Bools": "the same array type, spelt where it is used",
    "ClientId": "the same type; secure aggregation stands without `federated`",
    "ENTRIES": "the catalogue's chapters, gathered by its __init__",
    "Floats": "the same array type, spelt where it is used",
    "Params": "the same type, where `federated` cannot be imported",
    "Tree": "data/types.py passes on that of tree.py",
    "init": "commands of two sub-commands",
    "join": "commands of two sub-commands",
    "run": "commands of two sub-commands",
    "console": "each group of commands prints by its own",
    "read": "each reader's function, called through its module",
    "read_like": "each reader's function, called through its module",
    "evaluate": "the command, and the function that it calls",
    "add": "a command; arithmetic on trees",
    "log": "the gate's log, by its one name",
}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings, comments, and strings with more than one word, with their lines."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def banned_in(path: Path) -> list[str]:
    return [
        f"{path.name}:{line}: {match[0]!r}: write {better}"
        for line, text in texts(path)
        for pattern, better in BANNED.items()
        for match in re.finditer(pattern, text)
        if not (path.name == "renamed.py" and "=" in text)  # its table of old names
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_banned_words(path: Path) -> None:
    assert banned_in(path) == []


@pytest.mark.parametrize("page", PAGES)
def test_no_banned_words_on_pages(page: str) -> None:
    text = (PACKAGE.parent / page).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    assert [match[0] for pattern in BANNED for match in re.finditer(pattern, prose)] == []


@pytest.mark.parametrize(
    "line",
    [
        '"""A client who has no key."""',
        "x = 1  # sums alone",
        'raise InputError("the run goes on")',
        'print(f"{x} is no file of ours")',
        '"""What nobody knows."""',
    ],
)
def test_the_rule_sees(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(line)
    assert banned_in(tmp_path / "a.py")


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def is_participle(name: str) -> bool:
    word = name.strip("_")
    return word.isalpha() and word.islower() and (word.endswith("ed") or word in IRREGULAR.split())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_are_verbs(path: Path) -> None:
    """A property is a value, and may be named by a participle."""
    verbs = [f for f in functions(path) if not any("property" in ast.unparse(d) for d in f.decorator_list)]
    assert [f.name for f in verbs if is_participle(f.name) and f.name not in PARTICIPLES] == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_variables_are_nouns(path: Path) -> None:
    names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
    names |= {a.arg for f in functions(path) for a in [*f.args.args, *f.args.kwonlyargs]}
    assert names & BAD_NAMES == set()


def public_names(path: Path) -> set[str]:
    """Functions, classes and values at a module's top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def test_one_name_has_one_meaning() -> None:
    """A public name of a room that is done stands in no other module, unless the list gives a reason."""
    modules = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in public_names(path):
            modules[name].append(path)
    several = {name: paths for name, paths in modules.items() if len(paths) > 1 and set(paths) & set(FILES)}
    assert {name: [p.name for p in paths] for name, paths in several.items() if name not in HOMONYMS} == {}


def test_the_glossary_names_what_exists() -> None:
    """Each `seedbed/...` place in the glossary is a file, and each room is in it."""
    text = GLOSSARY.read_text(encoding="utf-8")
    places = re.findall(r"`(seedbed/[\w/.]+)`", text)
    assert [place for place in places if not (PACKAGE.parent / place).exists()] == []
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert {room for room in rooms if f"seedbed/{room}/" not in text} == set()
