"""One training run on real data, with the dense loss and with this package's: same seed, same batches.

    python bench/parity.py [--steps 300] [--out bench/results/cpu-zen4.jsonl]

Data: the upper and the lower half of scikit-learn's 1797 scans of digits. A line holds a type of features, a loss, its
value at every step, and recall@1 and @5 among 500 held-out scans. Training multiplies rounding, so the measure is a
second dense run, "dense, rows permuted": it has the same batches in another order, which changes nothing but rounding.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

import contrastile
from lines import append

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from clip_torchrun import HELD_OUT, TwoTowers

ROWS, SEED = 512, 0
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    logits = scale.to(x.dtype) * x @ y.T
    targets = torch.arange(len(x))
    return (F.cross_entropy(logits.float(), targets) + F.cross_entropy(logits.T.float(), targets)) / 2


def permuted(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    order = torch.arange(len(x)).flip(0)
    return dense(x[order], y[order], scale)


LOSSES: dict[str, Loss] = {
    "dense": dense, "dense, rows permuted": permuted, "contrastile.clip_loss": contrastile.clip_loss
}  # fmt: skip


def train(loss: Loss, dtype: torch.dtype, steps: int) -> tuple[list[float], dict[int, float]]:
    """The loss at every step, and recall@k of the lower half given the upper."""
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    scans = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    scans = scans[torch.randperm(len(scans))]
    model, values = TwoTowers(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = HELD_OUT + torch.randperm(len(scans) - HELD_OUT, generator=generator)[:ROWS]
        x, y, scale = model(*scans[rows].chunk(2, dim=1))
        value = loss(x.to(dtype), y.to(dtype), scale)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.log_scale.clamp_(0, math.log(100))
        values.append(value.item())
    return values, recalls(model, scans[:HELD_OUT])


@torch.no_grad()
def recalls(model: TwoTowers, scans: Tensor) -> dict[int, float]:
    upper, lower, _ = model(*scans.chunk(2, dim=1))
    best = (upper @ lower.T).topk(5).indices == torch.arange(len(scans))[:, None]
    return {k: best[:, :k].any(1).float().mean().item() for k in (1, 5)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("build/bench/cpu.jsonl"), help="lines go to parity/ beside it")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name, dtype in TYPES.items():
        for loss, function in LOSSES.items():
            values, found = train(function, dtype, args.steps)
            recall = {str(k): round(x, 4) for k, x in found.items()}
            print(f"{name}, {loss}: loss {values[-1]:.6f}, recall {recall}")
            append(args.out, "parity", dtype=name, loss=loss, recall=recall, values=values)


if __name__ == "__main__":
    main()
