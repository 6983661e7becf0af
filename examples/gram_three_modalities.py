"""GRAM on three modalities of a character: its Unicode name, its picture and its place in Unicode.

Data: the characters of the font DejaVu Sans that comes with matplotlib. Names, code points and categories are those of
Python's unicodedata. One picture in five is hidden in training.
Metric: given picture and place of a held-out character, its name is the one of 500 that spans the smallest volume with
them (recall@1). The picture alone cannot tell the Latin A from the Greek Alpha, the place alone does not show a letter.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import contrastile
from common import Rival, options, progress, save_plot, verdict

SIDE, BASELINE, FONT_SIZE = 24, 18, 18  # pixels
CODE_BITS = 17
HELD_OUT, WIDTH = 500, 64
TEMPERATURE, RATE = 0.07, 3e-3

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]  # of the embeddings and of what is present, (N, 3) bool


def draw(characters: list[str], font_file: Path) -> Tensor:
    """(N, 1, SIDE, SIDE), ink in [0, 1]."""
    font = ImageFont.truetype(str(font_file), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    pictures = []
    for character in characters:
        picture = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(picture).text((SIDE // 2, BASELINE), character, font=font, fill=255, anchor="ms")
        pictures.append(np.asarray(picture))
    return torch.from_numpy(np.stack(pictures)).float()[:, None] / 255


def places(characters: list[str]) -> Tensor:
    """The binary digits of the code point, and which general category it has."""
    bits = torch.tensor([[ord(c) >> i & 1 for i in range(CODE_BITS)] for c in characters])
    categories = [unicodedata.category(c) for c in characters]
    numbers = torch.tensor([sorted(set(categories)).index(category) for category in categories])
    return torch.cat([bits, F.one_hot(numbers)], 1).float()


def bags_of_words(names: list[list[str]], train: Tensor) -> Tensor:
    """Which words occur in each name; only words that occur in training."""
    words = sorted({word for i in train.tolist() for word in names[i]})
    column = {word: j for j, word in enumerate(words)}
    bags = torch.zeros(len(names), len(words))
    for bag, name in zip(bags, names, strict=True):
        bag[[column[word] for word in name if word in column]] = 1.0
    return bags


def load_characters() -> tuple[list[str], Path]:
    """The characters of the font that have a name and leave ink, and the font's file."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    named = [chr(code) for code in sorted(FT2Font(str(file)).get_charmap()) if unicodedata.name(chr(code), "")]
    inked = draw(named, file).flatten(1).any(1)
    return [character for character, ink in zip(named, inked, strict=True) if ink], file


class Towers(nn.Module):
    """One encoder per modality, all into unit vectors of one space; the first, of names, is the anchor."""

    def __init__(self, words: int, facts: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([
            nn.Sequential(nn.Linear(words, 128, bias=False), nn.GELU(), nn.Linear(128, WIDTH)),
            nn.Sequential(
                nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.GELU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU(),
                nn.Flatten(), nn.Linear(32 * (SIDE // 4) ** 2, WIDTH),
            ),
            nn.Sequential(nn.Linear(facts, 256), nn.GELU(), nn.Linear(256, WIDTH)),
        ])  # fmt: skip

    def forward(self, modalities: Sequence[Tensor]) -> list[Tensor]:
        return [F.normalize(encode(x), dim=1) for encode, x in zip(self.encoders, modalities, strict=True)]


def train(data: list[Tensor], present: Tensor, loss: Loss, args: argparse.Namespace) -> tuple[Towers, list[float]]:
    torch.manual_seed(args.seed)  # the same start and batches for every loss
    towers = Towers(data[0].shape[1], data[2].shape[1])
    optimizer = torch.optim.AdamW(towers.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(1, args.steps))
    losses = []
    for step in range(args.steps):
        rows = torch.randperm(len(present))[: args.batch_size]
        value = loss(towers([x[rows] for x in data]), present[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(value.item())
        progress(step, args.steps, losses[-1])
    return towers, losses


def gram(embeddings: Sequence[Tensor], present: Tensor) -> Tensor:
    # a character without its picture takes part with the volume of the two modalities it has
    return contrastile.gram_loss(*embeddings, temperature=TEMPERATURE, present=present)


def clip_of_name_and(other: int) -> Loss:
    def loss(embeddings: Sequence[Tensor], present: Tensor) -> Tensor:
        here = present[:, other]
        return contrastile.clip_loss(embeddings[0][here], embeddings[other][here], 1 / TEMPERATURE)

    return loss


def recall(scores: Tensor) -> float:
    """How often the best name (column) of a character (row) is its own."""
    return (scores.argmax(1) == torch.arange(len(scores))).float().mean().item()


def main(argv: list[str] | None = None) -> int:
    args = options(__doc__.partition("\n")[0], steps=250, batch_size=256).parse_args(argv)
    torch.manual_seed(args.seed)

    characters, font_file = load_characters()
    order = torch.randperm(len(characters))
    held_out, rows = order[:HELD_OUT], order[HELD_OUT:]
    names = [unicodedata.name(character).replace("-", " ").split() for character in characters]
    modalities = [bags_of_words(names, rows), draw(characters, font_file), places(characters)]
    train_set, test_set = ([x[part] for x in modalities] for part in (rows, held_out))
    present = torch.ones(len(rows), 3, dtype=torch.bool)
    present[torch.rand(len(rows)) < 0.2, 1] = False
    print(f"{len(rows)} characters to train on, {HELD_OUT} held out")

    print("gram_loss of all three")
    towers, losses = train(train_set, present, gram, args)
    pairs = []
    for index, other in [(1, "picture"), (2, "place")]:
        print(f"clip_loss of name and {other}")
        pairs.append(train(train_set, present, clip_of_name_and(index), args)[0])

    with torch.no_grad():
        name, picture, place = towers(test_set)
        found = recall(-contrastile.gram_volume_matrix(name, picture, place).T)
        alone = []
        for index, pair in enumerate(pairs, start=1):
            embeddings = pair(test_set)
            alone.append(recall(embeddings[index] @ embeddings[0].T))
    rivals = [
        Rival("chance", 1 / HELD_OUT, margin=0.2),
        # volumes do not see signs: two modalities may have settled on opposite vectors, and |cosine| ranks as volume
        Rival("same towers, |cosine| of name and picture", recall((picture @ name.T).abs()), margin=0.03),
        Rival("same towers, |cosine| of name and place", recall((place @ name.T).abs()), margin=0.03),
        Rival("trained with clip_loss on name and picture", alone[0]),
        Rival("trained with clip_loss on name and place", alone[1]),
    ]
    if args.plot:
        save_plot(args.plot, "recall@1", found, rivals, losses)
    return verdict(f"recall@1 of the name among {HELD_OUT} held-out characters, by volume", found, rivals)


if __name__ == "__main__":
    sys.exit(main())
