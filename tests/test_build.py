"""The native modules and the packages that setup.py makes. Nothing here needs a network."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from support.build import run, symbols
from support.scripts import ROOT, load_script

pytest.importorskip("pybind11", reason="the build requirements are not installed")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files with nm")
setup = load_script("setup.py")
check_wheel = load_script("packaging/check_wheel.py")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution, made from a copy so that the working tree stays clean."""
    folder = tmp_path_factory.mktemp("sdist")
    ignore = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
    tree = shutil.copytree(ROOT, folder / "tree", ignore=ignore)
    script = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    done = run(sys.executable, "-c", script, cwd=tree, CONTRASTILE_CUDA="0")
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_source_distribution_holds_all_native_sources(sdist: Path) -> None:
    """Also the headers and the CUDA files, which no extension lists as sources."""
    expected = _files(ROOT / "csrc")
    assert {path.suffix for path in expected} >= {".cpp", ".cu", ".h", ".map"}
    assert _files(sdist / "csrc") == expected


@LINUX
def test_kernel_objects_hold_no_weak_symbols() -> None:
    """The linker may give one file's weak symbol to all: an AVX-512 body would run on any CPU."""
    kernels = [unit for unit in setup.cpu_units() if unit[0].stem.startswith("kernel_")]
    assert kernels
    for path in setup.compile_units(kernels):
        found = symbols(path)
        assert any(letter in "TDR" for letter, _ in found), "no global symbol: nm was misread"
        assert [symbol for symbol in found if symbol[0] in "WVu"] == []


@LINUX
def test_module_exports_its_init_function_only() -> None:
    spec = importlib.util.find_spec("contrastile._cpu")
    if spec is None or spec.origin is None:
        pytest.skip("contrastile._cpu is not built")
    assert symbols(spec.origin, "-D", "--defined-only") == [("T", "PyInit__cpu")]


def test_kernel_objects_serve_every_python() -> None:
    """A release compiles them once for all Pythons."""
    own = set(setup.python_headers())
    assert {source.stem for source, command in setup.cpu_units() if own & set(command)} == {"bind"}


@pytest.mark.parametrize(
    "machine, kernels",
    [
        ("x86_64-linux-gnu", {"generic", "avx2", "avx512", "avx512bf16"}),
        ("aarch64-linux-gnu", {"generic", "neonbf16"}),
        ("arm64-apple-darwin24.1.0", {"generic", "neonbf16"}),
        ("riscv64-linux-gnu", {"generic"}),
    ],
)
def test_kernels_are_those_of_the_compiler_s_processor(machine, kernels, monkeypatch) -> None:
    """Which need not be the machine that compiles."""
    monkeypatch.setattr(setup, "capture", lambda *_: subprocess.CompletedProcess((), 0, f"{machine}\n", ""))
    units = dict(setup.cpu_units())
    assert {path.stem.removeprefix("kernel_") for path in units} == kernels | {"bind"}
    assert ("-DCONTRASTILE_NEONBF16=1" in units[setup.CSRC / "cpu/bind.cpp"]) == ("neonbf16" in kernels)


@pytest.mark.slow
@pytest.mark.skipif(
    None in map(shutil.which, ("aarch64-linux-gnu-g++", "qemu-aarch64")),
    reason="needs a compiler for ARM and an emulator",
)
def test_kernels_of_arm_do_what_those_of_this_machine_do(tmp_path: Path) -> None:
    done = run(sys.executable, ROOT / "tests/native/arm.py", tmp_path / "arm")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_object_name_follows_all_that_the_object_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are reused by name, so a name that misses a dependency would keep stale code."""
    monkeypatch.setattr(setup, "CSRC", tmp_path)
    source, header = tmp_path / "cpu" / "bind.cpp", tmp_path / "common" / "functors.h"
    for path in (source, header):
        path.parent.mkdir()
        path.write_text("int x;")
    command = [*setup.CXX, "-O3"]
    names = [setup.object_path(source, command), setup.object_path(source, [*command, "-g"])]
    for path in (source, header):
        path.write_text("int y;")
        names.append(setup.object_path(source, command))
    assert len(set(names)) == 4
    assert setup.object_path(source, command) == names[-1]


def test_object_name_holds_no_place_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects from a machine with checkout, Python and compilers elsewhere are found again, bindings included."""

    def names(machine: Path) -> list[str]:
        compiler = machine / "bin" / "nvcc"
        compiler.parent.mkdir(parents=True)
        compiler.write_text("#!/bin/sh\necho release 13.0\n")
        compiler.chmod(0o755)
        shutil.copytree(ROOT / "csrc", machine / "checkout" / "csrc")
        monkeypatch.setattr(setup, "CSRC", machine / "checkout" / "csrc")
        monkeypatch.setattr(setup, "NVCC", str(compiler))
        monkeypatch.setenv("CUDAHOSTCXX", str(compiler))
        monkeypatch.setenv("CONTRASTILE_CUDA_ARCHS", "90")
        monkeypatch.setattr(setup.pybind11, "get_include", lambda: str(machine / "pybind11"))
        monkeypatch.setattr(setup.sysconfig, "get_paths", lambda: {"include": str(machine / "python")})
        return [setup.object_path(*unit).name for unit in setup.cuda_units() + setup.cpu_units()]

    first = names(tmp_path / "one")
    assert names(tmp_path / "two") == first and len(set(first)) == len(first)
    (tmp_path / "two" / "bin" / "nvcc").write_text("#!/bin/sh\necho release 13.1\n")
    assert all(setup.object_path(*unit).name not in first for unit in setup.cuda_units()[1:])


def test_the_longest_kernels_are_compiled_last_and_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "NVCC", "nvcc")
    monkeypatch.setenv("CONTRASTILE_CUDA_ARCHS", "90")
    every = setup.cuda_units()
    monkeypatch.setenv("CONTRASTILE_CUDA_BASIS", "0")
    assert [source.name for source, _ in every][-1] == "basis.cu"
    assert [source for source, _ in setup.cuda_units()] == [source for source, _ in every[:-1]]
    assert "-DCONTRASTILE_CUDA_WITHOUT_BASIS" in setup.cuda_units()[0][1]


LOSSES_WITHOUT_NATIVE_MODULES = """
import sys
import torch
import contrastile
from contrastile import reference

assert contrastile.__file__.startswith(sys.argv[1]), contrastile.__file__
assert contrastile.available_backends()["torch"] is None
assert contrastile.available_backends()["cpu"], "a pure wheel has no C++ backend"
torch.manual_seed(0)
x, y = (torch.nn.functional.normalize(torch.randn(9, 5, dtype=torch.float64), dim=1) for _ in "xy")
labels = torch.arange(9) // 3
calls = {
    "info_nce": (x, y), "clip_loss": (x, y, 10.0), "siglip_loss": (x, y, 10.0, -5.0),
    "nt_xent": (x, y), "sup_con": (x, labels), "dcl": (x, y), "uniformity": (x, y),
}
for name, args in calls.items():
    for backend in ("auto", "torch"):
        leaf = args[0].clone().requires_grad_()
        loss = getattr(contrastile, name)(leaf, *args[1:], backend=backend)
        loss.backward()
        twin = args[0].clone().requires_grad_()
        dense = getattr(reference, name)(twin, *args[1:])
        dense.backward()
        torch.testing.assert_close(loss, dense, msg=lambda text: f"{name}: {text}")
        torch.testing.assert_close(leaf.grad, twin.grad, msg=lambda text: f"{name}: {text}")
print("ran", len(calls), "losses")
"""


def test_install_without_a_compiler_runs_every_loss_on_torch(sdist: Path, tmp_path: Path) -> None:
    env = {"CXX": "no-such-compiler", "CONTRASTILE_CPU": "auto", "CONTRASTILE_CUDA": "0"}
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    done = run(*pip, "-v", "wheel", sdist, "-w", tmp_path, "--no-build-isolation", "--no-deps", **env)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "no C++ compiler: no-such-compiler was not found" in said and "right, but slower" in said
    (wheel,) = tmp_path.glob("contrastile-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    pure = check_wheel.Wheel(wheel, tmp_path / "site", tmp_path, [])
    assert list(check_wheel.contents(pure)) == ["native modules are [], not ['_cpu']"]  # all else is there
    # -S: no .pth files, so that an editable install cannot lend its native modules to the wheel
    path = os.pathsep.join([str(tmp_path / "site"), *filter(os.path.isdir, sys.path)])
    child = (sys.executable, "-S", "-c", LOSSES_WITHOUT_NATIVE_MODULES, tmp_path / "site")
    done = run(*child, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ran 7 losses\n"


@pytest.mark.parametrize("version, has", [("None", False), ("'13.0'", True), (None, False)])
@pytest.mark.parametrize("isolated", [False, True])
def test_the_cuda_module_is_built_where_torch_has_cuda(version, has, isolated, tmp_path, monkeypatch) -> None:
    """Or where it is asked for: nvcc alone does not make an installation slow. torch is looked at, not imported, also
    in the environment that build isolation hides."""
    if version is not None:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch/__init__.py").write_text("raise AssertionError")
        (tmp_path / "torch/version.py").write_text(f"cuda = {version}\n")
    monkeypatch.setattr(sys, "path", [] if isolated else [str(tmp_path)])
    site = str(tmp_path if isolated else tmp_path / "nothing")
    monkeypatch.setattr(setup.sysconfig, "get_paths", lambda: {"platlib": site, "purelib": site})
    assert setup.torch_has_cuda() == has
    for mode, built in (("auto", has), ("0", False), ("1", True)):
        monkeypatch.setenv("CONTRASTILE_CUDA", mode)
        monkeypatch.setattr(setup, "NVCC", "nvcc")
        assert bool(setup.extension("cuda", wanted=has)) == built


def test_required_module_that_cannot_be_built_fails_the_build(sdist: Path, tmp_path: Path) -> None:
    env = {"CXX": "no-such-compiler", "CONTRASTILE_CPU": "1", "CONTRASTILE_CUDA": "0"}
    done = run(sys.executable, "setup.py", "build", "-b", tmp_path, cwd=sdist, **env)
    assert done.returncode != 0
    assert "no C++ compiler: no-such-compiler was not found. Install one" in done.stderr
