"""What the compiled kernels of a loss are made of: tiles, registers, machine instructions on the way of a tile without
an edge. Compiles for a GPU that need not be there (contrastile.benchmark.ahead); stored in counts.json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STORED = Path(__file__).with_name("counts.json")
LOSSES = {"clip_loss": "default", "siglip_loss": "default", "nt_xent": "default", "gram_loss": "four"}  # with variants
KEPT = "clip_loss, kept"  # exponentials kept by memory_budget
PAIR_KERNELS = re.compile(r"stats|score_grad|kept")
ROWS = {
    "nt_xent": 1056
}  # of a view, so that a chunk of rows also meets others; else 64. Sizes are not part of a kernel
FEATURES = 64


@dataclass(frozen=True)
class Kernel:
    """A kernel over pairs. Instructions are those of a pair, beside the products."""

    rows: int
    cols: int
    warps: int
    registers: int
    stack: int
    shared: int
    instructions: float
    mufu: float
    static: int  # instructions of the kernel after the first product, on the way or not
    wide: int  # columns of a tensor-core instruction; 0: no products

    def resident(self) -> int:
        """Programs that share a multiprocessor of compute capability 9.0: 65,536 registers, 228 KiB, 64 warps."""
        threads = 32 * self.warps
        by_registers = 65_536 // (-(-self.registers // 8) * 8 * threads)
        return max(min(by_registers, (228 << 10) // (self.shared + 1024), 2048 // threads), 1)


Counts = dict[str, dict[str, Kernel]]  # by loss and name of the kernel


def stored() -> Counts:
    found = json.loads(STORED.read_text())["losses"]
    return {loss: {name: Kernel(**x) for name, x in kernels.items()} for loss, kernels in found.items()}


def store(counts: Counts) -> None:
    import triton

    losses = {loss: {name: asdict(x) for name, x in kernels.items()} for loss, kernels in counts.items()}
    found = {"arch": "sm_90", "triton": triton.__version__, "losses": losses}
    STORED.write_text(json.dumps(found, indent=1) + "\n")


def compiled() -> Counts:
    """In processes of their own: the stand-in for a driver is for good."""
    return {loss: of_process(loss) for loss in (*LOSSES, KEPT)}


def of_process(loss: str) -> dict[str, Kernel]:
    done = subprocess.run([sys.executable, "-m", "model.counts", loss], capture_output=True, text=True, check=True)
    return {name: Kernel(**x) for name, x in json.loads(done.stdout.splitlines()[-1]).items()}


def of_loss(name: str, capability: tuple[int, int] = (9, 0)) -> dict[str, Kernel]:
    """Of the kernels over pairs that a loss in blocks launches, in bfloat16."""
    import torch

    from contrastile.backends import base
    from contrastile.benchmark import ahead
    from contrastile.catalog import CATALOG

    kernels = ahead.install(ahead.Device(capability))
    base.SMALL_PAIRS = -1
    loss, _, kept = name.partition(", ")
    card = next(card for card in CATALOG if card.name == loss)
    case = card.variants[LOSSES[loss]](ROWS.get(loss, 64), FEATURES, torch.Generator().manual_seed(0), torch.bfloat16)
    args = [x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in case.args]
    card.function(*args, **case.kwargs, memory_budget=1 << 30 if kept else 0, backend="triton").sum().backward()
    return {x.name: counted(x) for x in kernels if PAIR_KERNELS.search(x.name)}


def counted(kernel: Any) -> Kernel:
    from support import aot, machine_code

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.cubin)
        file.flush()
        code = aot.tool("nvdisasm", "-c", file.name)
    rows, cols = kernel.constants["TILE_ROWS"], kernel.constants["TILE_COLS"]
    way, (registers, stack) = machine_code.way(code), kernel.usage()
    wide = re.search(r"HGMMA\.64x(\d+)x16", code)
    return Kernel(
        rows, cols, kernel.warps, registers, stack, kernel.shared,
        round(way.per_pair(rows, cols, kernel.warps), 2), round(way.per_pair(rows, cols, kernel.warps, "MUFU"), 2),
        way.static, int(wide[1]) if wide else 0,
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({name: asdict(x) for name, x in of_loss(sys.argv[1]).items()}))
