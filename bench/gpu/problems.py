"""What is measured on a GPU, the most wanted first."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from contrastile.benchmark.problem import Problem
from contrastile.benchmark.suite import COMPILED, DENSE
from packages import PEERS
from suite import __name__ as SUITE

BF16 = torch.bfloat16
SMALL = (512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Entry:
    problem: Problem
    dense: bool = False  # against dense torch
    compiled: bool = False  # and the same compiled, which takes a quarter of a minute each
    peers: bool = False
    seconds: float = 3.0

    def names(self) -> list[str]:
        names = (
            [f"contrastile {x}" for x in ("triton", "cuda", "torch")]
            + [DENSE] * self.dense
            + [COMPILED] * self.compiled
        )
        return names + list(PEERS[self.problem.loss, self.problem.variant] if self.peers else [])


def entry(
    loss: str, n: int, d: int, dtype: torch.dtype, *, variant: str = "default", tf32: bool = False,
    device: str = "cuda", dense: bool = False, compiled: bool = False, peers: bool = False, seconds: float = 3.0,
) -> Entry:  # fmt: skip
    problem = Problem(loss, n, d, dtype, variant=variant, tf32=tf32, device=device, suite=SUITE)
    return Entry(problem, dense, compiled, peers, seconds)


PROBLEMS = (
    entry("clip_loss", 65_536, 768, BF16, peers=True, seconds=10.0),
    entry("siglip_loss", 65_536, 768, BF16, peers=True, seconds=8.0),
    entry("nt_xent", 32_768, 768, BF16, seconds=5.0),
    entry("gram_loss", 16_384, 512, BF16, variant="four", seconds=4.0),
    *(entry("clip_loss", n, 768, BF16, dense=True, compiled=n == 1024, peers=True, seconds=1.5) for n in SMALL),
    *(entry("siglip_loss", n, 768, BF16, dense=True, compiled=n == 1024, peers=True, seconds=1.5) for n in SMALL),
    *(entry("nt_xent", n // 2, 768, BF16, dense=True, compiled=n == 1024, seconds=1.5) for n in SMALL),
    entry("clip_loss", 16_384, 768, torch.float16),
    entry("clip_loss", 16_384, 768, torch.float32),
    entry("clip_loss", 16_384, 768, torch.float32, tf32=True),
)
TINY = (
    entry("clip_loss", 48, 16, torch.float32, device="cpu", peers=True, dense=True, compiled=True, seconds=0.05),
    entry("siglip_loss", 48, 16, torch.float32, device="cpu", peers=True, seconds=0.05),
    entry("nt_xent", 24, 16, torch.float32, device="cpu", seconds=0.05),
    entry("gram_loss", 48, 16, torch.float32, device="cpu", variant="four", seconds=0.05),
)
