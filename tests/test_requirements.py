"""What a make target runs imports only what that target installs. (That of `make test` shows when it runs alone.)"""

import ast
import re
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brought it")
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# where the code of a target is: the extra that the target installs
EXTRAS = {
    "python/contrastile/cli": "demo",
    "python/contrastile/benchmark": "dev",
    "examples": "examples",
    "docs": "docs",
    "bench": "dev",
}
# module: the distribution that brings it, where names differ
BROUGHT_BY = {
    "PIL": "matplotlib",
    "fontTools": "matplotlib",
    "griffe": "mkdocstrings-python",
    "mpl_toolkits": "matplotlib",
    "safetensors": "wordllama",
    "sklearn": "scikit-learn",
    "tokenizers": "wordllama",
}
OWN = {path.stem for folder in (*EXTRAS, "tests") for path in (ROOT / folder).rglob("*.py")}
OWN |= {path.parent.name for folder in EXTRAS for path in (ROOT / folder).rglob("__init__.py")}
OWN |= {"contrastile", "compat", "support"}


def brought(requirements: list[str]) -> set[str]:
    found = set()
    for requirement in requirements:
        name, *extras = re.findall(r"[\w-]+", requirement.partition(";")[0].partition(">")[0].partition("<")[0])
        found |= brought([x for extra in extras for x in PROJECT["optional-dependencies"][extra]]) | {name}
    return found


def imports(path: Path) -> set[str]:
    """What a file imports when it is imported itself, but for Python's own modules."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names


@pytest.mark.parametrize("folder", EXTRAS)
def test_a_target_installs_what_its_code_imports(folder):
    there = brought([*PROJECT["dependencies"], *PROJECT["optional-dependencies"][EXTRAS[folder]]])
    for path in (ROOT / folder).rglob("*.py"):
        for module in imports(path) - OWN:
            assert BROUGHT_BY.get(module, module) in there, f"{path.relative_to(ROOT)} imports {module}"
