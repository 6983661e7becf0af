"""Other packages' kernels at full size, from wheels that travel in the tree (.whl), where they do."""

from __future__ import annotations

import sys
from typing import Any

import torch

from contrastile.benchmark.problem import Problem, stepper
from processes import ROOT
from suite import __name__ as SUITE

from .look import Look, milliseconds, peak_megabytes

PEERS = (("clip_loss", "memeff"), ("siglip_loss", "siglip-kernel"), ("clip_loss", "inf-cl, twice"))
WHEELS, INSTALLED = ROOT / ".whl", ROOT / "build/gpu/peers"
ROWS, FEATURES = 65_536, 768


def run(look: Look) -> None:
    sys.path.append(str(INSTALLED))
    look.warm_up()
    for loss, name in PEERS:
        names = {"loss": loss, "candidate": name, "n": ROWS, "d": FEATURES}
        look.attempt(lambda x=loss, y=name: timed(look, x, y), **names)


def timed(look: Look, loss: str, name: str) -> dict[str, Any]:
    rows, features = look.rows(ROWS), look.rows(FEATURES)
    problem = Problem(loss, rows, features, torch.bfloat16, device=look.device, suite=SUITE)
    peer = problem.candidates[name].make(problem)
    step = stepper(peer, problem.sets(), backward=True)
    ms = milliseconds(lambda: step(0), repeats=3)
    fresh = stepper(peer, [problem.case(0)], backward=True)  # without the gradients of the steps before
    return {"ms": ms, "megabytes": peak_megabytes(lambda: fresh(0))}
