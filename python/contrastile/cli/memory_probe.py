"""Peak extra memory of one CLIP loss, forward and backward, in a process of its own.

``python -m contrastile.cli.memory_probe dense|contrastile N`` prints bytes. A process reports the
highest memory of its whole life, so every figure needs a fresh one; ``measure`` starts it.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

import contrastile
from contrastile import reference

Series = dict[int, int]  # rows -> peak extra bytes

FEATURES = 64
_WARM_UP_ROWS = 32
_LOSSES = {"dense": reference.clip_loss, "contrastile": contrastile.clip_loss}


class ProbeError(RuntimeError):
    """The measuring process gave no figure, for instance for lack of memory."""


def measure(implementation: str, rows: int) -> int:
    """Peak bytes beyond the inputs that ``implementation`` needs for ``rows`` pairs.

    Raises:
        ProbeError: the process failed or saw no rise; the message says which.
    """
    command = [sys.executable, "-m", __name__, implementation, str(rows)]
    # glibc: a fixed threshold gives each freed block back at once: none hides in the base
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProbeError(f"exit code {done.returncode}: {last_line}")
    if int(done.stdout) <= 0:
        raise ProbeError("the peak did not rise above the memory held before")
    return int(done.stdout)


def _main(implementation: str, rows: int) -> int:
    features = [_random_rows(rows), _random_rows(rows)]
    _run_once(implementation, [x[:_WARM_UP_ROWS] for x in features])
    _forget_peak()
    before = _peak_bytes()
    _run_once(implementation, features)
    print(_peak_bytes() - before)
    return 0


def _random_rows(rows: int) -> torch.Tensor:
    unit = torch.nn.functional.normalize(torch.randn(rows, FEATURES), dim=1)
    return unit.requires_grad_()


def _run_once(implementation: str, features: list[torch.Tensor]) -> None:
    images, texts = features
    loss = _LOSSES[implementation](images, texts, 1 / 0.07)
    torch.autograd.grad(loss, features)


def _forget_peak() -> None:
    """Start from the memory held now (Linux; elsewhere the peak so far stays the base)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # not getrusage: on Linux its maximum survives exec, so it includes the parent's memory
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if match:
            return int(match[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


if __name__ == "__main__":
    raise SystemExit(_main(sys.argv[1], int(sys.argv[2])))
