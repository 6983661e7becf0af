"""What a wheel must satisfy before it is released. Linux: needs readelf, nm and objdump, and cuobjdump for CUDA.

    python packaging/check_wheel.py WHEEL --objects FOLDER [--archs "80;90"]

FOLDER holds the object files of this build (CONTRASTILE_OBJECTS). With --archs the wheel must have the CUDA module,
made for exactly these architectures and with the PTX of the last; without, it must not have it.
Each gate says in words what is wrong; one complaint fails the check.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"contrastile": ROOT / "python/contrastile", "contrastile/triton_kernels": ROOT / "triton_kernels"}
PACKAGED = (".py", ".pyi", ".json", ".typed")
# 1.2 times what was measured: 1.29 MB without CUDA, of which Python is a half; 1.5 times: 3.2 MB with six
# architectures, before the kernels of CUDA had positives apart
LARGEST_CPU, LARGEST_CUDA = 1_550_000, 5_000_000

OPENMP = "libgomp.so.1"  # torch brings it; a second copy would be a second thread pool
LIBRARIES = {OPENMP, "libstdc++.so.6", "libgcc_s.so.1"}
LIBRARIES |= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"}  # glibc; one library since 2.34
LIBRARIES |= {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
TORCH_SYMBOL = re.compile(r"_ZN[KRO]?(2at|3c10|5torch)|aoti_torch")

# the widest registers that the code of an object may use, and must, so that a misread object shows
WIDEST = {"cpu-kernel_avx2": "ymm", "cpu-kernel_avx512": "zmm", "cpu-kernel_avx512bf16": "zmm"}


@dataclass
class Wheel:
    path: Path
    folder: Path  # where it is unpacked
    objects: Path
    archs: list[str]

    @property
    def names(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    @property
    def modules(self) -> dict[str, Path]:
        """Name -> file of each native module."""
        return {path.name.partition(".")[0]: path for path in sorted(self.folder.glob("contrastile/*.so"))}

    @property
    def platforms(self) -> list[str]:
        return self.path.stem.rpartition("-")[2].split(".")


Gate = Callable[[Wheel], Iterator[str]]


def output(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        raise SystemExit(f"{command[0]} is not installed")
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def size(wheel: Wheel) -> Iterator[str]:
    limit = LARGEST_CUDA if wheel.archs else LARGEST_CPU
    found = wheel.path.stat().st_size
    if found > limit:
        yield f"{found:,} bytes, the limit is {limit:,}"


def contents(wheel: Wheel) -> Iterator[str]:
    """The package as it is in this source tree and its modules; no tests, sources, libraries or other packages."""
    expected = set()
    for package, source in SOURCES.items():
        files = [path for path in source.rglob("*") if path.suffix in PACKAGED]
        expected |= {f"{package}/{path.relative_to(source)}" for path in files}
    native = {str(path.relative_to(wheel.folder)) for path in wheel.modules.values()}
    info = {name for name in wheel.names if name.partition("/")[0].endswith(".dist-info")}
    for name in sorted(expected - wheel.names):
        yield f"{name} is missing"
    for name in sorted(wheel.names - expected - native - info):
        yield f"{name} does not belong into the wheel"
    wanted = ["_cpu", "_cuda"] if wheel.archs else ["_cpu"]
    if list(wheel.modules) != wanted:
        yield f"native modules are {list(wheel.modules)}, not {wanted}"
    if not any(name.endswith("/licenses/LICENSE") for name in info):
        yield "the licence file is missing"


def libraries(wheel: Wheel) -> Iterator[str]:
    for name, path in wheel.modules.items():
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-dW", path)))
        if not needed:
            raise SystemExit(f"readelf lists no library that {path.name} needs: misread")
        yield from (f"{name} needs {library}" for library in sorted(needed - LIBRARIES))


def symbols(wheel: Wheel) -> Iterator[str]:
    for name, path in wheel.modules.items():
        exported = {line.split()[0] for line in output("nm", "-DP", "--defined-only", path).splitlines()}
        if exported != {f"PyInit_{name}"}:
            yield f"{name} exports {sorted(exported)}, not PyInit_{name} alone"
        imported = [line.split()[0] for line in output("nm", "-DP", "--undefined-only", path).splitlines()]
        yield from (f"{name} uses torch's symbol {symbol}" for symbol in imported if TORCH_SYMBOL.match(symbol))


def platform(wheel: Wheel) -> Iterator[str]:
    """The tag says what auditwheel finds; the OpenMP runtime is the only library taken from outside the tag's own."""
    audit = json.loads(output("auditwheel", "show", "--json", wheel.path))
    if not all(tag.startswith(("manylinux", "musllinux")) for tag in wheel.platforms):
        yield f"tags {wheel.platforms} are not portable: auditwheel repair did not run"
    if audit["sym_tag"] not in wheel.platforms:
        yield f"tagged {wheel.platforms}, but its symbols need {audit['sym_tag']}"
    yield from (f"needs {name} from outside" for name in audit["external_libs"] if name != OPENMP)


def instruction_sets(wheel: Wheel) -> Iterator[str]:
    """Code for a wide instruction set is reached by the run-time choice alone.

    The linker may give one file's weak symbol (an inline function of the C++ library, say) to all files, so a kernel
    object has none; and no object but a kernel's has wide registers.
    """
    found = sorted(wheel.objects.glob("*.o"))
    if not any(path.name.startswith("cpu-kernel_") for path in found):
        yield f"no kernel object in {wheel.objects}"
    for path in found:
        name = path.stem.rpartition("-")[0]
        if name.startswith("cpu-kernel_"):
            shared = [line.split()[:2] for line in output("nm", "-P", path).splitlines()]
            yield from (f"{path.name} has the weak symbol {symbol}" for symbol, kind in shared if kind in "WVu")
        widest = max(re.findall(r"%([xyz]mm)\d", output("objdump", "-d", path)), default="xmm")
        if widest != WIDEST.get(name, "xmm"):
            yield f"{path.name} uses {widest} registers, not {WIDEST.get(name, 'xmm')}"


def cuda_code(wheel: Wheel) -> Iterator[str]:
    """Every .cu file has code for every architecture, and the PTX of the newest."""
    if not wheel.archs or "_cuda" not in wheel.modules:
        return
    wanted = {f"sm_{arch}" for arch in wheel.archs}
    for option, expected in (("-lelf", wanted), ("-lptx", {f"sm_{wheel.archs[-1].rstrip('af')}"})):
        listed = Counter(re.findall(r"\.(sm_\w+)\.(?:cubin|ptx)$", list_code(wheel, option), re.MULTILINE))
        if set(listed) != expected or len(set(listed.values())) != 1:
            yield f"cuobjdump {option} lists {dict(listed)}, not {sorted(expected)} equally often"


def list_code(wheel: Wheel, option: str) -> str:
    pip = Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/cuobjdump")  # of nvidia-cuda-cuobjdump
    return output(shutil.which("cuobjdump") or next(pip, "cuobjdump"), option, wheel.modules["_cuda"])


GATES: tuple[Gate, ...] = (size, contents, libraries, symbols, platform, instruction_sets, cuda_code)


def check(path: Path, objects: Path, archs: list[str]) -> list[str]:
    """All complaints about a wheel."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        wheel = Wheel(path, Path(folder), objects, archs)
        return [f"{gate.__name__}: {text}" for gate in GATES for text in gate(wheel)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--objects", type=Path, required=True)
    parser.add_argument("--archs", default="", help="as CONTRASTILE_CUDA_ARCHS; empty: no CUDA module")
    options = parser.parse_args()
    complaints = check(options.wheel, options.objects, options.archs.replace(";", " ").split())
    for complaint in complaints:
        print(f"FAILED {complaint}")
    if not complaints:
        print(f"{options.wheel.name}: {options.wheel.stat().st_size:,} bytes, passed {len(GATES)} gates")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
