"""The demo's data: handwritten digit scans and several views of each scan."""

import importlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGE_SIZE = 8  # pixels per side of a scan
CROP_SIZE = 6
_MAX_INK = 16.0  # grey levels of the scans


@dataclass(frozen=True)
class Scans:
    """Images (N, 8, 8) with ink in [0, 1] and digit labels (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> "Scans":
        return Scans(self.images[rows], self.labels[rows])


def load_scans() -> Scans:
    """The 1797 handwritten digits that ship with scikit-learn."""
    # scikit-learn is optional and has no type stubs
    digits = importlib.import_module("sklearn.datasets").load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / _MAX_INK
    return Scans(images, torch.tensor(digits.target))


def split_scans(scans: Scans, held_out: int, generator: torch.Generator) -> tuple[Scans, Scans]:
    """Shuffle and split into (train, held-out)."""
    order = torch.randperm(len(scans), generator=generator)
    return scans.select(order[held_out:]), scans.select(order[:held_out])


def make_views(images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Four views of each image, each flattened to (N, features).

    Args:
        images: (N, 8, 8).
        generator: Draws the position of the crop; None takes the centre, as evaluation needs.
    """
    half = IMAGE_SIZE // 2
    return {
        "left half": images[:, :, :half].flatten(1),
        "right half": images[:, :, half:].flatten(1),
        "crop": _crop(images, generator).flatten(1),
        "strokes": _stroke_directions(images).flatten(1),
    }


def _crop(images: Tensor, generator: torch.Generator | None) -> Tensor:
    count, slack = len(images), IMAGE_SIZE - CROP_SIZE
    corner = torch.full((count, 2), slack // 2)
    if generator is not None:
        corner = torch.randint(0, slack + 1, (count, 2), generator=generator)
    window = torch.arange(CROP_SIZE)
    rows, columns = corner[:, :1] + window, corner[:, 1:] + window
    return images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _stroke_directions(images: Tensor) -> Tensor:
    """Gradient orientation maps, (N, 2, 8, 8): edge strength times (cos, sin) of twice the angle.

    The double angle makes both edges of a stroke agree, though their gradients are opposite.
    """
    across = F.pad(images[:, :, 2:] - images[:, :, :-2], (1, 1))
    down = F.pad(images[:, 2:] - images[:, :-2], (0, 0, 1, 1))
    strength, angle = torch.hypot(across, down), torch.atan2(down, across)
    return torch.stack([strength * torch.cos(2 * angle), strength * torch.sin(2 * angle)], 1)
