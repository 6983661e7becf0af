"""Which module may import which, what `import contrastile` may cost and change, and what it must offer."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import contrastile
from contrastile import losses, reference

PACKAGE = Path(contrastile.__file__).parent
MODULES = {
    ".".join(("contrastile", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# What a module may import, the most specific name decides. Arrows point down: losses, ops, driver, backends, spec.
ALLOWED = {
    "literals": (),
    "monoid": (),
    "spec": ("monoid",),
    "backends.base": ("monoid", "spec"),
    "backends.products": ("spec",),
    "backends.native": (),
    "backends.native_struct": (),
    "backends.native_block": ("monoid", "spec", "backends.native_struct"),
    "backends.measured": (),
    "backends.torch_functors": ("spec",),
    "backends.torch_rules": ("spec", "backends.torch_functors"),
    "backends.torch_segments": ("backends.base", "backends.products"),
    "backends.triton_segments": ("backends.triton_device", "triton_kernels"),
    "backends.cuda_segments": ("spec", "backends.base", "backends.products", "backends.native_struct"),
    "backends.cuda_basis": ("backends.native_struct",),
    "backends.triton_device": ("backends.measured", "triton_kernels"),
    "backends.triton_merge": ("monoid", "spec", "backends.triton_device", "triton_kernels"),
    "backends.triton_launch": ("monoid", "spec", "backends.triton_device", "backends.triton_merge", "triton_kernels"),
    "backends.triton_fused": ("spec", "backends.triton_device", "backends.triton_launch", "triton_kernels"),
    # a backend knows no other backend
    "backends.cpu": (
        "monoid",
        "spec",
        "backends.base",
        "backends.native",
        "backends.native_struct",
        "backends.native_block",
    ),
    "backends.torch_tiles": (
        "monoid",
        "spec",
        "backends.base",
        "backends.products",
        "backends.torch_functors",
        "backends.torch_rules",
        "backends.torch_segments",
    ),
    "backends": (
        "monoid",
        "spec",
        "backends.base",
        "backends.products",
        "backends.cuda_basis",
        "backends.cuda_segments",
        "backends.triton_segments",
        "backends.native",
        "backends.native_block",
        "backends.measured",
        "backends.triton_device",
        "backends.triton_fused",
        "backends.triton_launch",
        "backends.triton_merge",
        "triton_kernels",
    ),
    "driver": ("monoid", "spec", "backends.base", "driver"),
    "ranks": ("driver", "backends.base", "literals", "monoid", "spec", "ranks"),
    "ops": ("literals", "monoid", "spec", "backends", "driver", "ranks", "ops"),
    "losses": ("literals", "ops", "ranks", "losses", "spec"),
    "reference": ("reference",),  # written from the papers, so that it can be wrong only by itself
    "distributed": ("ops", "ranks", "distributed"),
    "compat": ("literals", "losses", "ops", "ranks", "reference", "compat"),
    "metrics": ("losses", "ops"),
    "catalog": ("losses", "reference"),
    "testing": ("catalog",),
    "benchmark": ("",),
    "cli": ("",),
    "__main__": ("cli",),
    "": ("",),  # the package itself
}
# drop-ins that extend classes of the package they stand in for
EXTENDED = {
    "contrastile.compat.lightly": {"lightly"},
    "contrastile.compat.pml_reducers": {"pytorch_metric_learning"},
    "contrastile.compat.pytorch_metric_learning": {"pytorch_metric_learning"},
    "contrastile.compat.sentence_transformers": {"sentence_transformers"},
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


# ---- importing in a fresh process


def fresh(script, *options, **environment):
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment}
    command = [sys.executable, *options, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


PROBE = """
import json, logging, os, signal, sys, threading, warnings
import torch
warnings.simplefilter("error")

def state():
    tasks = "/proc/self/task"
    return {
        "threads": torch.get_num_threads(), "interop threads": torch.get_num_interop_threads(),
        "dtype": str(torch.get_default_dtype()), "device": str(torch.get_default_device()),
        "grad": torch.is_grad_enabled(), "anomaly": torch.is_anomaly_enabled(), "random": torch.initial_seed(),
        "random state": torch.get_rng_state().tolist(), "denormal": torch.tensor(1e-40).mul(1).item(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(), "cuda started": torch.cuda.is_initialized(),
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "environment": dict(os.environ), "path": list(sys.path), "filters": len(warnings.filters),
        "log": [logging.root.level, len(logging.root.handlers)], "hooks": [str(sys.excepthook), str(sys.displayhook)],
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "python threads": threading.active_count(), "tasks": len(os.listdir(tasks)) if os.path.exists(tasks) else 0,
    }

SYSTEM = ("os.", "socket.", "subprocess.", "shutil.", "tempfile.", "_thread.", "signal.", "ctypes.", "mmap.")
READING = ("os.listdir", "os.scandir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, args):
    writing = event == "open" and args[2] & WRITING
    if watching and (writing or event.startswith(SYSTEM) and event not in READING):
        asked.append([event, str(args)])

watching, asked = False, []
sys.addaudithook(watch)
before, loaded = state(), set(sys.modules)
watching = True
import contrastile
watching = False
after = state()
changed = [name for name in before if before[name] != after[name]]
print(json.dumps({"changed": changed, "asked": asked, "loaded": sorted(set(sys.modules) - loaded)}))
"""


@pytest.fixture(scope="module")
def probe():
    return fresh(PROBE, PYTHONDONTWRITEBYTECODE="1")


@pytest.fixture
def imported(probe):
    assert probe.returncode == 0, probe.stderr
    return json.loads(probe.stdout)


def test_importing_changes_nothing(imported):
    assert imported["changed"] == []


def test_importing_asks_nothing_of_the_system(imported):
    """No file is written, no process or thread started, no connection opened, no environment variable set."""
    assert imported["asked"] == []


def test_importing_prints_nothing(probe):
    assert probe.stderr == ""
    assert probe.stdout.count("\n") == 1  # the probe's own line


LEFT_OUT = ("catalog", "cli", "compat", "testing", "triton_kernels")  # imported by those who use them


def test_importing_loads_the_losses_alone(imported):
    """Beyond torch, whatever torch brings: most of an import's time is the modules that it loads."""
    own = {name for name in imported["loaded"] if below(name, "contrastile")}
    assert set(imported["loaded"]) == own
    assert "contrastile.losses" in own
    assert [name for name in own if any(below(name, f"contrastile.{part}") for part in LEFT_OUT)] == []


def test_torch_is_enough():
    """Without the optional packages, and without numpy, which torch does not need either."""
    script = """
import sys
for name in ("triton", "numpy", "sklearn", "matplotlib", "rich", "scipy", "pytest"):
    sys.modules[name] = None
import torch, contrastile
x = torch.randn(8, 4, requires_grad=True)
contrastile.clip_loss(x, x, 5.0).backward()
contrastile.reference.clip_loss(x, x, 5.0).backward()
import contrastile.catalog, contrastile.testing
print(sorted(contrastile.available_backends()))
"""
    done = fresh(script, "-W", "ignore")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sorted(contrastile.available_backends())}\n"


def test_a_missing_native_module_is_a_reason_not_an_error():
    script = """
import sys
sys.modules["contrastile._cpu"] = sys.modules["contrastile._cuda"] = None
import torch, contrastile
print(contrastile.available_backends()["cpu"])
x = torch.randn(8, 4, dtype=torch.float32)
print(float(contrastile.nt_xent(x, x)))
contrastile.nt_xent(x, x, backend="cpu")
"""
    done = fresh(script)
    reason, value = done.stdout.splitlines()
    assert "not installed" in reason
    assert float(value) > 0
    assert "BackendUnsupported" in done.stderr.splitlines()[-1]
    assert "not installed" in done.stderr.splitlines()[-1]


# ---- what the package offers


def test_all_is_complete():
    """Every public name is listed, every listed name exists, and the losses come from their family files."""
    for module in (contrastile, losses, reference):
        assert len(set(module.__all__)) == len(module.__all__)
        defined = {
            name
            for name, x in vars(module).items()
            if not name.startswith("_") and (inspect.isclass(x) or inspect.isfunction(x))
        }
        assert defined == {name for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    assert set(losses.__all__) <= set(contrastile.__all__)
    functions = {name for name in losses.__all__ if name.islower()}
    ported = {name for name in functions if name.startswith("volume_computation")}  # dense: references themselves
    assert functions - ported == set(reference.__all__)


def test_star_import_gives_what_all_says():
    namespace = {}
    exec("from contrastile import *", namespace)
    assert set(contrastile.__all__) <= namespace.keys()


FUNCTIONS = {name: getattr(contrastile, name) for name in contrastile.__all__}
FUNCTIONS = {name: x for name, x in FUNCTIONS.items() if inspect.isfunction(x)}


def documentation(name):
    """The docstring, and those of the functions that it refers to."""
    own = inspect.getdoc(FUNCTIONS[name]) or ""
    return own, own + "".join(
        inspect.getdoc(x) for other, x in FUNCTIONS.items() if other != name and re.search(rf"\b{other}\b", own)
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented(name):
    """Every argument is named; a loss has its formula and its source, the paper with its arXiv number."""
    own, text = documentation(name)
    assert len(own.partition("\n")[0]) > 20
    for argument in inspect.signature(FUNCTIONS[name]).parameters:
        shared = name in losses.__all__ and argument in ("normalize", "memory_budget", "backend", "group")
        assert shared or re.search(rf"\b{argument}\b", text), f"{argument} is not documented"
    if name in losses.__all__:
        assert re.search(r"^Source: .*arXiv \d{4}\.\d{4,5}", own, re.MULTILINE | re.DOTALL), "no source"
        assert re.search(r"^ {4}\S.* = ", text, re.MULTILINE), "no formula"


@pytest.mark.parametrize("name", [name for name in contrastile.__all__ if inspect.isclass(getattr(contrastile, name))])
def test_classes_are_documented(name):
    text = getattr(contrastile, name).__doc__
    assert text and not text.startswith(f"{name}(")


@pytest.mark.parametrize("name", reference.__all__)
def test_references_have_their_functions_arguments(name):
    def options(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters if p.name not in ("memory_budget", "backend", "group")]

    assert options(getattr(reference, name)) == options(getattr(contrastile, name))
