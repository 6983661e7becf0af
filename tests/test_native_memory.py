"""Working memory of the CPU kernels: a process without it gets MemoryError and lives on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contrastile.backends.cpu import CpuBackend

pytest.importorskip("contrastile._cpu")

HUGE = """
from contrastile import _cpu
from contrastile.backends.native_struct import new
for d in (1 << 50, 1 << 61):  # more than any machine has; bytes beyond int64
    for threads in (1, 3):
        problem, block = new(_cpu, "SmallCall"), new(_cpu, "Block")
        block.n, block.m, block.d, block.threads = 1, 1, d, threads
        problem.block = block
        product = dict(a=0, a_row=1, a_col=1, b=0, b_row=1, b_col=1, c=0, c_row=d, m=1, n=d, k=1, dtype=0)
        for call in (
            lambda: _cpu.stats([block]), lambda: _cpu.score_grad([block]), lambda: _cpu.small_call(problem),
            lambda: _cpu.gemm(**product, threads=threads, add=True),
        ):
            try:
                call()
            except MemoryError as error:
                print(error)
"""
LIMITED = """
import resource
import torch
from contrastile import _cpu
torch.set_num_threads(1)
b = torch.ones(64, 1 << 18)
a, c = b[:1], torch.zeros(1, 64)
def product():
    _cpu.gemm(a=a.data_ptr(), a_row=1 << 18, a_col=1, b=b.data_ptr(), b_row=1 << 18, b_col=1, c=c.data_ptr(), c_row=64,
              m=1, n=64, k=1 << 18, dtype=0, threads=1, add=True)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.RLIM_INFINITY))  # the panels take 8 MiB
try:
    product()
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
product()
assert (c == 1 << 18).all()
"""


def said(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sizes_that_no_machine_has():
    assert said(HUGE).count("no memory for the working buffers") == 16


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_at_its_limit_raises_and_goes_on():
    assert "no memory for the working buffers" in said(LIMITED)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
@pytest.mark.parametrize("size, large", [(40 << 20, True), (1 << 20, False)])
def test_large_scores_ask_for_large_pages(size, large):
    scores = CpuBackend().memory(size // 4, torch.float32, torch.device("cpu"))
    middle, inside = scores.data_ptr() + size // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= middle < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            assert ("hg" in line.split()) == large


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_score_gradients_do_not_lie_whole_pages_apart(dtype):
    backend = CpuBackend()
    for columns in (1000, 1024, 2048, 4096):
        stride = backend.grad_stride(columns, dtype)
        assert stride >= columns and stride % backend.padding == 0 and stride * dtype.itemsize % 4096


def test_packed_columns_count_without_overflow():
    from contrastile import _cpu

    assert _cpu.packed_bytes(m=1 << 40, d=1 << 40, dtype=0) == 2**63 - 1
