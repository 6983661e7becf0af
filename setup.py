"""Builds contrastile._cpu (where a C++ compiler works) and contrastile._cuda (where nvcc is found and torch has CUDA).

Both are pybind11 modules over raw pointers, without torch headers: one build serves every torch
version, and torch is not needed here. Environment, read at build time only (no GPU is inspected):

    CONTRASTILE_CPU=auto|0|1             auto: where it cannot be built, install without it; 1: fail
    CONTRASTILE_CUDA=auto|0|1            the same; auto tries it only where nvcc is found and the environment already
                                         has a torch with CUDA: it takes minutes, and no other torch could use it
    CONTRASTILE_CUDA_ARCHS="80;90a;100"  falls back to TORCH_CUDA_ARCH_LIST, then to DEFAULT_ARCHS
    CONTRASTILE_CUDA_BASIS=1|0           0: the CUDA module without the kernels of csrc/cuda/basis.cu, which take
                                         longer to compile than all others together; nothing but speed needs them
    CONTRASTILE_SANITIZE=0|1             1: _cpu with the sanitizers of addresses and of undefined behaviour
    CONTRASTILE_OBJECTS                  folder that keeps object files between builds (build/objects); those made on
                                         one machine serve another with the same compilers
    CUDA_HOME, CXX, CUDAHOSTCXX, NVCC_THREADS, MAX_JOBS
"""

import hashlib
import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ENV = os.environ
CSRC = Path(__file__).resolve().parent / "csrc"
# not in the build folder that pip gives, which it deletes
OBJECTS = Path(ENV.get("CONTRASTILE_OBJECTS") or CSRC.parent / "build" / "objects")
CXX = shlex.split(ENV.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), "g++"))
CUDA_HOME = ENV.get("CUDA_HOME") or ENV.get("CUDA_PATH")
NVCC = shutil.which("nvcc", path=f"{CUDA_HOME}/bin" if CUDA_HOME else None)
# For a build from source, in 0.6 of the time that the list of released wheels (Makefile) takes: code of 8.0 also runs
# on 8.6 and 8.9, the PTX of 10.0 on 12.0.
DEFAULT_ARCHS = ("80", "90", "100")
# never -Ofast or -ffast-math: linking with them switches denormals off for the whole process
HOST_FLAGS = """-std=c++17 -O3 -g0 -DNDEBUG -Wall -fPIC -fvisibility=hidden -ffunction-sections
    -fdata-sections -fno-math-errno -fno-trapping-math -fno-semantic-interposition""".split()
# without the checks that AddressSanitizer makes superfluous, which double the time to compile
SANITIZERS = """-O1 -g1 -fsanitize=address,undefined -fno-sanitize=null,object-size,pointer-overflow,vptr
    -fno-sanitize-recover=all""".split()
KERNEL = ["-fno-exceptions", "-fno-rtti"]  # their tables are shared symbols
AVX2 = [*KERNEL, "-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, *"-mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512".split()]
AVX512BF16 = [*AVX512, "-mavx512bf16"]
NEONBF16 = [*KERNEL, "-march=armv8.2-a+bf16"]
NVCC_FLAGS = """-std=c++17 -O3 -DNDEBUG --expt-relaxed-constexpr
    -Xcompiler -fPIC,-fvisibility=hidden -Xfatbin -compress-all
    -cudart static -Wno-deprecated-gpu-targets""".split()
LINK_FLAGS = f"""-shared -Wl,--gc-sections -Wl,--exclude-libs,ALL -Wl,-s -Wl,--as-needed
    -Wl,--version-script={CSRC / "exports.map"}""".split()
if sys.platform == "darwin":
    LINK_FLAGS = "-bundle -undefined dynamic_lookup -Wl,-exported_symbol,_PyInit_*".split()


if ENV.get("CONTRASTILE_SANITIZE") == "1":
    HOST_FLAGS += SANITIZERS
    LINK_FLAGS = [*(flag for flag in LINK_FLAGS if flag != "-Wl,-s"), *SANITIZERS]


def run(command):
    print(shlex.join(command), flush=True)
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(str(error)) from error  # all that Extension(optional=True) tolerates


def capture(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def accepts(*flags):
    """Whether the C++ compiler compiles and links a small program with these flags."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#ifdef _OPENMP\n#include <omp.h>\n#endif\nint main() {}\n")
        return capture(*CXX, *flags, str(source), "-o", f"{source}.out").returncode == 0


def target():
    """The processor that the C++ compiler makes code for, which may not be this one."""
    return (capture(*CXX, "-dumpmachine").stdout or platform.machine()).strip().partition("-")[0].lower()


def host_command():
    openmp = "-fopenmp" if accepts("-fopenmp") else "-Wno-unknown-pragmas"
    return [*CXX, *HOST_FLAGS, openmp, f"-I{CSRC}"]


def python_headers():  # for bind.cpp alone, so that kernel objects serve every Python
    return [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]


def cpu_units():
    """(source, compile command) of each file; a kernel file has an instruction set of its own."""
    command, isa = host_command(), {"bind.cpp": python_headers(), "kernel_generic.cpp": KERNEL}
    machine = target()
    if machine in ("x86_64", "amd64"):
        command.append("-DCONTRASTILE_X86=1")
        isa |= {"kernel_avx2.cpp": AVX2, "kernel_avx512.cpp": AVX512}
        if accepts(*AVX512BF16):  # gcc >= 10, clang >= 9
            command.append("-DCONTRASTILE_AVX512BF16=1")
            isa["kernel_avx512bf16.cpp"] = AVX512BF16
    if machine in ("aarch64", "arm64") and accepts(*NEONBF16):  # gcc >= 10, clang >= 11
        command.append("-DCONTRASTILE_NEONBF16=1")
        isa["kernel_neonbf16.cpp"] = NEONBF16
    return [(CSRC / "cpu" / name, [*command, *flags]) for name, flags in isa.items()]


def cuda_archs():
    wanted = ENV.get("CONTRASTILE_CUDA_ARCHS") or ENV.get("TORCH_CUDA_ARCH_LIST")
    if wanted:
        return wanted.replace("+PTX", "").replace(".", "").replace(";", " ").split()
    known = capture(NVCC, "--list-gpu-arch").stdout.split()  # an older toolkit lacks the newest
    archs = [arch for arch in DEFAULT_ARCHS if f"compute_{arch}" in known]
    if not archs:
        raise CompileError(f"{NVCC} serves none of {DEFAULT_ARCHS}; set CONTRASTILE_CUDA_ARCHS")
    return archs


def cuda_units():
    archs = cuda_archs()
    command = [NVCC, *NVCC_FLAGS, f"-I{CSRC}", f"--threads={ENV.get('NVCC_THREADS', '2')}"]
    if capture(NVCC, "-dryrun", "--compress-mode=size", "x.cu").returncode == 0:  # CUDA >= 12.8
        command.append("--compress-mode=size")
    if ENV.get("CUDAHOSTCXX"):
        command += ["-ccbin", ENV["CUDAHOSTCXX"]]
    newest = archs[-1].rstrip("af")  # its PTX serves devices newer than the list
    codes = [(arch, f"sm_{arch}") for arch in archs] + [(newest, f"compute_{newest}")]
    for arch, code in codes:
        command += ["-gencode", f"arch=compute_{arch},code={code}"]
    bind = [*host_command(), *python_headers(), f'-DCONTRASTILE_CUDA_ARCHS="{";".join(archs)}"']
    names = ["device", "stats", "score_grad", "small_call", "segments", "basis"]
    if ENV.get("CONTRASTILE_CUDA_BASIS") == "0":
        names.remove("basis")
        bind.append("-DCONTRASTILE_CUDA_WITHOUT_BASIS")
    sources = [(CSRC / "cuda" / f"{name}.cu", command) for name in names]
    return [(CSRC / "cuda/bind.cpp", bind), *sources]


def cudart_flags():
    dryrun = capture(NVCC, "-dryrun", "-cudart", "static", "x.cu").stderr.replace("#$", "")
    for token in shlex.split(dryrun):
        if token.startswith("-L") and Path(token[2:], "libcudart_static.a").exists():
            return [token, "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    raise CompileError("libcudart_static.a is in none of nvcc's library folders")


def portable(command):
    """The command's words without places on this machine, so that an object compiled elsewhere has the same name: of
    compilers what they say of themselves, of Python's and pybind11's headers their versions."""
    places = {
        f"-I{CSRC}": "-Icsrc",
        f"-I{pybind11.get_include()}": f"pybind11 {pybind11.__version__}",
        f"-I{sysconfig.get_paths()['include']}": f"python {sysconfig.get_config_var('SOABI')}",
    }
    compilers = {command[0], *(command[at + 1] for at, word in enumerate(command) if word == "-ccbin")}
    places |= {word: f"{Path(word).name} {capture(word, '--version').stdout}" for word in compilers}
    return [places.get(word, word) for word in command]


def object_path(source, command):
    """Named by all it depends on: command, compiler, source, headers beside it and in common."""
    files = [*source.parent.rglob("*"), *(CSRC / "common").rglob("*")]
    headers = [path for path in files if path.is_file() and path.suffix not in (".cpp", ".cu")]
    digest = hashlib.sha256(str(portable(command)).encode())
    for path in [source, *sorted(headers)]:
        digest.update(f"{path.relative_to(CSRC)} ".encode() + path.read_bytes())
    return OBJECTS / f"{source.parent.name}-{source.stem}-{digest.hexdigest()[:16]}.o"


def compile_unit(unit):
    source, command = unit
    result = object_path(source, command)
    if not result.exists():
        partial = result.with_name(f"partial-{os.getpid()}-{result.name}")
        run([*command, "-c", str(source), "-o", str(partial)])
        partial.replace(result)  # at once, so that an interrupted build leaves no broken object
    return result


def compile_units(units):
    OBJECTS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(int(ENV.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        return [str(path) for path in pool.map(compile_unit, units)]


NO_COMPILER = """no C++ compiler: {} was not found. Install one (Debian, Ubuntu: apt install g++; macOS: xcode-select
--install; conda: conda install cxx-compiler), or name yours in CXX, and install contrastile again"""
WITHOUT = {
    "contrastile._cpu": "Installed without it, losses on a CPU run on PyTorch's operations: right, but slower.",
    "contrastile._cuda": "Installed without it, losses on a GPU run on the torch or the triton backend.",
}


class Build(build_ext):
    def build_extension(self, ext):
        try:
            self.build_module(ext)
        except CompileError as error:
            raise CompileError(f"{error}\n{WITHOUT[ext.name] if ext.optional else ''}") from error

    def build_module(self, ext):
        if shutil.which(CXX[0]) is None:
            raise CompileError(NO_COMPILER.format(CXX[0]))
        cuda = ext.name == "contrastile._cuda"
        units = cuda_units() if cuda else cpu_units()
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        openmp = ["-fopenmp"] if "-fopenmp" in units[0][1] else []
        libraries = cudart_flags() if cuda else openmp
        partial = output.with_name(f"partial-{os.getpid()}-{output.name}")
        run([*CXX, *compile_units(units), "-o", str(partial), *LINK_FLAGS, *libraries])
        partial.replace(output)  # at once: another process may be importing the module


def torch_has_cuda():
    """Whether the environment that is installed into has a torch with CUDA. Build isolation hides it from imports, not
    from its folder; importing it would take seconds."""
    site = sysconfig.get_paths()
    found = (Path(folder, "torch", "version.py") for folder in (*sys.path, site["platlib"], site["purelib"]))
    version = next(filter(Path.is_file, found), None)
    return version is not None and runpy.run_path(version)["cuda"] is not None


def extension(name, wanted=True):
    """wanted: in mode auto."""
    mode = ENV.get(f"CONTRASTILE_{name.upper()}", "auto")
    if mode not in ("auto", "0", "1"):
        sys.exit(f"CONTRASTILE_{name.upper()} must be auto, 0 or 1, got {mode!r}")
    if mode == "1" and name == "cuda" and not NVCC:
        sys.exit("CONTRASTILE_CUDA=1, but nvcc was not found (set CUDA_HOME or PATH)")
    built = mode == "1" or (mode == "auto" and wanted)
    return [Extension(f"contrastile._{name}", [], optional=mode != "1")] if built else []


if __name__ == "__main__":
    setup(
        ext_modules=extension("cpu") + extension("cuda", wanted=NVCC and torch_has_cuda()),
        cmdclass={"build_ext": Build},
        packages=[*find_packages("python"), "contrastile.triton_kernels"],
    )
