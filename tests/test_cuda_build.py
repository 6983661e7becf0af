"""The CUDA module as setup.py builds it with nvcc: every architecture compiles, no register is spilled, memory moves 16
bytes at a time, and it can be imported where there is no device."""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from support.build import run, symbols
from support.combinations import by_default
from support.scripts import ROOT

pytest.importorskip("pybind11", reason="the build requirements are not installed")
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not on PATH nor in /usr/local/cuda/bin")

# an installation compiles for all of them, and basis.cu, which unrolls loops over a set's vectors, for sets of six; the
# time that takes grows with their square
SETS = {"90": 3}
ARCHS = by_default(("80", "90", "100", "90, sets of six"), "90")
MOST_REGISTERS = 128  # two blocks of 256 threads on one multiprocessor
STRICT = "-Werror all-warnings -Xptxas -v,-warn-spills,-warn-lmem-usage,-Werror --keep --keep-dir"
# reduces x ((rows, columns) x (dot or not), merge) x (with more numbers or not), those of a target; reduces x (dot or
# not), that of a target, sums joined; types of vectors x (forward, backward);
# reduces over segments, types of their score gradients
KERNELS = {
    "stats": 4 * (2 + 2 + 1) * 2 + 3, "score_grad": 3 * 2 + 1 + 1, "basis": 4 * 2, "small_call": 1, "segments": 2 + 3
}  # fmt: skip


@dataclass
class Built:
    module: Path
    said: dict[str, str]  # by ptxas of each source
    ptx: dict[str, str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """By name of ARCHS."""

    @cache
    def build(name: str) -> Built:
        folder, arch = tmp_path_factory.mktemp("cuda"), name.partition(",")[0]
        tree = small_sets(folder / "tree", SETS[name]) if name in SETS else ROOT
        (folder / "kept").mkdir()
        env = {"CONTRASTILE_CPU": "0", "CONTRASTILE_CUDA": "1", "CONTRASTILE_CUDA_ARCHS": arch}
        env |= {"CONTRASTILE_OBJECTS": str(folder / "objects"), "NVCC_APPEND_FLAGS": f"{STRICT} {folder / 'kept'}"}
        env |= {"MAX_JOBS": "1", "CUDA_HOME": str(Path(str(NVCC)).parents[1])}  # one by one, to tell who says what
        options = ("--build-lib", folder / "lib", "--build-temp", folder / "temp")
        done = run(sys.executable, "-c", BUILD, "build_ext", *options, cwd=tree, **env)
        assert done.returncode == 0, done.stdout[-5_000:]
        _, *parts = re.split(r"-c \S*/csrc/cuda/(\w+)\.\w+ -o", done.stdout)
        said = dict(zip(parts[::2], parts[1::2], strict=True))
        (module,) = (folder / "lib/contrastile").glob("_cuda*")
        return Built(module, said, {name: (folder / f"kept/{name}.ptx").read_text() for name in KERNELS})

    return build


# what the compilers say goes where the commands are printed, in order
BUILD = "import os, runpy; os.dup2(1, 2); runpy.run_path('setup.py', run_name='__main__')"


def small_sets(tree: Path, size: int) -> Path:
    """The repository but for LARGEST_SET."""
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("csrc", "build", ".git"):
            (tree / path.name).symlink_to(path)
    api = shutil.copytree(ROOT / "csrc", tree / "csrc") / "cuda/api.h"
    text = api.read_text()
    assert text.count("LARGEST_SET = 6") == 1
    api.write_text(text.replace("LARGEST_SET = 6", f"LARGEST_SET = {size}"))
    return tree


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", KERNELS)
def test_no_spills_and_a_budget_of_registers(built, name, arch):
    said = built(arch).said[name]
    registers = [int(x) for x in re.findall(r"Used (\d+) registers", said)]
    spilled = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    shared = [int(x) for x in re.findall(r"(\d+) bytes smem", said)]
    print(f"{name} sm_{arch}: registers {min(registers)} to {max(registers)}, shared memory up to {max(shared)} bytes")
    assert len(registers) == len(spilled) == KERNELS[name]
    assert set(spilled) == {("0", "0", "0")}
    assert max(registers) <= MOST_REGISTERS


@pytest.mark.parametrize("arch", ARCHS)
def test_memory_moves_16_bytes_at_a_time(built, arch):
    for name in set(KERNELS) - {"small_call"}:  # it reads some numbers per item
        assert re.search(r"ld\.global(\.nc)?\.v4\.(f32|b32|u32)", built(arch).ptx[name]), name
    for store in ("v4.f32", "v2.u32"):  # float32; bfloat16, 8 bytes
        assert f"st.global.cg.{store}" in built(arch).ptx["score_grad"]
    assert "st.global.cg.v4.u32" in built(arch).ptx["basis"]


@pytest.mark.parametrize("arch", ARCHS)
def test_no_atomics(built, arch):
    """Equal bits in every run."""
    for name in KERNELS:
        assert not re.search(r"^\s*(@\S+\s+)?(atom|red)\.", built(arch).ptx[name], re.MULTILINE)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_module_exports_its_init_function_only(built, arch):
    assert symbols(built(arch).module, "-D", "--defined-only") == [("T", "PyInit__cuda")]


WITHOUT_DEVICES = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
from contrastile.backends.native_struct import new
spec = spec_from_file_location("contrastile._cuda", sys.argv[1])
cuda = module_from_spec(spec)
spec.loader.exec_module(cuda)
count, code, name = cuda.device_count()
assert (count, code != 0, name) == (0, True, cuda.error_name(code)), (count, code, name)
assert name.startswith("cudaError") and cuda.error_string(code)
runtime, driver = cuda.versions()
assert runtime >= 11000 and driver >= 0
try:
    cuda.device_properties(0)
except RuntimeError as error:
    assert str(error).startswith("cudaError"), error
else:
    raise AssertionError("device_properties found a device")
for name in ("stats", "score_grad"):
    try:
        getattr(cuda, name)(new(cuda, "Block"))
    except RuntimeError as error:
        assert str(error).startswith(f"{name}: cudaError"), error
    else:
        raise AssertionError(f"{name} ran without a device")
print("ok", cuda.archs)
"""


@pytest.mark.parametrize("arch", ARCHS)
def test_the_module_imports_and_answers_without_a_device(built, arch):
    done = run(sys.executable, "-c", WITHOUT_DEVICES, built(arch).module, CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"ok {arch.partition(',')[0]}\n"
