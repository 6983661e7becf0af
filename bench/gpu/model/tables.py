"""The tables of docs/performance.md that arithmetic and compiled code give. A table is known by its first line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .blocks import Problem, filled
from .counts import KEPT, Counts, Kernel
from .cycles import DEVICES, H200, Prediction, Range, predict

PAGE = Path(__file__).resolve().parents[3] / "docs/performance.md"
ROWS, FEATURES = (4096, 16_384, 65_536), (256, 512, 768, 1024)
BLOCKS = {"`clip_loss`, `siglip_loss`": "clip_loss", "`nt_xent`": "nt_xent", "`gram_loss`, k = 4": "gram_loss"}
CASES = {  # name: problem, exponentials kept
    "`clip_loss`, N = 65,536, D = 768": (Problem("clip_loss", 65_536, 768), False),
    "the same, `memory_budget=9 << 30`": (Problem("clip_loss", 65_536, 768), True),
    "`siglip_loss`, the same size": (Problem("siglip_loss", 65_536, 768), False),
    "`nt_xent`, 65,536 rows, D = 768": (Problem("nt_xent", 65_536, 768), False),
    "`gram_loss`, k = 4, N = 16,384, D = 512": (Problem("gram_loss", 16_384, 512, 3), False),
}


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(header: tuple[object, ...], rows: Iterator[str]) -> str:
    return "\n".join([line(*header), f"|{'---|' * len(header)}", *rows])


def fills() -> str:
    """Of every loss and size: rows and columns of a block, and what dA and dB keep busy, in percent."""
    return table(("loss", "N", *(f"D = {d}" for d in FEATURES)), fill_rows())


def fill_rows() -> Iterator[str]:
    for name, loss in BLOCKS.items():
        for n in ROWS:
            found = [filled(Problem(loss, n, d, 3 if loss == "gram_loss" else 1)) for d in FEATURES]
            said = [f"{x.rows:,} x {x.cols:,}: {100 * x.of_rows:.0f}, {100 * x.of_cols:.0f}" for x in found]
            yield line(name, f"{n:,}", *said)


def kernels(counts: Counts) -> str:
    """What the kernels over pairs are made of."""
    header = (
        "loss",
        "kernel",
        "tile",
        "warps",
        "registers",
        "spilled",
        "programs",
        "instructions a pair",
        "MUFU a pair",
    )
    return table(header, kernel_rows(counts))


def kernel_rows(counts: Counts) -> Iterator[str]:
    for loss, found in counts.items():
        for name, x in found.items():
            yield line(*named(loss, name, x), x.resident(), f"{x.instructions:.1f}", f"{x.mufu:.2f}")


def named(loss: str, name: str, x: Kernel) -> tuple[object, ...]:
    who = f"`{loss}`" if loss != KEPT else "`clip_loss`, exponentials kept"
    return who, f"`{name}`", f"{x.rows} x {x.cols}", x.warps, x.registers, f"{x.stack} bytes"


def predictions(counts: Counts) -> str:
    """Milliseconds of a step, and of its parts on an H200."""
    header = ("case", *(f"{x.name}, ms" for x in DEVICES), "stats", "score_grad", "dA", "dB", "rest")
    return table(header, prediction_rows(counts))


def prediction_rows(counts: Counts) -> Iterator[str]:
    for name, (problem, kept) in CASES.items():
        if kept and KEPT not in counts:
            continue
        found: list[Prediction] = [predict(problem, device, counts, kept) for device in DEVICES]
        parts = found[DEVICES.index(H200)]
        yield line(name, *(said(x.total) for x in found), *map(said, parts))


def said(x: Range) -> str:
    low, high = (f"{1e3 * seconds:.1f}" for seconds in x)
    return low if low == high else f"{low} to {high}"


def all_tables(counts: Counts) -> list[str]:
    return [fills(), kernels(counts), predictions(counts)]


def differing(text: str, counts: Counts) -> list[str]:
    """The tables that the page does not have as they are."""
    return [found for found in all_tables(counts) if found not in text]


def rewritten(text: str, counts: Counts) -> str:
    """The page with its tables made anew."""
    lines = text.splitlines()
    for found in all_tables(counts):
        start = lines.index(found.splitlines()[0])
        stop = next(at for at in range(start, len(lines)) if not lines[at].startswith("|"))
        lines[start:stop] = found.splitlines()
    return "\n".join(lines) + "\n"
