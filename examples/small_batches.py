"""A small batch with a memory of every sample (FastCLIP) against a large batch, and against the small batch alone.

    python examples/small_batches.py

Data: the 1797 scans of digits that come with scikit-learn; the even rows of pixels of a scan stand for an image, the
odd ones for its text. Two linear maps, so that what a loss prefers is what decides.
Metric: recall@1 among 797 held-out scans, the mean of both directions. With batches of 16 pairs, FastCLIP must come
within 5 points of clip_loss with batches of 256. The same training with clip_loss must not, and FastCLIP must beat it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import contrastile
from common import Rival, options, progress, save_plot, verdict

HELD_OUT, LARGE, WITHIN = 797, 256, 0.05
LARGE_STEPS = 1 / 2  # of the small batch's steps: eight times its samples
TEMPERATURE, RATE = 0.02, 3e-3

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of features of two sides and the numbers of their samples


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.even, self.odd = nn.Linear(32, 16), nn.Linear(32, 16)

    def forward(self, scans: Tensor) -> tuple[Tensor, Tensor]:
        even, odd = scans.view(-1, 4, 2, 8).unbind(2)
        return F.normalize(self.even(even.flatten(1)), dim=1), F.normalize(self.odd(odd.flatten(1)), dim=1)


def plain(even: Tensor, odd: Tensor, index: Tensor) -> Tensor:
    return contrastile.clip_loss(even, odd, 1 / TEMPERATURE)


def train(
    scans: Tensor, loss_of: Loss, batch: int, steps: int, seed: int, begin: Callable[[int], None] = lambda epoch: None
) -> tuple[Towers, list[float]]:
    """begin: called with the number of every epoch."""
    torch.manual_seed(seed)  # the same start for all
    towers, losses = Towers(), []
    optimizer = torch.optim.Adam(towers.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    a_pass = len(scans) // batch
    for step in range(steps):
        if step % a_pass == 0:
            order = torch.randperm(len(scans))
            begin(step // a_pass)
        index = order[step % a_pass * batch :][:batch]
        loss = loss_of(*towers(scans[index]), index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress(step, steps, losses[-1])
    return towers, losses


@torch.no_grad()
def recall(towers: Towers, scans: Tensor) -> float:
    even, odd = towers(scans)
    scores, own = even @ odd.T, torch.arange(len(scans))
    return sum((s.argmax(1) == own).float().mean().item() for s in (scores, scores.T)) / 2


def main(argv: list[str] | None = None) -> int:
    args = options(__doc__.partition("\n")[0], steps=2000, batch_size=16).parse_args(argv)
    torch.manual_seed(args.seed)
    scans = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    scans = (scans - scans.mean(0))[torch.randperm(len(scans))]
    held_out, pairs = scans[:HELD_OUT], scans[HELD_OUT:]

    print(f"clip_loss, batches of {LARGE}")
    large, _ = train(pairs, plain, LARGE, round(LARGE_STEPS * args.steps), args.seed)
    print(f"clip_loss, batches of {args.batch_size}")
    small, _ = train(pairs, plain, args.batch_size, args.steps, args.seed)
    print(f"FastCLIP, batches of {args.batch_size}")
    epochs = math.ceil(args.steps * args.batch_size / len(pairs))
    # an average holds what the last visits of its sample found: all of the last one at first, a fifth of each later
    memory = contrastile.FastCLIP(
        len(pairs), version="v1", temperature=TEMPERATURE, gamma=0.2, gamma_epochs=epochs // 2
    )
    towers, losses = train(pairs, memory, args.batch_size, args.steps, args.seed, memory.set_epoch)

    found, with_large, alone = (recall(x, held_out) for x in (towers, large, small))
    rivals = [
        Rival("chance", 1 / HELD_OUT, margin=0.2),
        Rival(f"clip_loss, batches of {args.batch_size}", alone, margin=0.03),
        Rival(f"clip_loss, batches of {LARGE}, less {100 * WITHIN:.0f} points", with_large - WITHIN, margin=0.0),
    ]
    print(f"\nclip_loss with the small batch: {100 * (with_large - alone):.1f} points below the large one")
    if args.plot:
        save_plot(args.plot, "recall@1", found, rivals, losses)
    missed = verdict(f"recall@1 among {HELD_OUT} held-out scans", found, rivals)
    return missed or int(with_large - alone <= WITHIN)


if __name__ == "__main__":
    sys.exit(main())
