"""What `import contrastile` may cost and change, in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import contrastile


def fresh(script, *options, **environment):
    environment = {**os.environ, "PYTHONPATH": str(Path(contrastile.__file__).parents[1]), **environment}
    command = [sys.executable, *options, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


PROBE = """
import json, logging, os, signal, sys, threading, warnings
import torch
warnings.simplefilter("error")

def state():
    tasks = "/proc/self/task"
    return {
        "threads": torch.get_num_threads(), "interop threads": torch.get_num_interop_threads(),
        "dtype": str(torch.get_default_dtype()), "device": str(torch.get_default_device()),
        "grad": torch.is_grad_enabled(), "anomaly": torch.is_anomaly_enabled(), "random": torch.initial_seed(),
        "random state": torch.get_rng_state().tolist(), "denormal": torch.tensor(1e-40).mul(1).item(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(), "cuda started": torch.cuda.is_initialized(),
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "environment": dict(os.environ), "path": list(sys.path), "filters": len(warnings.filters),
        "log": [logging.root.level, len(logging.root.handlers)], "hooks": [str(sys.excepthook), str(sys.displayhook)],
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "python threads": threading.active_count(), "tasks": len(os.listdir(tasks)) if os.path.exists(tasks) else 0,
    }

SYSTEM = ("os.", "socket.", "subprocess.", "shutil.", "tempfile.", "_thread.", "signal.", "ctypes.", "mmap.")
READING = ("os.listdir", "os.scandir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def watch(event, args):
    writing = event == "open" and args[2] & WRITING
    if watching and (writing or event.startswith(SYSTEM) and event not in READING):
        asked.append([event, str(args)])

watching, asked = False, []
sys.addaudithook(watch)
before, loaded = state(), set(sys.modules)
watching = True
import contrastile
watching = False
after = state()
changed = [name for name in before if before[name] != after[name]]
print(json.dumps({"changed": changed, "asked": asked, "loaded": sorted(set(sys.modules) - loaded)}))
"""


@pytest.fixture(scope="module")
def probe():
    return fresh(PROBE, PYTHONDONTWRITEBYTECODE="1")


@pytest.fixture
def imported(probe):
    assert probe.returncode == 0, probe.stderr
    return json.loads(probe.stdout)


def test_importing_changes_nothing(imported):
    assert imported["changed"] == []


def test_importing_asks_nothing_of_the_system(imported):
    """No file is written, no process or thread started, no connection opened, no environment variable set."""
    assert imported["asked"] == []


def test_importing_prints_nothing(probe):
    assert probe.stderr == ""
    assert probe.stdout.count("\n") == 1  # the probe's own line


LEFT_OUT = ("catalog", "cli", "compat", "testing", "triton_kernels")  # imported by those who use them


def test_importing_loads_the_losses_alone(imported):
    """Beyond torch, whatever torch brings: most of an import's time is the modules that it loads."""
    own = {name for name in imported["loaded"] if name.partition(".")[0] == "contrastile"}
    assert set(imported["loaded"]) == own
    assert "contrastile.losses" in own
    assert {name.split(".")[1] for name in own if "." in name}.isdisjoint(LEFT_OUT)


def test_torch_is_enough():
    """Without the optional packages, and without numpy, which torch does not need either."""
    script = """
import sys
for name in ("triton", "numpy", "sklearn", "matplotlib", "rich", "scipy", "pytest"):
    sys.modules[name] = None
import torch, contrastile
x = torch.randn(8, 4, requires_grad=True)
contrastile.clip_loss(x, x, 5.0).backward()
contrastile.reference.clip_loss(x, x, 5.0).backward()
assert len(contrastile.catalog.CATALOG) and contrastile.testing.EPS and contrastile.compat.__doc__
print(sorted(contrastile.available_backends()))
"""
    done = fresh(script, "-W", "ignore")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sorted(contrastile.available_backends())}\n"


def test_a_missing_native_module_is_a_reason_not_an_error():
    script = """
import sys
sys.modules["contrastile._cpu"] = sys.modules["contrastile._cuda"] = None
import torch, contrastile
print(contrastile.available_backends()["cpu"])
x = torch.randn(8, 4, dtype=torch.float32)
print(float(contrastile.nt_xent(x, x)))
contrastile.nt_xent(x, x, backend="cpu")
"""
    done = fresh(script)
    reason, value = done.stdout.splitlines()
    assert "not installed" in reason
    assert float(value) > 0
    assert "BackendUnsupported" in done.stderr.splitlines()[-1]
    assert "not installed" in done.stderr.splitlines()[-1]
