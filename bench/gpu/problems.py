"""What is measured, the most wanted first, and the matrix products a time is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clock import Step

ROTATED_BYTES = 128 << 20  # inputs are rotated until they exceed this (larger than any second-level cache), or 16 sets
CHUNK = 4096  # rows of the products in the chunk shapes
SQUARE = 8192


@dataclass(frozen=True)
class Problem:
    loss: str
    n: int  # samples
    d: int
    dtype: torch.dtype
    gemms: int  # FLOP of forward and backward: gemms * rows^2 * d
    k: int = 2  # tensors of features
    views: int = 1  # rows of the matrix per sample
    tf32: bool = False
    peers: bool = False
    dense: bool = False  # against eager and compiled torch
    seconds: float = 3.0

    @property
    def rows(self) -> int:
        return self.n * self.views

    @property
    def flop(self) -> float:
        return float(self.gemms) * self.rows**2 * self.d

    @property
    def type(self) -> str:
        return "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")

    def name(self) -> str:
        return f"{self.loss} rows={self.rows} D={self.d} {self.type}" + (f" k={self.k}" if self.k > 2 else "")

    def features(self, seed: int, device: str) -> list[Tensor]:
        """Related unit rows, as the two sides of a trained model are."""
        generator = torch.Generator(device).manual_seed(seed)

        def noise() -> Tensor:
            return F.normalize(torch.randn(self.n, self.d, generator=generator, device=device), dim=1)

        base = noise()
        x = [F.normalize(base + 1.5 * noise(), dim=1).to(self.dtype) for _ in range(self.k)]
        return [y.requires_grad_() for y in x]

    def sets(self, device: str) -> list[list[Tensor]]:
        size = self.k * self.n * self.d * self.dtype.itemsize
        count = min(16, max(2, -(-ROTATED_BYTES // size)))
        return [self.features(seed, device) for seed in range(count)]


BF16 = torch.bfloat16
SMALL = (512, 1024, 2048, 4096)

PROBLEMS = (
    Problem("clip", 65_536, 768, BF16, 8, peers=True, seconds=10.0),
    Problem("siglip", 65_536, 768, BF16, 6, peers=True, seconds=8.0),
    Problem("nt_xent", 32_768, 768, BF16, 4, views=2, seconds=5.0),
    Problem("gram", 16_384, 512, BF16, 24, k=4, seconds=4.0),
    *(Problem("clip", n, 768, BF16, 8, dense=True, seconds=1.5) for n in SMALL),
    *(Problem("siglip", n, 768, BF16, 6, dense=True, seconds=1.5) for n in SMALL),
    *(Problem("nt_xent", n // 2, 768, BF16, 4, views=2, dense=True, seconds=1.5) for n in SMALL),
    Problem("clip", 16_384, 768, torch.float16, 8),
    Problem("clip", 16_384, 768, torch.float32, 8),
    Problem("clip", 16_384, 768, torch.float32, 8, tf32=True),
)
TINY = (
    Problem("clip", 48, 16, torch.float32, 8, peers=True, dense=True, seconds=0.05),
    Problem("siglip", 48, 16, torch.float32, 6, peers=True, seconds=0.05),
    Problem("nt_xent", 24, 16, torch.float32, 4, views=2, seconds=0.05),
    Problem("gram", 48, 16, torch.float32, 24, k=4, seconds=0.05),
)


def products(problem: Problem, device: str, tiny: bool) -> dict[str, tuple[Step, float]]:
    """name: (step, FLOP). The three products of a chunk (scores, dA, dB), and one large square."""
    rows, columns, d = min(CHUNK, problem.rows), problem.rows, problem.d
    side = 64 if tiny else SQUARE

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(problem.dtype)

    a, b, g, x, y = random(rows, d), random(columns, d), random(rows, columns), random(side, side), random(side, side)

    def chunk(_: int) -> None:
        torch.mm(a, b.T)
        torch.mm(g, b)
        torch.mm(g.T, a)

    return {
        "gemm": (lambda _: torch.mm(x, y), 2.0 * side**3),
        "chunk gemm": (chunk, 6.0 * rows * columns * d),
    }
