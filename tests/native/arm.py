"""Runs the kernels of 64-bit ARM under an emulator: `make arm`. Linux, with g++-aarch64-linux-gnu and qemu-user.

    python tests/native/arm.py FOLDER

Tests of the package run here on the generic kernel, 4 floats wide as on ARM, with products of bfloat16 pairs written
out; what its kernels are given and leave behind is recorded. The kernels compiled for ARM repeat every call on an
emulated processor without bfloat16 and on one with it, and must leave the same.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from support.replay import build, record, run  # noqa: E402
from support.scripts import load_script  # noqa: E402

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PROCESSORS = {"cortex-a72": ["generic"], "max": ["generic", "neonbf16"]}
FILES = ("pair", "distances", "triangle", "matryoshka", "small", "segment_reduce", "sides", "targets")
CHOSEN = """cpu and (every_reduce or every_score or square or kept_scores or segment or ragged_shapes or many_pieces)
    or small or prefixes or target"""


def build_module(folder: Path) -> Path:
    """The native module of this machine, with the generic kernel alone."""
    setup = load_script("setup.py")
    output = folder / "_cpu.so"
    command = [*setup.CXX, *setup.HOST_FLAGS, "-fopenmp", "-DCONTRASTILE_LIKE_ARM", f"-I{setup.CSRC}"]
    sources = [setup.CSRC / "cpu/bind.cpp", setup.CSRC / "cpu/kernel_generic.cpp"]
    run(*command, *setup.python_headers(), "-shared", *sources, "-o", output)
    return output


def build_replay(folder: Path) -> Path:
    """For ARM, with everything in it, so that the emulator needs no libraries."""
    setup = load_script("setup.py")
    command = [COMPILER, *setup.HOST_FLAGS, "-fopenmp", "-Werror", f"-I{setup.CSRC}"]
    flags = {"kernel_generic": setup.KERNEL, "kernel_neonbf16": setup.NEONBF16}
    kernels = {setup.CSRC / f"cpu/{name}.cpp": [*command, *own] for name, own in flags.items()}
    return build(folder, kernels, command, [*command, "-static"])


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    replay = build_replay(folder)
    files = [f"tests/test_{name}.py" for name in FILES]
    calls = record(folder, build_module(folder), *files, "-k", CHOSEN.replace("\n", " "))
    for processor, expected in PROCESSORS.items():
        print(f"{processor}:", flush=True)
        said = run(EMULATOR, "-cpu", processor, replay, calls)
        found = [line.partition(":")[0] for line in said.splitlines() if line.endswith(" 0 differ")]
        if found != expected:
            sys.exit(f"{processor} runs {found}, not {expected}")


if __name__ == "__main__":
    if None in (shutil.which(COMPILER), shutil.which(EMULATOR)):
        sys.exit(f"make arm needs {COMPILER} and {EMULATOR} (Debian: g++-aarch64-linux-gnu, qemu-user)")
    main(Path(sys.argv[1]).resolve())
