"""A CPU wheel for each of these Pythons, repaired, checked and run: `make wheels PYTHONS="python3.10 python3.13"`.

    python packaging/wheels.py FOLDER PYTHON...

All are built from one source distribution, in environments of their own below build/wheels, which keeps the objects:
kernels are compiled once. Torch is not needed: the native module is loaded and used by itself (check_module.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "build/wheels"
BUILD = {"CONTRASTILE_CPU": "1", "CONTRASTILE_CUDA": "0", "CONTRASTILE_OBJECTS": str(WORK / "objects")}


class Environment:
    def __init__(self, python: str) -> None:
        ask = "import sys; print(*sys.version_info[:2], sep='.')"
        version = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
        self.bin, self.out = WORK / version / "bin", WORK / version / "wheel"
        if not (self.bin / "auditwheel").exists():
            subprocess.run([python, "-m", "venv", WORK / version], check=True)
            self.run("-m", "pip", "-q", "--disable-pip-version-check", "install", "-r", HERE / "requirements.txt")
        shutil.rmtree(self.out, ignore_errors=True)

    def run(self, *words: object) -> None:
        """A module or a script on this Python."""
        environment = os.environ | BUILD | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run([self.bin / "python", *map(str, words)], check=True, env=environment)

    def wheel(self, source: Path, release: Path) -> None:
        self.run("-m", "build", "--wheel", "-o", self.out, source)
        (found,), repaired = self.out.glob("*.whl"), self.out / "repaired"
        self.run("-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", "-w", repaired, found)
        (found,) = repaired.glob("*.whl")
        self.run(HERE / "check_wheel.py", found, "--objects", WORK / "objects")
        self.run(HERE / "check_module.py", found)
        shutil.copy(found, release)


def main() -> None:
    release, pythons = Path(sys.argv[1]).resolve(), sys.argv[2:]
    release.mkdir(parents=True, exist_ok=True)
    environments = [Environment(python) for python in pythons]
    shutil.rmtree(WORK / "source", ignore_errors=True)
    environments[0].run("-m", "build", "--sdist", "-o", WORK / "source", HERE.parent)
    (archive,) = (WORK / "source").glob("*.tar.gz")
    shutil.unpack_archive(archive, WORK / "source", filter="data")
    (source,) = (x for x in (WORK / "source").iterdir() if x.is_dir())
    for environment in environments:
        environment.wheel(source, release)


if __name__ == "__main__":
    main()
