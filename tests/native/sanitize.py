"""Runs native code compiled with the sanitizers of g++: `make sanitize`. Linux.

    python tests/native/sanitize.py FOLDER memory    # AddressSanitizer, UndefinedBehaviorSanitizer: CPU kernels
    python tests/native/sanitize.py FOLDER host      # the same: CUDA kernels, which the host executor runs
    python tests/native/sanitize.py FOLDER threads   # ThreadSanitizer: CPU kernels

FOLDER gets what is compiled. The first error that a sanitizer sees ends the run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from support import thread_sanitizer  # noqa: E402
from support.replay import run  # noqa: E402

COMPILER = shutil.which("g++")
EACH = "(test_ragged_shapes and (cpu-float32 or cpu-bfloat16)) or (test_square and cpu-float32 and 37)"
STRONGEST = """(test_every_reduce_keep_and_positives and cpu-bfloat16) or (every_score and cpu)
    or (test_rows_and_columns_in_many_pieces and cpu) or (test_batches_of_many_chunks and cpu)
    or (test_native_struct and not host) or (test_kept_scores and cpu) or test_one_call_each_way"""
FILES = ("pair", "small_stats", "distances", "triangle", "matryoshka", "native_struct")
HOST = "(test_every_reduce_keep_positives_score_and_side and (lse or max) and same_id) or (test_native_struct and host)"
HOST_FILES = ("cuda_host", "native_struct")


def library(name: str) -> str:
    """That of the compiler: it has to be the first in the process, which is not compiled with it."""
    return subprocess.run([str(COMPILER), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()


def sanitized() -> dict[str, str]:
    """The environment of a process that loads such code."""
    return {
        "CONTRASTILE_SANITIZE": "1",
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaks
    }


def tests(files: Sequence[str], chosen: str, *options: str, **environment: str) -> None:
    # capture=sys: what a sanitizer says before it ends the process is seen
    pytest = (sys.executable, "-m", "pytest", "-x", "--capture=sys", "-p", "no:cacheprovider", *options)
    run(*pytest, *(f"tests/test_{name}.py" for name in files), "-k", chosen.replace("\n", " "), **environment)


def memory(folder: Path) -> None:
    build = {"CONTRASTILE_SANITIZE": "1", "CONTRASTILE_CPU": "1", "CONTRASTILE_CUDA": "0"}
    run(sys.executable, "setup.py", "-q", "build_ext", "-b", folder, "-t", folder, **build)
    (module,) = folder.rglob("_cpu*.so")
    more = sanitized() | {"CONTRASTILE_SANITIZED": str(module), "PYTHONPATH": str(ROOT / "tests/native")}
    ask = "import sanitized_module as m; print(*m.module.supported_isas())"
    isas = run(sys.executable, "-c", ask, **more).split()
    for isa in isas:
        chosen = f"{EACH} or {STRONGEST}" if isa == isas[-1] else EACH
        tests(FILES, chosen, "-p", "sanitized_module", CONTRASTILE_CPU_ISA=isa, **more)


def host(_: Path) -> None:
    tests(HOST_FILES, HOST, **sanitized())


def threads(folder: Path) -> None:
    calls, program = thread_sanitizer.record(folder), thread_sanitizer.build(folder)
    done = thread_sanitizer.sanitized(program, calls, thread_sanitizer.THREADS)
    print(done.stdout, done.stderr, sep="", end="", flush=True)
    if done.returncode:
        sys.exit(f"{program}: exit code {done.returncode}")
    if " 0 " in done.stdout.partition(" calls of")[0]:
        sys.exit("a kernel was not called")


def main(folder: Path, part: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    {"memory": memory, "host": host, "threads": threads}[part](folder)


if __name__ == "__main__":
    if COMPILER is None or not sys.platform.startswith("linux"):
        sys.exit("make sanitize needs g++ on Linux")
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
