"""hardware.py: what the README's table of backends may say under "run on hardware", from all files in bench/results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
BACKENDS = ("cpu", "torch", "triton", "cuda")
NEVER, NO_GPU = "never run on hardware", "no GPU"
BAD = ("wrong", "refused", "failed", "out of memory")


def runs(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line that says on which device which backend ran: of the benchmark and of `make gpu-first`."""
    for path in sorted(folder.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record.get("backend") in BACKENDS and record.get("outcome") in ("ok", *BAD):
                yield record


def cell(backend: str, folder: Path = RESULTS) -> str:
    """The devices on which it ran, and whether all that it gave was right."""
    found = [record for record in runs(folder) if record["backend"] == backend]
    names = []
    for device in dict.fromkeys(record["device"] for record in found):
        bad = any(record["outcome"] in BAD for record in found if record["device"] == device)
        names.append(f"{device}, not all of it right" if bad else device)
    if not names:
        return NEVER
    # the benchmark counts threads on a CPU; the first look is at GPUs alone
    on_gpu = any(record.get("threads") is None for record in found)
    return "; ".join(names if on_gpu or backend == "cpu" else [*names, NO_GPU])


if __name__ == "__main__":
    for backend in BACKENDS:
        print(f"{backend}: {cell(backend)}")
