"""ALBEF's contrastive part: momentum encoders, a queue of their features, and soft targets against mismatched pairs.

    python examples/momentum_distillation.py

Data: the 1797 scans of digits that come with scikit-learn; the upper half of a scan stands for an image, the lower half
for its text. Half of the training pairs are mismatched, as many pairs from the web are.
Metric: recall@20 of the lower half among those of all held-out scans, given the upper half. It must beat the same
training without distillation (alpha = 0), which believes every pair.
"""

from __future__ import annotations

import argparse
import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import contrastile
from common import Rival, options, progress, save_plot, verdict

HELD_OUT, TOP = 500, 20
MISMATCHED = 0.5  # share of the training pairs
RAMP = 0.5  # share of the steps in which alpha grows
ALPHA, DECAY, QUEUE, TEMPERATURE = 0.6, 0.99, 1024, 0.1


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = (
            nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(2)
        )  # fmt: skip

    def forward(self, upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.upper(upper), dim=1), F.normalize(self.lower(lower), dim=1)


class Queue:
    """The newest features of momentum encoders, first in, first out."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.upper = self.lower = torch.empty(0, 64)

    def push(self, upper: Tensor, lower: Tensor) -> None:
        self.upper = torch.cat([self.upper, upper])[-self.size :]
        self.lower = torch.cat([self.lower, lower])[-self.size :]


def loss_of(features: tuple[Tensor, Tensor], momentum: tuple[Tensor, Tensor], queue: Queue, alpha: float) -> Tensor:
    """Both directions; the candidates are features of the momentum encoders, which teach, too."""
    (upper, lower), (upper_m, lower_m) = features, momentum
    how = {"alpha": alpha, "temperature": TEMPERATURE}
    forth = contrastile.distill_info_nce(upper, lower_m, upper_m, negatives=queue.lower, **how)
    back = contrastile.distill_info_nce(lower, upper_m, lower_m, negatives=queue.upper, **how)
    return (forth + back) / 2


def train(pairs: Tensor, alpha: float, args: argparse.Namespace) -> tuple[TwoTowers, list[float]]:
    torch.manual_seed(args.seed)  # weights and batches are the same for every alpha
    model = TwoTowers()
    teacher = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    queue, ramp = Queue(QUEUE), RAMP * args.steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(args.steps):
        upper, lower = pairs[torch.randperm(len(pairs))[: args.batch_size]].chunk(2, dim=1)
        with torch.no_grad():
            momentum = teacher(upper, lower)
        # the teacher knows nothing at first. ALBEF's alpha grows in its first epoch; one of this data set has ten steps
        loss = loss_of(model(upper, lower), momentum, queue, alpha * min(1.0, step / ramp))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update_parameters(model)
        queue.push(*momentum)
        losses.append(loss.item())
        progress(step, args.steps, losses[-1])
    return model, losses


@torch.no_grad()
def recall(model: TwoTowers, scans: Tensor) -> float:
    upper, lower = model(*scans.chunk(2, dim=1))
    best = (upper @ lower.T).topk(TOP).indices
    return (best == torch.arange(len(scans))[:, None]).any(1).float().mean().item()


def mismatched(scans: Tensor) -> Tensor:
    """The first scans get each other's lower halves."""
    pairs = scans.clone()
    wrong = round(MISMATCHED * len(scans))
    pairs[:wrong, 32:] = scans[:wrong, 32:].roll(1, 0)
    return pairs


def main(argv: list[str] | None = None) -> int:
    args = options(__doc__.partition("\n")[0], steps=600, batch_size=128).parse_args(argv)
    torch.manual_seed(args.seed)
    scans = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    scans = scans[torch.randperm(len(scans))]
    held_out, pairs = scans[:HELD_OUT], mismatched(scans[HELD_OUT:])
    print(f"without distillation, {MISMATCHED:.0%} of {len(pairs)} pairs mismatched")
    plain, _ = train(pairs, 0.0, args)
    print("with distillation")
    model, losses = train(pairs, ALPHA, args)
    found = recall(model, held_out)
    rivals = [
        Rival("chance", TOP / HELD_OUT, margin=0.4),
        Rival("the same without distillation", recall(plain, held_out), margin=0.02),
    ]
    if args.plot:
        save_plot(args.plot, f"recall@{TOP}", found, rivals, losses)
    return verdict(f"recall@{TOP} among {HELD_OUT} held-out scans", found, rivals)


if __name__ == "__main__":
    sys.exit(main())
