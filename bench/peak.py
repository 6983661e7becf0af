"""peak.py LOSS N D DTYPE: peak memory of one forward and backward beyond the inputs, as JSON. One measurement a
process."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import contrastile
import eager
from measure import unit

SCALE = torch.tensor(14.3)
LOSSES = {  # with the number of batches they take
    "clip": (2, lambda a, b: contrastile.clip_loss(a, b, SCALE)),
    "nt_xent": (2, contrastile.nt_xent),
    "eager_clip": (2, lambda a, b: eager.clip(a, b, SCALE)),
    "gram": (4, contrastile.gram_loss),
    "eager_gram": (4, lambda *x: eager.gram(*x, temperature=0.07)),
    "symile": (3, lambda *x: contrastile.symile_loss(*x, logit_scale=SCALE, negatives="n_squared")),
    "eager_symile": (3, lambda *x: eager.symile_n_squared(*x, scale=SCALE)),
}


def status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def extra_bytes(function: Callable[..., Tensor], draw: Callable[[int], list[Tensor]], n: int) -> int:
    """Of one forward and backward, beyond the inputs draw(n)."""
    function(*draw(32)).backward()  # what is set up once
    inputs = draw(n)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = status("VmRSS")
    function(*inputs).backward()
    return status("VmHWM") - before


def main(loss: str, n: int, d: int, dtype: str) -> None:
    kind, (count, function) = getattr(torch, dtype), LOSSES[loss]

    def draw(rows: int) -> list[Tensor]:
        return [unit(rows, d, kind) for _ in range(count)]

    peak = extra_bytes(function, draw, n)
    print(json.dumps({"loss": loss, "n": n, "d": d, "dtype": dtype, "peak_extra_bytes": peak}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
