"""peak.py LOSS N D DTYPE: peak memory of one forward and backward beyond the inputs, as JSON. One measurement a
process."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import contrastile
import eager

SCALE = torch.tensor(14.3)
LOSSES = {
    "clip": lambda a, b: contrastile.clip_loss(a, b, SCALE),
    "nt_xent": contrastile.nt_xent,
    "eager_clip": lambda a, b: eager.clip(a, b, SCALE),
}


def status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def main(loss: str, n: int, d: int, dtype: str) -> None:
    kind = getattr(torch, dtype)
    warm = [torch.randn(32, d).to(kind).requires_grad_() for _ in range(2)]
    LOSSES[loss](*warm).backward()
    inputs = [F.normalize(torch.randn(n, d), dim=1).to(kind).requires_grad_() for _ in range(2)]
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = status("VmRSS")
    LOSSES[loss](*inputs).backward()
    print(json.dumps({"loss": loss, "n": n, "d": d, "dtype": dtype, "peak_extra_bytes": status("VmHWM") - before}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
