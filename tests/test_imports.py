"""Which module may import which. The files are those of the package as it is imported, so that the rules hold for a
checkout and for an installed wheel."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import pytest

PACKAGES = ("contrastile", "contrastile.triton_kernels")  # in a checkout the second lies beside the first


def files(package):
    """Name and file of every module."""
    for folder in map(Path, import_module(package).__path__):
        for path in sorted(folder.rglob("*.py")):
            yield ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"), path


MODULES = dict(module for package in PACKAGES for module in files(package))

# What a module may import, the most specific name decides. Arrows point down: losses, ops, driver, backends, spec.
ALLOWED = {
    "literals": (),
    "monoid": (),
    "spec": ("monoid",),
    "backends.base": ("monoid", "spec", "backends.segments"),
    "backends.segments": ("spec",),
    "backends.small": ("spec", "backends.base"),
    "backends.underflow": (),
    "backends.products": (),
    "backends.waves": (),
    "backends.native": (),
    "backends.native_struct": (),
    "backends.native_block": ("monoid", "spec", "backends.native_struct"),
    "backends.measured": (),
    "backends.torch_functors": ("spec",),
    "backends.torch_rules": ("spec", "backends.torch_functors"),
    "backends.torch_pairs": ("monoid", "spec", "backends.products", "backends.torch_functors", "backends.torch_rules"),
    "backends.torch_segments": ("backends.products", "backends.segments"),
    "backends.cpu_segments": ("backends.native_block", "backends.native_struct", "backends.segments"),
    "backends.triton_segments": ("backends.segments", "backends.triton_device", "triton_kernels"),
    "backends.cuda_segments": (
        "backends.cuda_basis",
        "backends.native_struct",
        "backends.products",
        "backends.segments",
    ),
    "backends.cuda_basis": ("backends.native_struct",),
    "backends.triton_device": ("backends.measured", "triton_kernels"),
    "backends.triton_script": (),
    "backends.triton_kernel": ("backends.triton_script",),
    "backends.triton_merge": ("monoid", "spec", "backends.triton_device", "triton_kernels"),
    "backends.triton_launch": (
        "spec",
        "backends.triton_device",
        "backends.triton_kernel",
        "backends.triton_merge",
        "triton_kernels",
    ),
    "backends.triton_fused": (
        "spec",
        "backends.measured",
        "backends.triton_device",
        "backends.triton_launch",
        "triton_kernels",
    ),
    "backends.triton_kept": (
        "spec",
        "backends.base",
        "backends.triton_device",
        "backends.triton_fused",
        "backends.triton_launch",
        "backends.triton_merge",
        "triton_kernels",
    ),
    "backends.triton_given": ("spec", "backends.base", "backends.triton_launch", "backends.triton_script"),
    "backends.triton_plan": (
        "spec",
        "backends.base",
        "backends.small",
        "backends.products",
        "backends.underflow",
        "backends.triton_device",
        "backends.triton_fused",
        "backends.triton_given",
        "backends.triton_kernel",
        "backends.triton_launch",
        "backends.triton_merge",
        "backends.triton_script",
        "triton_kernels",
    ),
    "backends.triton_small": (
        "backends.base",
        "backends.small",
        "backends.triton_device",
        "backends.triton_given",
        "backends.triton_plan",
    ),
    # a backend knows no other backend
    "backends.cpu": (
        "monoid",
        "spec",
        "backends.base",
        "backends.native",
        "backends.native_struct",
        "backends.native_block",
        "backends.cpu_small",
        "backends.cpu_small_stats",
        "backends.cpu_basis",
        "backends.cpu_segments",
    ),
    "backends.cpu_basis": ("backends.base", "backends.native_block"),
    "backends.cpu_small": (
        "spec",
        "backends.base",
        "backends.small",
        "backends.native_struct",
        "backends.native_block",
        "backends.native_small",
    ),
    "backends.cpu_small_stats": (
        "monoid",
        "backends.base",
        "backends.native_struct",
        "backends.small",
        "backends.cpu_small",
    ),
    "backends.native_small": ("spec",),
    "backends.cuda_small": (
        "spec",
        "backends.base",
        "backends.small",
        "backends.products",
        "backends.underflow",
        "backends.native_struct",
        "backends.native_block",
        "backends.native_small",
    ),
    "backends.torch_tiles": (
        "monoid",
        "spec",
        "backends.base",
        "backends.products",
        "backends.torch_pairs",
        "backends.torch_rules",
        "backends.torch_segments",
    ),
    "backends": (
        "monoid",
        "spec",
        "backends.base",
        "backends.products",
        "backends.segments",
        "backends.cuda_basis",
        "backends.cuda_segments",
        "backends.cuda_small",
        "backends.triton_segments",
        "backends.native",
        "backends.native_block",
        "backends.native_struct",
        "backends.measured",
        "backends.triton_device",
        "backends.triton_fused",
        "backends.triton_kept",
        "backends.triton_launch",
        "backends.triton_merge",
        "backends.triton_small",
        "triton_kernels",
    ),
    # constants and mathematics below what makes a tile, and that below the kernels
    "triton_kernels": (),
    "triton_kernels.tiles": ("triton_kernels.functors",),
    "triton_kernels.rules": ("triton_kernels.tiles",),
    "triton_kernels.second": (
        "triton_kernels.functors",
        "triton_kernels.rules",
        "triton_kernels.slopes",
        "triton_kernels.tiles",
    ),
    "triton_kernels.slopes": ("triton_kernels.functors", "triton_kernels.rules", "triton_kernels.tiles"),
    "triton_kernels.partials": ("triton_kernels.functors", "triton_kernels.rules", "triton_kernels.tiles"),
    "triton_kernels.kept": (
        "triton_kernels.functors",
        "triton_kernels.lean",
        "triton_kernels.partials",
        "triton_kernels.rules",
        "triton_kernels.tiles",
    ),
    "triton_kernels.lean": (
        "triton_kernels.functors",
        "triton_kernels.partials",
        "triton_kernels.rules",
        "triton_kernels.slopes",
        "triton_kernels.tiles",
    ),
    "triton_kernels.pair": (
        "triton_kernels.functors",
        "triton_kernels.lean",
        "triton_kernels.partials",
        "triton_kernels.rules",
        "triton_kernels.second",
        "triton_kernels.slopes",
        "triton_kernels.tiles",
    ),
    "triton_kernels.fused": (
        "triton_kernels.functors",
        "triton_kernels.rules",
        "triton_kernels.second",
        "triton_kernels.slopes",
        "triton_kernels.tiles",
    ),
    "triton_kernels.merge": ("triton_kernels.functors", "triton_kernels.rules", "triton_kernels.tiles"),
    "triton_kernels.segments": ("triton_kernels.tiles",),
    "driver": ("monoid", "spec", "backends.base", "backends.underflow", "backends.waves", "driver"),
    "replay": ("replay",),
    "ranks": ("driver", "backends.base", "literals", "monoid", "replay", "spec", "ranks"),
    "ops": ("literals", "monoid", "spec", "backends", "driver", "ranks", "replay", "ops"),
    "losses": ("literals", "ops", "ranks", "losses", "spec"),
    "reference": ("reference",),  # written from the papers, so that it can be wrong only by itself
    "distributed": ("ops", "ranks", "distributed"),
    "compat": ("literals", "losses", "ops", "ranks", "reference", "compat"),
    "retrieval": ("literals", "losses", "monoid", "ops", "ranks", "retrieval", "spec"),
    "metrics": ("literals", "losses", "metrics", "ops", "ranks", "retrieval", "spec"),
    "catalog": ("losses", "reference", "catalog"),
    "testing": ("catalog",),
    "benchmark": ("",),
    "cli": ("",),
    "__main__": ("cli",),
    "": ("",),  # the package itself
}
# what may import an optional package when it is imported: drop-ins that extend its classes, and kernels, but no tables
KERNELS = (
    "functors", "tiles", "slopes", "partials", "lean", "kept", "pair", "rules", "second", "fused", "merge", "segments"
)  # fmt: skip
EXTENDED = {
    **{f"contrastile.triton_kernels.{name}": {"triton"} for name in KERNELS},
    "contrastile.compat.lightly": {"lightly"},
    "contrastile.compat.pml_reducers": {"pytorch_metric_learning"},
    "contrastile.compat.pytorch_metric_learning": {"pytorch_metric_learning"},
    **{
        f"contrastile.compat.sentence_transformers.{name}": {"sentence_transformers"}
        for name in ("gor", "guided", "ranking")
    },
}
REGISTRY = "contrastile.backends"  # lists all backends
REQUIRED = {"torch", "contrastile"} | sys.stdlib_module_names


def below(name, parent):
    return parent in ("", name) or name.startswith(f"{parent}.")


def imports(module, nodes):
    """Full names of what the nodes import; a name taken from a package is that package's module where there is one."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in MODULES else source


def tree(module):
    return ast.parse(MODULES[module].read_text())


def run_at_import(node):
    """The statements that run on import: all but function bodies and what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from run_at_import(child)


def test_the_rules_cover_every_module():
    for module in MODULES:
        name = module.removeprefix("contrastile").removeprefix(".")
        assert name == "" or any(rule and below(name, rule) for rule in ALLOWED), name


def test_every_part_of_the_package_is_looked_at():
    assert {f"contrastile.{name}" for name in ALLOWED if name} <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    name = module.removeprefix("contrastile").removeprefix(".")
    rule = max((rule for rule in ALLOWED if below(name, rule)), key=len) if name else ""
    if module == REGISTRY:
        return
    for imported in imports(module, ast.walk(tree(module))):
        if below(imported, "contrastile"):
            target = imported.removeprefix("contrastile").removeprefix(".")
            assert any(below(target, allowed) for allowed in ALLOWED[rule]), f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_optional_packages_are_imported_where_they_are_used(module):
    allowed = REQUIRED | ({"numpy"} if below(module, "contrastile.cli") else set()) | EXTENDED.get(module, set())
    found = {name.partition(".")[0] for name in imports(module, run_at_import(tree(module)))}
    assert found <= allowed, f"{module} imports {sorted(found - allowed)} when it is imported"


def test_the_reference_needs_torch_alone():
    for module in (m for m in MODULES if below(m, "contrastile.reference")):
        roots = {name.partition(".")[0] for name in imports(module, ast.walk(tree(module)))}
        allowed = {"math", "torch", "contrastile", "__future__", "itertools", "functools", "collections", "typing"}
        assert roots <= allowed, module
