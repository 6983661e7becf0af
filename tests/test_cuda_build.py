"""The CUDA kernels under nvcc: every architecture compiles, no register is spilled, memory moves 16 bytes at a time."""

import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import repeat
from pathlib import Path

import pytest

from support.combinations import by_default

ROOT = Path(__file__).resolve().parents[1]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not on PATH nor in /usr/local/cuda/bin")

# an installation compiles for all of them
ARCHS = by_default(("80", "90", "100"), "90")
MOST_REGISTERS = 128  # two blocks of 256 threads on one multiprocessor
FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-Werror", "all-warnings", f"-I{ROOT / 'csrc'}"]
# reduces x ((rows, columns) x (dot or not), merge) x (with more numbers or not), those of a target; reduces x (dot or
# not), that of a target, sums joined; types of vectors x (forward, backward)
KERNELS = {
    "stats": 4 * (2 + 2 + 1) * 2 + 3, "score_grad": 3 * 2 + 1 + 1, "basis": 4 * 2, "small_call": 1, "segment_max": 1
}  # fmt: skip


Compiled = Callable[[str], dict[str, tuple[str, str]]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Architecture -> source -> (what ptxas says, the PTX)."""
    folder = tmp_path_factory.mktemp("cubin")

    def compile_one(name: str, arch: str) -> tuple[str, str]:
        kept = folder / f"{name}-{arch}"
        kept.mkdir()
        command = [str(NVCC), *FLAGS, f"-arch=sm_{arch}", str(ROOT / f"csrc/cuda/{name}.cu"), "-cubin"]
        options = ["-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror", "--keep", "--keep-dir", str(kept)]
        said = run([*command, *options, "-o", str(kept / "cubin")])
        return said, (kept / f"{name}.ptx").read_text()

    @cache
    def compile_all(arch: str) -> dict[str, tuple[str, str]]:
        with ThreadPoolExecutor(2) as pool:
            return dict(zip(KERNELS, pool.map(compile_one, KERNELS, repeat(arch)), strict=False))

    return compile_all


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", KERNELS)
def test_no_spills_and_a_budget_of_registers(compiled, name, arch):
    said, _ = compiled(arch)[name]
    registers = [int(x) for x in re.findall(r"Used (\d+) registers", said)]
    spilled = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    shared = [int(x) for x in re.findall(r"(\d+) bytes smem", said)]
    print(f"{name} sm_{arch}: registers {min(registers)} to {max(registers)}, shared memory up to {max(shared)} bytes")
    assert len(registers) == len(spilled) == KERNELS[name]
    assert set(spilled) == {("0", "0", "0")}
    assert max(registers) <= MOST_REGISTERS


@pytest.mark.parametrize("arch", ARCHS)
def test_memory_moves_16_bytes_at_a_time(compiled, arch):
    for name in set(KERNELS) - {"small_call"}:  # it reads some numbers per item
        assert re.search(r"ld\.global(\.nc)?\.v4\.(f32|b32|u32)", compiled(arch)[name][1]), name
    for store in ("v4.f32", "v2.u32"):  # float32; bfloat16, 8 bytes
        assert f"st.global.cg.{store}" in compiled(arch)["score_grad"][1]
    assert "st.global.cg.v4.u32" in compiled(arch)["basis"][1]


@pytest.mark.parametrize("arch", ARCHS)
def test_no_atomics(compiled, arch):
    """Equal bits in every run."""
    for name in KERNELS:
        assert not re.search(r"^\s*(@\S+\s+)?(atom|red)\.", compiled(arch)[name][1], re.MULTILINE)
