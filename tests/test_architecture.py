"""docs/architecture.md says how the code is arranged; here it is compared with the code."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmm_exp.commands.cli import COMMANDS
from dmm_exp.console.command import function_of

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dmm_exp"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
DEEPEST, WIDEST = 2, 25


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in TREES}


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of ours that a module imports, not for annotations alone."""
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) not in annotations and isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else node.module


def test_the_table_of_rooms_is_the_order_that_imports_keep():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    layers = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]][1:]  # the first has the modules to start
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", DOCUMENT, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == layers
    assert not any(":" in layer for layer in contract["layers"])
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} | {"errors"}
    assert set.union(*layers) == there


def test_no_module_imports_itself_by_way_of_others():
    graph = {module_of(path): set(imported(tree)) - {module_of(path)} for path, tree in TREES.items()}
    while free := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in free}
    assert not graph


LATE = {  # modules with imports of ours inside functions → why, beside commands/ and __init__, which are quick by them
    "dmm_exp.runs.trackers": "matplotlib is imported where figures are drawn, and few runs ask for that",
}


def test_our_own_modules_are_imported_at_the_top_of_a_module():
    late = {
        module_of(path)
        for path, tree in TREES.items()
        if path.name != "__init__.py" and path.parent.name != "commands"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for _ in imported(ast.Module(function.body, []))
    }
    assert late == LATE.keys()


@pytest.mark.parametrize(("file", "names"), re.findall(r"`(\w+/\w+\.py)`: ((?:`[\w.]+`(?:, | and )?)+)", DOCUMENT))
def test_the_way_of_a_run_names_what_exists(file, names):
    defined = {
        f"{node.name}.{inner.name}" if inner is not node else node.name
        for node in TREES[PACKAGE / file].body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        for inner in (node, *(node.body if isinstance(node, ast.ClassDef) else ()))
        if isinstance(inner, (ast.ClassDef, ast.FunctionDef))
    }
    assert set(re.findall(r"`([\w.]+)`", names)) <= defined


def test_every_command_is_named_by_a_function_of_words():
    alone = [PACKAGE / name for name in ("commands/cli.py", "unlearn.py", "verify.py")]
    named = {
        node.value
        for path in [*alone, *PACKAGE.glob("*/__main__.py")]
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Constant) and re.fullmatch(r"dmm_exp(\.\w+){2,}", str(node.value))
    }
    assert named == set(COMMANDS.values())
    for name in named:
        assert list(inspect.signature(function_of(name)).parameters) in (["words"], ["arguments"]), name


def test_the_way_of_a_run_is_short():
    steps = re.findall(r"^\d+\. `\w+/\w+\.py`", DOCUMENT, re.MULTILINE)
    assert 10 <= len(steps) <= 15


def test_classes_are_neither_deep_nor_wide():
    bases: dict[str, list[str]] = {}
    own: dict[str, set[str]] = {}
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [re.findall(r"\w+", ast.unparse(base).split("[")[0])[-1] for base in node.bases]
                functions = (inner.name for inner in node.body if isinstance(inner, ast.FunctionDef))
                own[node.name] = {name for name in functions if not name.startswith("_")}

    def ancestors(name: str) -> list[list[str]]:
        found = [[base, *rest] for base in bases[name] if base in bases and base != name for rest in ancestors(base)]
        return found or [[]]

    for name in bases:
        chains = ancestors(name)
        assert max(map(len, chains)) <= DEEPEST, name
        assert len(own[name].union(*(own[base] for chain in chains for base in chain))) <= WIDEST, name
