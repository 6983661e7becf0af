"""Installs a release as its users do and runs it, away from the source tree.

    python packaging/check_install.py FOLDER

FOLDER holds one source distribution and one wheel of it. One new environment with torch and nothing of this project
gets, one after the other: the wheel, with the tests of its imports; the source distribution where there is no compiler;
an editable install with and one without build isolation. pip finds torch as it is set up to (PIP_EXTRA_INDEX_URL,
PIP_FIND_LINKS).
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "requirements-dev.txt"
TESTS = [ROOT / "tests" / name for name in ("test_imports.py", "test_importing.py", "test_public.py")]
OWN_VARIABLES = ("PYTHON", "CONTRASTILE", "CXX", "CUDA_HOME", "CUDA_PATH")  # of the caller; a user has none

LOSS = """
import sys
import torch, contrastile
backend, folder = sys.argv[1:]
assert contrastile.__file__.startswith(folder), contrastile.__file__
x = torch.nn.functional.normalize(torch.linspace(-9, 9, 37 * 8).view(37, 8).sin(), dim=1)
leaf, twin = x.clone().requires_grad_(), x.clone().requires_grad_()
contrastile.clip_loss(leaf, x.flip(1), 10.0, backend=backend).backward()
contrastile.reference.clip_loss(twin, x.flip(1), 10.0).backward()
torch.testing.assert_close(leaf.grad, twin.grad)
print("a loss and its gradient on", backend, "from", folder)
"""


class Environment:
    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)

    def run(self, *command: object, **variables: str) -> str:
        """Standard output of a command in this environment."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(OWN_VARIABLES)}
        clean["OMP_WAIT_POLICY"] = "passive"  # threads that spin take minutes on a machine that has other work
        words = [str(self.bin / "python"), *map(str, command)]
        done = subprocess.run(words, cwd=self.folder, env=clean | variables, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}")
        return done.stdout

    def pip(self, *words: object, **variables: str) -> None:
        self.run("-m", "pip", "-q", "--disable-pip-version-check", *words, **variables)

    def works(self, module: str, backend: str, folder: Path) -> None:
        """The package is read from this folder, says this of its module _cpu, and computes a loss."""
        report = json.loads(self.run("-m", "contrastile", "info", "--json"))
        found = report["native modules"]["_cpu"]
        assert module in found, f"_cpu: {found!r}, expected {module!r}"
        assert not report["warnings"], report["warnings"]  # two OpenMP runtimes would be one
        print(self.run("-c", LOSS, backend, folder), end="", flush=True)


def main() -> None:
    release = Path(sys.argv[1]).resolve()
    (sdist,), (wheel,) = release.glob("*.tar.gz"), release.glob("*.whl")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "source", filter="data")
        (source,) = (folder / "source").iterdir()
        env = Environment(folder / "env")
        env.pip("install", "-c", PINS, "torch", "numpy")

        env.pip("install", wheel)
        env.pip("check")
        env.works("loaded", "cpu", env.folder)
        print(env.run("-m", "contrastile", "info"))
        env.run("-m", "contrastile", "selftest")
        env.pip("install", "-c", PINS, "pytest")
        env.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", *TESTS)
        env.pip("uninstall", "-y", "contrastile")

        env.pip("install", sdist, PATH=str(env.bin))  # no compiler, no nvcc
        env.works("No module named", "torch", env.folder)
        env.run("-m", "contrastile", "selftest")
        env.pip("uninstall", "-y", "contrastile")

        env.pip("install", "-e", source, CONTRASTILE_CUDA="0")
        env.works("loaded", "cpu", source)
        env.pip("uninstall", "-y", "contrastile")

        env.pip("install", "-c", PINS, "setuptools", "pybind11")
        env.pip("install", "--no-build-isolation", "-e", source, CONTRASTILE_CUDA="0")
        env.works("loaded", "cpu", source)


if __name__ == "__main__":
    main()
