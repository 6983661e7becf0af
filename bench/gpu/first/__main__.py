"""python -m first [--out DIR] [--seconds 300] [--dry [--tiny]] [STAGE ...]: the first minutes on a GPU.

Stages in the order of what they tell (plan.py), each in a process of its own with a limit; one that fails or overruns
is cut, and the next goes on. In the background the CUDA module is built, first without basis.cu, and kernels are
compiled. Every result is written at once, into at most eight files; the summary comes last. Nothing is installed.

--dry: without a GPU. Kernels are compiled for sm_90 and not launched, or, where numbers matter, interpreted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from processes import ROOT, link_site

from . import plan
from .runner import Runner


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=plan.SECONDS)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="with --dry: one case of each")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(stage.name for stage in plan.STAGES))
    given = parser.parse_args()
    chosen = [stage for stage in plan.STAGES if not given.stages or stage.name in given.stages]
    if (given.tiny and not given.dry) or set(given.stages) - {stage.name for stage in chosen}:
        parser.error("--tiny goes with --dry, and a stage has one of the names above")
    out = given.out or Path(os.environ.get("OUT") or ROOT / "build/gpu" / ("dry" if given.dry else "out"))
    if given.dry and "results" in out.resolve().parts:
        parser.error("numbers of a dry run are no results")
    link_site()
    runner = Runner(out.resolve(), time.monotonic() + given.seconds, given.dry, given.tiny)
    return runner.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
