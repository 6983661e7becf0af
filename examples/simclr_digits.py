"""SimCLR on handwritten digits: two random distortions of a scan must find each other among those of all other scans.

Data: the 1797 scans of 8 x 8 pixels that come with scikit-learn. Labels are not used in training, except with
--loss sup_con, where all scans of a digit belong together.
Metric: the digit of a held-out scan is that of its nearest neighbour among ten labelled scans, one for each digit.
"""

from __future__ import annotations

import argparse
import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import contrastile
from common import Rival, options, progress, save_plot, verdict

HELD_OUT, DRAWS = 500, 100  # DRAWS: the ten labelled scans are drawn this often, the accuracy is the mean


def distort(x: Tensor) -> Tensor:
    """Turns, scales, slants and shifts every scan, changes its contrast and adds noise. (N, 1, 8, 8)."""
    n = len(x)

    def spread(width: float, *shape: int) -> Tensor:
        return width * (torch.rand(n, *shape) - 0.5)

    angle, size = spread(0.6), 1 + spread(0.4)
    rows = [
        torch.stack([size * angle.cos(), spread(0.4) - size * angle.sin(), spread(0.5)], 1),
        torch.stack([size * angle.sin(), size * angle.cos(), spread(0.5)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, align_corners=False)
    return (1 + spread(0.8, 1, 1, 1)) * moved + 0.1 * torch.randn_like(x)


def make_encoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(),
    )  # fmt: skip


def contrast(name: str, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """The loss of two views, unit rows (N, D) each; row i of both is the same scan."""
    if name == "sup_con":
        return contrastile.sup_con([first, second], labels, temperature=0.2)
    return getattr(contrastile, name)(first, second, temperature=0.2)


def train(encoder: nn.Module, scans: Tensor, labels: Tensor, args: argparse.Namespace) -> list[float]:
    # SimCLR's projection head: the loss acts on its output, the encoder's own output is what is used afterwards
    head = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for step in range(args.steps):
        rows = torch.randperm(len(scans))[: args.batch_size]
        views = torch.cat([distort(scans[rows]), distort(scans[rows])])
        first, second = F.normalize(head(encoder(views)), dim=1).chunk(2)
        loss = contrast(args.loss, first, second, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        progress(step, args.steps, losses[-1])
    return losses


@torch.no_grad()
def one_shot_accuracy(encoder: nn.Module, train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor]) -> float:
    """Nearest neighbour by cosine among one labelled training scan per digit, mean over many draws of those ten."""
    encoder.eval()
    (known, labels), (asked, truth) = train_set, test_set
    known, asked = encoder(known), encoder(asked)
    centre = known.mean(0)  # of unlabelled scans: without it, all cosines are close to 1
    scores = F.normalize(asked - centre, dim=1) @ F.normalize(known - centre, dim=1).T
    encoder.train()
    generator = torch.Generator().manual_seed(0)
    hits = []
    for _ in range(DRAWS):
        order = torch.randperm(len(labels), generator=generator)
        shots = torch.stack([order[labels[order] == digit][0] for digit in range(10)])
        hits.append(scores[:, shots].argmax(1) == truth)
    return torch.stack(hits).float().mean().item()


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__.partition("\n")[0], steps=150, batch_size=256)
    parser.add_argument("--loss", choices=("nt_xent", "dcl", "sup_con"), default="nt_xent", help="default: nt_xent")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)

    pixels, digits = load_digits(return_X_y=True)
    scans, labels = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(digits)
    order = torch.randperm(len(labels))
    held_out, rows = order[:HELD_OUT], order[HELD_OUT:]
    train_set, test_set = (scans[rows], labels[rows]), (scans[held_out], labels[held_out])

    encoder = make_encoder()
    untrained = one_shot_accuracy(encoder, train_set, test_set)
    losses = train(encoder, *train_set, args)
    accuracy = one_shot_accuracy(encoder, train_set, test_set)

    metric = f"one-shot accuracy on {HELD_OUT} held-out scans, {args.loss}"
    rivals = [
        Rival("chance", 0.1, margin=0.5),
        Rival("the untrained network", untrained, margin=0.1),
        Rival("the pixels themselves", one_shot_accuracy(nn.Flatten(), train_set, test_set), margin=0.04),
    ]
    if args.plot:
        save_plot(args.plot, "one-shot accuracy", accuracy, rivals, losses)
    return verdict(metric, accuracy, rivals)


if __name__ == "__main__":
    sys.exit(main())
