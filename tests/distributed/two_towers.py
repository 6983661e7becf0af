"""Two small encoders and batches to train them on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import contrastile
from support.sharding import SIZES

WORLD, STEPS, WIDTH = 3, 10, 6
DROPOUT = 0.25


class Encoder(nn.Module):
    """Unit rows from two layers; an optional dropout whose mask must be the same the second time."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=1)


class TwoTowers(nn.Module):
    """Both encoders and the scale, as one module for data parallelism."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.image, self.text = Encoder(dropout), Encoder(dropout)
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0)]))  # FSDP2 takes no scalars

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.image(image), self.text(text), self.log_scale.exp()


def model(dtype: torch.dtype = torch.float64, dropout: float = 0.0) -> TwoTowers:
    torch.manual_seed(0)
    return TwoTowers(dropout).to(dtype)


def batches(dtype: torch.dtype = torch.float64, steps: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(sum(SIZES[WORLD]), WIDTH, generator=g, dtype=dtype)
        yield x, x + 0.3 * torch.randn(x.shape, generator=g, dtype=dtype)


def clip(image: Tensor, text: Tensor, scale: Tensor, group: Any = None) -> Tensor:
    return contrastile.clip_loss(image, text, scale, group=group, backend="torch")
