"""Hard negatives mined from the whole training set, against in-batch negatives alone.

Data: the characters of the font DejaVu Sans that comes with matplotlib, as in gram_three_modalities.py: a character's
Unicode name is the query, its picture the document. Letters with accents have many near copies, which a small random
batch seldom holds together: mining finds them.
Metric: recall@5 of the picture of a held-out name among the pictures of all characters. It must beat the same training,
on the same batches, without mined negatives.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import contrastile
from common import Rival, options, progress, save_plot, verdict
from contrastile.retrieval import mine_hard_negatives, ranks
from gram_three_modalities import SIDE, bags_of_words, draw, load_characters

HELD_OUT, TOP, WIDTH = 500, 5, 64
MINED, PER_QUERY = 32, 8  # a step draws PER_QUERY of the MINED wrong pictures nearest to each name
REFRESH = 60  # steps after which the nearest are mined anew
TEMPERATURE, RATE = 0.07, 3e-3


class Towers(nn.Module):
    """Names and pictures into unit vectors of one space."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.name = nn.Sequential(nn.Linear(words, 128, bias=False), nn.GELU(), nn.Linear(128, WIDTH))
        self.picture = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU(),
            nn.Flatten(), nn.Linear(32 * (SIDE // 4) ** 2, WIDTH),
        )  # fmt: skip

    def names(self, x: Tensor) -> Tensor:
        return F.normalize(self.name(x), dim=1)

    def pictures(self, x: Tensor) -> Tensor:
        return F.normalize(self.picture(x), dim=1)


@torch.no_grad()
def mine(towers: Towers, names: Tensor, pictures: Tensor) -> Tensor:
    """(N, MINED) wrong pictures that each name of the training set is nearest to."""
    own = torch.arange(len(names))
    return mine_hard_negatives(towers.names(names), towers.pictures(pictures), own, MINED).indices


def train(names: Tensor, pictures: Tensor, mining: bool, args: argparse.Namespace) -> tuple[Towers, list[float]]:
    torch.manual_seed(args.seed)  # weights and first batches are the same with mining and without
    towers = Towers(names.shape[1])
    optimizer = torch.optim.AdamW(towers.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(1, args.steps))
    losses, nearest = [], None
    for step in range(args.steps):
        if mining and step and step % REFRESH == 0:  # not before the towers have learnt something
            nearest = mine(towers, names, pictures)
        rows = torch.randperm(len(names))[: args.batch_size]
        name, picture, hard = towers.names(names[rows]), towers.pictures(pictures[rows]), None
        if nearest is not None:
            wrong = nearest[rows].gather(1, torch.randint(MINED, (len(rows), PER_QUERY)))
            hard = towers.pictures(pictures[wrong.flatten()]).view(len(rows), PER_QUERY, WIDTH)
        loss = contrastile.info_nce(name, picture, temperature=TEMPERATURE, hard_negatives=hard)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress(step, args.steps, losses[-1])
    return towers, losses


@torch.no_grad()
def recall(towers: Towers, names: Tensor, pictures: Tensor, own: Tensor) -> float:
    """The share of names whose picture, that of index `own`, is among the TOP nearest."""
    place = ranks(towers.names(names), towers.pictures(pictures), positives="partner", partner=own)
    return (place <= TOP).float().mean().item()


def main(argv: list[str] | None = None) -> int:
    args = options(__doc__.partition("\n")[0], steps=500, batch_size=32).parse_args(argv)
    torch.manual_seed(args.seed)

    characters, font_file = load_characters()
    order = torch.randperm(len(characters))
    held_out, rows = order[:HELD_OUT], order[HELD_OUT:]
    words = [unicodedata.name(character).replace("-", " ").split() for character in characters]
    names, pictures = bags_of_words(words, rows), draw(characters, font_file)
    print(f"{len(rows)} characters to train on, {HELD_OUT} held out")

    found = []
    for mining in (False, True):
        print("in-batch and mined negatives" if mining else "in-batch negatives")
        towers, losses = train(names[rows], pictures[rows], mining, args)
        found.append(recall(towers, names[held_out], pictures, held_out))
    rivals = [
        Rival("chance", TOP / len(characters), margin=0.1),
        Rival("the same training with in-batch negatives alone", found[0], margin=0.03),
    ]
    if args.plot:
        save_plot(args.plot, f"recall@{TOP}", found[1], rivals, losses)
    return verdict(f"recall@{TOP} of held-out names among {len(characters)} pictures", found[1], rivals)


if __name__ == "__main__":
    sys.exit(main())
