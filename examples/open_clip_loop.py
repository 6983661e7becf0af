"""A training loop in the style of open_clip's, with its loss swapped for contrastile.compat.open_clip.ClipLoss.

What open_clip's loop does is here under its names: gradient accumulation over cached features, a cosine schedule with
warm-up, a learned logit_scale that is kept below 100, zero-shot classification by averaged prompts.
Data: the 1797 digit scans of scikit-learn; captions are templates filled with the digit's name.
Metric: accuracy of zero-shot classification of held-out scans over the prompts of ten classes.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from common import Rival, options, progress, save_plot, verdict
from contrastile.compat.open_clip import ClipLoss  # was: from open_clip import ClipLoss

HELD_OUT, WIDTH, LENGTH = 500, 64, 9
TEMPLATES = ("a scan of the digit {}", "a handwritten {}", "the number {} in black ink", "somebody wrote a {} by hand")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = sorted({word for template in TEMPLATES for word in template.replace("{}", "").split()} | set(NAMES))
END = len(WORDS) + 1  # the largest token ends a text, as open_clip's models expect; 0 fills up


def tokenize(texts: list[str]) -> Tensor:
    """(N, LENGTH), one token per word."""
    tokens = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        found = [1 + WORDS.index(word) for word in text.split()]
        row[: len(found) + 1] = torch.tensor([*found, END])
    return tokens


class TwoTower(nn.Module):
    """A small model with the interface of open_clip.CLIP(.., output_dict=True)."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.GELU(),
            nn.Flatten(), nn.Linear(32 * 4 * 4, WIDTH),
        )  # fmt: skip
        self.text = nn.Sequential(nn.EmbeddingBag(END + 1, WIDTH, padding_idx=0), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        features = self.visual(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        features = self.text(text)
        return F.normalize(features, dim=-1) if normalize else features

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        return {
            "image_features": self.encode_image(image, normalize=True),
            "text_features": self.encode_text(text, normalize=True),
            "logit_scale": self.logit_scale.exp(),
        }


def make_model(of_open_clip: bool) -> nn.Module:
    if not of_open_clip:
        return TwoTower()
    import open_clip

    vision = {"image_size": 8, "patch_size": 2, "width": 64, "layers": 2, "head_width": 16}
    text = {"context_length": LENGTH, "vocab_size": END + 1, "width": 64, "heads": 4, "layers": 2}
    return open_clip.CLIP(WIDTH, vision, text, output_dict=True)


def learning_rate(step: int, warmup: int, steps: int) -> float:
    """The share of the peak rate: linear warm-up, then half a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def backward_of_one_step(model: nn.Module, loss: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Gradients of one loss over all batches, with the activations of one batch in memory at a time.

    The features of every batch are computed without gradient first. Then each batch is run again, with its own features
    in their place among the cached ones, so that every pair of the step is in every loss. The gradient of logit_scale
    counts once per batch, as in open_clip.
    """
    features = ("image_features", "text_features")
    with torch.no_grad():
        cached = [model(*batch) for batch in batches]
    for i, batch in enumerate(batches):
        out = model(*batch)
        inputs = {f: torch.cat([(out if j == i else other)[f] for j, other in enumerate(cached)]) for f in features}
        value = loss(**inputs, logit_scale=out["logit_scale"])
        value.backward()
    return value.item()


def train(model: nn.Module, images: Tensor, digits: Tensor, args: argparse.Namespace) -> list[float]:
    loss = ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), eps=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, args.warmup, args.steps))
    losses = []
    for step in range(args.steps):
        rows = torch.randperm(len(images))[: args.batch_size * args.accum_freq]
        templates = torch.randint(len(TEMPLATES), (len(rows),)).tolist()
        digit_of = digits[rows].tolist()
        captions = [TEMPLATES[t].format(NAMES[d]) for t, d in zip(templates, digit_of, strict=True)]
        parts = images[rows].split(args.batch_size), tokenize(captions).split(args.batch_size)
        optimizer.zero_grad()
        losses.append(backward_of_one_step(model, loss, list(zip(*parts, strict=True))))
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        progress(step, args.steps, losses[-1])
    return losses


@torch.no_grad()
def zero_shot_accuracy(model: nn.Module, images: Tensor, digits: Tensor) -> float:
    """Each class is the mean of the features of its prompts, one per template."""
    model.eval()
    prompts = [model.encode_text(tokenize([t.format(name) for t in TEMPLATES]), normalize=True) for name in NAMES]
    classes = F.normalize(torch.stack([features.mean(0) for features in prompts]), dim=-1)
    found = (model.encode_image(images, normalize=True) @ classes.T).argmax(1)
    model.train()
    return (found == digits).float().mean().item()


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__.partition("\n")[0], steps=80, batch_size=128)
    parser.add_argument("--accum-freq", type=int, default=2, help="batches per step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=10, help="steps of warm-up (default: %(default)s)")
    parser.add_argument("--open-clip", action="store_true", help="a small Transformer CLIP of open_clip's own code")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 16
    digits, order = torch.tensor(labels), torch.randperm(len(labels))
    held_out, rows = order[:HELD_OUT], order[HELD_OUT:]

    model = make_model(args.open_clip)
    losses = train(model, images[rows], digits[rows], args)
    accuracy = zero_shot_accuracy(model, images[held_out], digits[held_out])
    rivals = [Rival("chance", 1 / len(NAMES), margin=0.6)]
    if args.plot:
        save_plot(args.plot, "zero-shot accuracy", accuracy, rivals, losses)
    return verdict(f"zero-shot accuracy on {HELD_OUT} held-out scans", accuracy, rivals)


if __name__ == "__main__":
    sys.exit(main())
