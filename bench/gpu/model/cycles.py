"""How long a loss should take on a GPU: a model of its kernels and products, from counts of their machine code.

A kernel takes as long as what it wants most of: tensor cores, issue slots, exponentials (MUFU), the way from the
second-level cache, memory. Where one program has a multiprocessor to itself, its instructions come after its products;
where several share one, they overlap, at best wholly (the low end of a prediction), at worst by half (the high end).
Nothing here was measured on the device: the assumptions are the constants below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from contrastile.backends.waves import Product
from contrastile.driver.plan import Step

from .blocks import Problem, col_products, row_products, steps
from .counts import KEPT, Counts, Kernel

LANES = 32 * 4  # instructions that a multiprocessor issues in a cycle, of threads
MUFU = 16  # exponentials and the like in a cycle
PORT = 64  # bytes from the second-level cache in a cycle
# a tile costs as much as so many features more: 8192^3 runs at 700 TFLOP/s, (65536, 1024, 1024) at 583 (cuBLAS, H100)
FILL = 240
EXPOSED = (0.0, 0.5)  # of the shorter of products and instructions, where programs share a multiprocessor
SUMS_EXPOSED = (0.0, 1.0)  # of the time that an output product's float32 result takes to be read and written
SHARED = 2  # multiprocessors that ask for the same features at once and are answered once
HALF, FLOAT, PARTIAL = 2, 4, 8  # bytes: a number that is multiplied, a gradient, a peak and a total
KERNELS_OF_A_STEP, KERNELS_OF_A_CALL = 8, 30  # launches, for the gaps between them


@dataclass(frozen=True)
class Device:
    name: str
    product: float  # FLOP/s of large products of bfloat16
    memory: float  # bytes/s, copies
    cache: float  # bytes/s of the second-level cache
    clock: float = 1.7e9
    processors: int = 132
    gap: float = 2e-6  # s between two kernels


H100 = Device("H100", 700e12, 3.0e12, 5.7e12)
H200 = Device("H200", 790e12, 4.3e12, 5.7e12)
DEVICES = (H100, H200)


class Range(NamedTuple):
    """Seconds."""

    low: float
    high: float

    def __add__(self, other: tuple[float, ...]) -> Range:  # type: ignore[override]
        return Range(self.low + other[0], self.high + other[1])


def device_of(name: str) -> Device:
    """By what the driver calls it; an H100 for any other."""
    return next((x for x in DEVICES if x.name in name), H100)


def kernel_time(kernel: Kernel, device: Device, pairs: float, depth: int, written: float) -> Range:
    """Of a kernel over pairs. depth: features of all products of a pair, 0: none. written: bytes of a pair."""
    clocked = device.processors * device.clock
    loaded = HALF * depth * (1 / kernel.rows + 1 / kernel.cols)  # bytes of a pair; without a product what was kept
    operands = max(16 + kernel.wide / 4, kernel.wide / 2) / (kernel.wide / 2) if kernel.wide else 0.0
    products = operands * 2 * (depth + FILL) / device.product if depth else 0.0
    instructions = max(kernel.instructions / (LANES * clocked), kernel.mufu / (MUFU * clocked))
    least = max(loaded / (PORT * clocked), loaded / (SHARED * device.cache), written / device.memory)
    exposed = EXPOSED if kernel.resident() > 1 else (1.0, 1.0)
    first, second = max(products, instructions), min(products, instructions)
    return Range(*(pairs * max(first + share * second, least) for share in exposed))


def product_time(products: Iterator[Product], device: Device, first_writes: int) -> Range:
    """Of output products, first_writes of whose results are written, the others read and written."""
    spent = result = 0.0
    for number, x in enumerate(products):
        rate = device.product / (1 + FILL / x.depth)
        read = HALF * x.depth * (x.rows + x.cols) * x.times
        spent += max(x.wave_flop(device.processors) / rate, read / device.memory)
        result += FLOAT * x.rows * x.cols * x.times * (1 if number < first_writes else 2) / device.memory
    return Range(*(spent + share * result for share in SUMS_EXPOSED))


class Prediction(NamedTuple):
    """Seconds of the parts of a step; rest: partial statistics, sums, copies, gaps between kernels."""

    stats: Range
    score_grad: Range
    rows: Range
    cols: Range
    rest: Range

    @property
    def total(self) -> Range:
        return Range(*map(sum, zip(*self, strict=True)))


def predict(problem: Problem, device: Device, counts: Counts, kept: bool = False) -> Prediction:
    """Of a forward and a backward pass on `triton` in bfloat16. kept: memory_budget holds all exponentials."""
    kernels, found = counts[KEPT if kept else problem.loss], steps(problem)
    pairs, depth = sum(map(size, found)), problem.d * problem.directions
    planes = HALF * problem.directions
    none = Range(0.0, 0.0)
    stats, score_grad = none, none
    if "stats" in kernels:  # sums leave one kernel
        stats = kernel_time(kernels["stats"], device, pairs, depth, planes * kept)
    if kept:  # read and overwritten
        score_grad = kernel_time(kernels["score_grad"], device, pairs, 0, 2 * planes)
    else:  # of several directions each is multiplied again for its score gradient
        again = depth * (1 + (problem.directions > 1))
        score_grad = kernel_time(kernels["score_grad"], device, pairs, again, planes)
    blocks = len({x.start for x in found})
    rows = product_time(row_products(problem, found), device, blocks)
    cols = product_time(col_products(problem, found), device, len(found) // blocks)
    return Prediction(stats, score_grad, rows, cols, rest(problem, device, found, kernels))


def size(step: Step) -> int:
    return (step.stop - step.start) * (step.last - step.first)


def rest(problem: Problem, device: Device, found: list[Step], kernels: dict[str, Kernel]) -> Range:
    """Tiles write their share of the statistics, which `merge` reads; gradients are rounded for autograd."""
    first = kernels.get("stats") or kernels["score_grad"]
    sides = 1 / first.cols + (1 / first.rows if problem.square or problem.loss != "siglip_loss" else 0.0)
    moved = sum(map(size, found)) * PARTIAL * sides * 2
    matrices = 1 if problem.square else 1 + problem.directions
    moved += matrices * problem.n * problem.d * (FLOAT + HALF)
    gaps = (KERNELS_OF_A_STEP * len(found) + KERNELS_OF_A_CALL) * device.gap
    spent = moved / device.memory + gaps
    return Range(spent, spent)
