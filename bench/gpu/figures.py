"""figures.py --out FILE: measures every candidate on every problem, the most wanted first; one JSON line each.

Wrong candidates are refused and not timed (contrastile.benchmark). --device cpu --tiny tries the logic itself on a
machine without a GPU; its numbers mean nothing. --resume goes on with a file, where a broken CUDA context ended the
process that wrote it. Needs this folder, its parent and tests/ on PYTHONPATH, as run.py has them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from contrastile.benchmark import record as records
from contrastile.benchmark.measure import DeviceLost, Meter
from problems import PROBLEMS, TINY, Entry

LOST = 13  # exit status: the CUDA context is gone, another process must go on


def run(entry: Entry, out: Path, deadline: float) -> None:
    """Measures the candidates that the file does not have, and writes them."""
    p = entry.problem
    key = (p.loss, p.variant, p.mode, p.type, p.d, p.n)
    done = {x.candidate for x in records.read(out) if (x.loss, x.variant, x.mode, x.dtype, x.d, x.n) == key}
    names = [name for name in entry.names() if name not in done]
    try:
        records.append(out, Meter(entry.seconds, deadline=deadline).measure(p, names))
    except DeviceLost as lost:
        records.append(out, lost.records)
        sys.exit(LOST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200.0, help="problems that begin later are not run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if (given.device == "cpu") != given.tiny or (given.tiny and "results" in given.out.resolve().parts):
        parser.error("--device cpu and --tiny go together, and their numbers are no results")
    if not given.resume:
        given.out.unlink(missing_ok=True)
    deadline = time.monotonic() + given.seconds
    for entry in TINY if given.tiny else PROBLEMS:
        print(entry.problem.name(), flush=True)
        run(entry, given.out, deadline)


if __name__ == "__main__":
    main()
