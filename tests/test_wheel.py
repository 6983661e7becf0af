"""Each gate of packaging/check_wheel.py passes a good wheel and names what is wrong with a bad one."""

import inspect
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.scripts import ROOT, load_script

check_wheel = load_script("packaging/check_wheel.py")
NEEDED = ("cc", "nm", "readelf", "objdump")
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or None in map(shutil.which, NEEDED), reason=f"needs Linux with {NEEDED}"
)
X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86-64")

EXPORT = '__attribute__((visibility("default"))) '
INIT = f"#include <math.h>\n{EXPORT} double PyInit__cpu(double x) {{ return sin(x); }}\n"
KERNEL = "void scale(float *x) { for (int i = 0; i < 64; ++i) x[i] *= 2; }\n"
TAG = "manylinux_2_28_x86_64"


def compile_c(source: str, path: Path, *options: object) -> None:
    command = ["cc", "-x", "c", "-", "-x", "none", "-O3", "-fPIC", "-fvisibility=hidden", "-o", path, *options]
    subprocess.run([str(word) for word in command], input=source, text=True, check=True)


def build_module(folder: Path, source: str, *options: object) -> None:
    compile_c(source, folder / "contrastile/_cpu.cpython-311-x86_64-linux-gnu.so", "-shared", *options, "-lm")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The package's files with a small module and a licence, packed too, and the object of one kernel."""
    base = tmp_path_factory.mktemp("good")
    folder, objects = base / "unpacked", base / "objects"
    for package, source in check_wheel.SOURCES.items():
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "triton_kernels")
        shutil.copytree(source, folder / package, ignore=ignored, dirs_exist_ok=True)
    licence = folder / "contrastile-1.dist-info/licenses/LICENSE"
    licence.parent.mkdir(parents=True)
    licence.touch()
    build_module(folder, INIT)
    objects.mkdir()
    compile_c(KERNEL, objects / "cpu-kernel_generic-0.o", "-c")
    shutil.make_archive(str(base / "wheel"), "zip", folder)
    return base


@pytest.fixture
def wheel(good, tmp_path):
    base = shutil.copytree(good, tmp_path / "wheel")
    path = (base / "wheel.zip").rename(base / f"contrastile-1-cp311-cp311-{TAG}.whl")
    return check_wheel.Wheel(path, base / "unpacked", base / "objects", [])


def complaints(gate, wheel):
    return list(getattr(check_wheel, gate)(wheel))


@pytest.mark.parametrize("gate", ["size", "contents", "libraries", "symbols", "instruction_sets", "cuda_code"])
def test_good_wheel_passes(gate, wheel):
    assert complaints(gate, wheel) == []


RULES = """
import sys
sys.path.insert(0, FOLDER)
sys.meta_path[:] = [x for x in sys.meta_path if x.__module__.startswith("_frozen")]  # no editable install
import contrastile, pytest
assert contrastile.__file__.startswith(FOLDER), contrastile.__file__
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--noconftest", TESTS]))
"""


def test_the_import_rules_hold_for_what_a_wheel_installs(good, tmp_path):
    folder = shutil.copytree(good / "unpacked", tmp_path / "site", ignore=shutil.ignore_patterns("*.so"))
    code = f"FOLDER, TESTS = {str(folder)!r}, {str(ROOT / 'tests/test_imports.py')!r}\n{RULES}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.parametrize("archs, limit", [([], check_wheel.LARGEST_CPU), (["80"], check_wheel.LARGEST_CUDA)])
def test_size(wheel, archs, limit):
    wheel.archs = archs
    os.truncate(wheel.path, limit)
    assert complaints("size", wheel) == []
    os.truncate(wheel.path, limit + 1)
    assert complaints("size", wheel) == [f"{limit + 1:,} bytes, the limit is {limit:,}"]


@pytest.mark.parametrize(
    "name",
    [
        "tests/test_losses.py",
        "contrastile/kernel.cu",
        "contrastile/old.py",
        "contrastile.libs/libgomp-f9a9ad78.so.1.0.0",
        "contrastile/libcudart.so.13",
    ],
)
def test_foreign_files(wheel, name):
    path = wheel.folder / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert complaints("contents", wheel) == [f"{name} does not belong into the wheel"]


@pytest.mark.parametrize(
    "name",
    [
        "contrastile/backends/measured.json",
        "contrastile/py.typed",
        "contrastile/_cpu.pyi",
        "contrastile/_cuda.pyi",
        "contrastile/triton_kernels/pair.py",
        "contrastile/losses/contrastive.py",
    ],
)
def test_missing_files(wheel, name):
    (wheel.folder / name).unlink()
    assert complaints("contents", wheel) == [f"{name} is missing"]


def test_missing_licence(wheel):
    (wheel.folder / "contrastile-1.dist-info/licenses/LICENSE").unlink()
    assert complaints("contents", wheel) == ["the licence file is missing"]


@pytest.mark.parametrize(
    "found, archs", [(["_cpu", "_cuda"], []), (["_cpu"], ["80"]), ([], []), (["_cpu", "_extra"], [])]
)
def test_native_modules_are_those_asked_for(wheel, found, archs):
    wheel.archs = archs
    for path in wheel.modules.values():
        path.unlink()
    for name in found:
        (wheel.folder / f"contrastile/{name}.cpython-311-x86_64-linux-gnu.so").touch()
    wanted = ["_cpu", "_cuda"] if archs else ["_cpu"]
    assert complaints("contents", wheel) == [f"native modules are {found}, not {wanted}"]


@pytest.mark.parametrize("library", ["libcudart.so.13", "libcuda.so.1", "libtorch_cpu.so", "libc10.so"])
def test_foreign_libraries(wheel, tmp_path, library):
    compile_c("int f(void) { return 1; }", tmp_path / library, "-shared", f"-Wl,-soname,{library}")
    build_module(wheel.folder, INIT, "-Wl,--no-as-needed", tmp_path / library)
    assert complaints("libraries", wheel) == [f"_cpu needs {library}"]


def test_exported_symbols(wheel):
    build_module(wheel.folder, f"{INIT}{EXPORT}int extra;")
    assert complaints("symbols", wheel) == ["_cpu exports ['PyInit__cpu', 'extra'], not PyInit__cpu alone"]
    build_module(wheel.folder, INIT.replace("PyInit__cpu", "PyInit__other"))
    assert complaints("symbols", wheel) == ["_cpu exports ['PyInit__other'], not PyInit__cpu alone"]


@pytest.mark.parametrize(
    "symbol",
    ["_ZN3c104WarnD1Ev", "_ZN2at4_ops5empty", "_ZNK5torch3jit4Node", "_ZNR5torch7Library4_def", "aoti_torch_x"],
)
def test_symbols_of_torch(wheel, symbol):
    build_module(
        wheel.folder, f"{INIT}int {symbol}(void); int g(void);{EXPORT} int PyInit_x(void) {{return {symbol}();}}"
    )
    assert f"_cpu uses torch's symbol {symbol}" in complaints("symbols", wheel)


AUDIT = {"sym_tag": TAG, "external_libs": {"libgomp.so.1": "/lib/libgomp.so.1"}}


@pytest.mark.parametrize(
    "found, tag, complaint",
    [
        ({}, TAG, None),
        ({}, f"manylinux_2_27_x86_64.{TAG}", None),
        ({}, f"linux_x86_64.{TAG}", "not portable"),
        ({"sym_tag": "manylinux_2_34_x86_64"}, TAG, "its symbols need manylinux_2_34_x86_64"),
        ({"external_libs": {"libgomp.so.1": "", "libcudart.so.13": ""}}, TAG, "needs libcudart.so.13 from outside"),
    ],
)
def test_platform_tag(wheel, monkeypatch, found, tag, complaint):
    """Against what auditwheel says; `make wheel` runs auditwheel itself."""
    monkeypatch.setattr(check_wheel, "output", lambda *command: json.dumps(AUDIT | found))
    wheel.path = Path(f"contrastile-1-cp311-cp311-{tag}.whl")
    said = complaints("platform", wheel)
    assert said == [] if complaint is None else len(said) == 1 and complaint in said[0]


@X86
@pytest.mark.parametrize(
    "name, source, options, complaint",
    [
        ("cpu-bind", KERNEL, ["-mavx2"], "uses ymm registers, not xmm"),
        ("cpu-kernel_generic", KERNEL, ["-mavx512f", "-mprefer-vector-width=512"], "uses zmm registers, not xmm"),
        ("cpu-kernel_avx2", KERNEL, ["-mavx512f", "-mprefer-vector-width=512"], "uses zmm registers, not ymm"),
        ("cpu-kernel_avx512", KERNEL, ["-mavx2"], "uses ymm registers, not zmm"),
        ("cpu-kernel_avx2", f"__attribute__((weak)) {KERNEL}", ["-mavx2"], "has the weak symbol scale"),
        ("cuda-bind", KERNEL, ["-mavx2"], "uses ymm registers, not xmm"),
    ],
)
def test_instruction_sets(wheel, name, source, options, complaint):
    path = wheel.objects / f"{name}-1.o"
    compile_c(source, path, "-c", *options)
    assert complaints("instruction_sets", wheel) == [f"{path.name} {complaint}"]


def test_objects_are_those_of_a_build(wheel):
    for path in wheel.objects.iterdir():
        path.unlink()
    assert complaints("instruction_sets", wheel) == [f"no kernel object in {wheel.objects}"]


def listing(units, archs, kind):
    return "".join(f"ELF file 1: _cuda.1.{arch}.{kind}\n" for arch in archs for _ in range(units))


@pytest.mark.parametrize(
    "elf, ptx, option",
    [
        (listing(4, ["sm_80", "sm_90a"], "cubin"), listing(4, ["sm_90"], "ptx"), None),
        (listing(4, ["sm_80"], "cubin"), listing(4, ["sm_90"], "ptx"), "-lelf"),
        (listing(4, ["sm_80", "sm_90a", "sm_75"], "cubin"), listing(4, ["sm_90"], "ptx"), "-lelf"),
        (
            listing(4, ["sm_80", "sm_90a"], "cubin") + listing(1, ["sm_80"], "cubin"),
            listing(4, ["sm_90"], "ptx"),
            "-lelf",
        ),
        (listing(4, ["sm_80", "sm_90a"], "cubin"), "", "-lptx"),
        (listing(4, ["sm_80", "sm_90a"], "cubin"), listing(4, ["sm_80"], "ptx"), "-lptx"),
    ],
)
def test_cuda_code(wheel, monkeypatch, elf, ptx, option):
    """Against what cuobjdump lists; `make wheel CUDA=1` runs cuobjdump itself."""
    wheel.archs = ["80", "90a"]
    shutil.copy(wheel.modules["_cpu"], wheel.folder / "contrastile/_cuda.so")
    monkeypatch.setattr(check_wheel, "list_code", lambda wheel, option: {"-lelf": elf, "-lptx": ptx}[option])
    said = complaints("cuda_code", wheel)
    assert said == [] if option is None else len(said) == 1 and f"cuobjdump {option} lists" in said[0]


def test_one_complaint_fails_the_check(wheel, monkeypatch, capsys):
    arguments = ["check_wheel.py", str(wheel.path), "--objects", str(wheel.objects)]
    monkeypatch.setattr(check_wheel, "GATES", (check_wheel.contents, check_wheel.libraries))
    monkeypatch.setattr(sys, "argv", arguments)
    assert check_wheel.main() == 0
    assert "passed 2 gates" in capsys.readouterr().out
    with zipfile.ZipFile(wheel.path, "a") as archive:
        archive.writestr("tests/extra.py", "")
    assert check_wheel.main() == 1
    assert capsys.readouterr().out == "FAILED contents: tests/extra.py does not belong into the wheel\n"


def test_every_gate_runs():
    functions = [x for x in vars(check_wheel).values() if inspect.isfunction(x)]
    gates = {x for x in functions if inspect.signature(x).return_annotation == Iterator[str]}
    assert set(check_wheel.GATES) == gates


def test_both_ways_to_a_release_make_the_same_architectures():
    in_makefile = re.search(r"CONTRASTILE_CUDA_ARCHS = .*?((?:\d+;)+\d+)", (ROOT / "Makefile").read_text())
    in_config = re.search(r'CONTRASTILE_CUDA_ARCHS = "(.*)"', (ROOT / "pyproject.toml").read_text())
    assert in_makefile[1] == in_config[1]
