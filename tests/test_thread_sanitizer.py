"""ThreadSanitizer, with the OpenMP runtime of tests/native/openmp.cpp, reports a race where threads are not ordered and
nothing where they are: of a small program, and of the CPU kernels with one error."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrastile.backends import native
from support import thread_sanitizer
from support.cuda_host import compiler, edited, execute

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs g++ on Linux")
PROGRAM = """
#include <omp.h>
#include <cstdio>
#include <cstring>
constexpr int COUNT = 100;
static long own[COUNT], other[COUNT];
int main(int, char** words) {
  const bool shared = !strcmp(words[1], "shared"), early = !strcmp(words[1], "early");
  int most = 0;
#pragma omp parallel num_threads(4)
  {
    if (omp_get_thread_num() == 2) most = omp_get_num_threads();
#pragma omp for schedule(dynamic, 3)
    for (int k = 0; k < COUNT; ++k) {
      own[shared ? 0 : k] += k;
      if (early) other[k] = own[(k + 3) % COUNT];
    }
#pragma omp for schedule(guided, 1)
    for (int k = 0; k < COUNT; k += 2)
      for (int i = k; i < k + 2; ++i) other[i] = own[COUNT - 1 - i];
  }
  long total = 0;
  for (long x : other) total += x;
  printf("%d threads, %ld", most, total);
}
"""
MUTANTS = {  # file, text, and what it becomes
    "one place for columns": ("cpu/stats.inc", "(Side*)working.results(share)", "(Side*)working.results(0)"),
    "one sum of columns": ("cpu/score_grad.inc", "(float*)working.results(share)", "(float*)working.results(0)"),
    "joined too early": ("cpu/stats.inc", "Side* parts =", "if (cols) x->col.total[0] += 1;\n    Side* parts ="),
    "memory for two shares": ("cpu/walk.inc", "+ share.bytes * k;", "+ share.bytes * (k / 2);"),
    "a strip of two shares": ("cpu/walk.inc", "(share + 1) / shares;", "(share + 1) / shares + (share == 0);"),
    "rows of two parts": ("cpu/gemm.inc", "? from + rows :", "? from + rows + MR :"),
    "a product before its panels": ("cpu/gemm.inc", "__atomic_load_n(&done, __ATOMIC_ACQUIRE) < count()", "false"),
    "a count that is not atomic": ("cpu/gemm.inc", "__atomic_fetch_add(&taken, 1, __ATOMIC_RELAXED)", "taken++"),
    "one panel": ("cpu/tile.inc", "out + p * NR * len,", "out + (p & ~1) * NR * len,"),
    "one strip of segments": ("cpu/segments.inc", "buffers + share * MR * len)", "buffers)"),
    "one row of gradients": ("cpu/segments.inc", "x.grad_b + column * x.d,", "x.grad_b,"),
    "one sample": ("cpu/basis.inc", "memory.data + share * one.bytes", "memory.data"),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    source, output = folder / "program.cpp", folder / "program"
    source.write_text(PROGRAM)
    flags = (str(compiler()), "-fopenmp", *thread_sanitizer.FLAGS)
    objects = [str(folder / f"{x.stem}.o") for x in (source, thread_sanitizer.RUNTIME)]
    for path, made in zip((source, thread_sanitizer.RUNTIME), objects, strict=True):
        execute([*flags, "-c", str(path), "-o", made])
    execute([str(compiler()), "-fsanitize=thread", *objects, "-o", str(output)])
    return output


def test_loops_that_are_right(program: Path) -> None:
    done = thread_sanitizer.sanitized(program, "right")
    assert (done.returncode, done.stdout, done.stderr) == (0, "4 threads, 4950", "")


@pytest.mark.parametrize("error", ["shared", "early"])
def test_loops_with_a_race(program: Path, error: str) -> None:
    """A sum that all threads add to, and one that is read before the loop's end."""
    done = thread_sanitizer.sanitized(program, error)
    assert done.returncode != 0
    assert "data race" in done.stderr


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return thread_sanitizer.record(tmp_path_factory.mktemp("calls"))


@pytest.mark.slow
@pytest.mark.skipif(native.cpu is None, reason="the cpu module is not built")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_race_in_a_cpu_kernel_is_reported(name: str, calls: Path, tmp_path: Path) -> None:
    replay = thread_sanitizer.build(tmp_path, edited(tmp_path, MUTANTS[name]))
    done = thread_sanitizer.sanitized(replay, calls, thread_sanitizer.THREADS)
    assert done.returncode != 0
    assert "data race" in done.stderr, done.stderr[-2000:]
