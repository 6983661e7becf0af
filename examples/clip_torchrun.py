"""CLIP over several processes: the batch of the loss is that of all ranks, the model is trained with DDP.

    torchrun --nproc-per-node 2 examples/clip_torchrun.py        also without torchrun, as one process

Data: the 1797 scans of digits that come with scikit-learn; the upper half of a scan and its lower half are the two
modalities. Every rank reads its own part of the training set.
Metric: recall@5 of the lower half among those of all held-out scans, given the upper half.
"""

from __future__ import annotations

import argparse
import math
import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import contrastile
from common import Rival, options, progress, save_plot, verdict

HELD_OUT, TOP = 500, 5


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = (
            nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 64)) for _ in range(2)
        )  # fmt: skip
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.normalize(self.upper(upper), dim=1), F.normalize(self.lower(lower), dim=1), self.log_scale.exp()


def train(model: nn.Module, scans: Tensor, args: argparse.Namespace) -> list[float]:
    rank, world = dist.get_rank(), dist.get_world_size()
    own = scans[rank::world]
    generator = torch.Generator().manual_seed(args.seed + rank)
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(ddp.parameters(), lr=3e-3)
    losses = []
    for step in range(args.steps):
        rows = own[torch.randperm(len(own), generator=generator)[: args.batch_size // world]]
        rows = rows + 0.1 * torch.randn(rows.shape, generator=generator)
        upper, lower, scale = ddp(*rows.chunk(2, dim=1))
        # this rank's rows against those of all ranks; DDP's mean of gradients is then the gradient of the global batch
        loss = contrastile.clip_loss(upper, lower, scale, group="world")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if rank == 0:
            progress(step, args.steps, losses[-1])
    return losses


@torch.no_grad()
def recall(model: TwoTowers, scans: Tensor) -> float:
    upper, lower, _ = model(*scans.chunk(2, dim=1))
    best = (upper @ lower.T).topk(TOP).indices
    return (best == torch.arange(len(scans))[:, None]).any(1).float().mean().item()


def main(argv: list[str] | None = None) -> int:
    args = options(__doc__.partition("\n")[0], steps=300, batch_size=512).parse_args(argv)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(args.seed)
    scans = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    scans = scans[torch.randperm(len(scans))]
    held_out, rest = scans[:HELD_OUT], scans[HELD_OUT:]
    model = TwoTowers()
    untrained = recall(model, held_out)
    losses = train(model, rest, args)
    found, world = recall(model, held_out), dist.get_world_size()
    first = dist.get_rank() == 0
    dist.destroy_process_group()
    if not first:
        return 0
    metric = f"recall@{TOP} among {HELD_OUT} held-out scans, {world} processes"
    rivals = [Rival("chance", TOP / HELD_OUT, margin=0.4), Rival("untrained", untrained, margin=0.4)]
    if args.plot:
        save_plot(args.plot, f"recall@{TOP}", found, rivals, losses)
    return verdict(metric, found, rivals)


if __name__ == "__main__":
    sys.exit(main())
