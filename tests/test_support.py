"""Tests share what is in support/ alone: no module imports a module of tests."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
STARTED = {
    "interpreted",
    "interpreted_functors",
    "interpreted_fused",
    "interpreted_kept",
    "interpreted_lean",
    "interpreted_second",
    "interpreted_small",
    "interpreted_tiles",
    "kernels",
}  # tests that others start in a process of their own
FILES = {str(path.relative_to(TESTS)): path for path in sorted(TESTS.rglob("*.py"))}


def holds_tests(name: str) -> bool:
    return name.startswith("test_") or name in STARTED


def imported(tree: ast.AST) -> set[str]:
    """The last parts of the names of all modules that are imported, or may be one."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.rpartition(".")[2] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update((node.module or "").split("."), (alias.name for alias in node.names))
    return found


def wrongly_imported(source: str) -> set[str]:
    return {name for name in imported(ast.parse(source)) if holds_tests(name)}


@pytest.mark.parametrize("name", FILES)
def test_no_module_imports_a_module_of_tests(name):
    assert wrongly_imported(FILES[name].read_text()) == set()


@pytest.mark.parametrize(
    "source",
    ["import test_gpu", "from test_memory import x", "from .test_a import b", "from . import test_a", "import a.test_b",
     "def f():\n    from interpreted import KEEPS"],
)  # fmt: skip
def test_the_rule_sees_every_form(source):
    assert wrongly_imported(source)


def test_the_top_folder_has_test_modules_alone():
    beside = {path.stem for path in TESTS.glob("*.py")}
    assert {name for name in beside if not holds_tests(name)} == {"conftest"}
