"""CLIP with a second target beside the pairs: the softmax of a teacher's logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..losses.common import feature_pair, paired_dot, reduced_empty, wide
from ..ops import PairStats, check, no_autocast, pair_reduce
from .common import autocast_features

BLOCK = 4 << 20  # logits of one block of rows


@dataclass
class Pairs:
    """z_ij = scale * <image_i, text_j>, not multiplied out."""

    image: Tensor
    text: Tensor
    scale: float | Tensor

    @classmethod
    def checked(cls, prefix: str, image: Tensor, text: Tensor, scale: float | Tensor) -> Pairs:
        image, text = autocast_features(image, text)
        image, text = feature_pair(f"{prefix}image_features", image, f"{prefix}text_features", text, normalize=False)
        return cls(image, text, check.scalar(f"{prefix}logit_scale", scale, device=image.device))

    def parts(self) -> tuple[Tensor, Tensor, float | Tensor]:
        return self.image, self.text, self.scale

    def stats(self, **options: Any) -> PairStats:
        """Over rows and columns. Gradients are float32: they meet those of the soft targets before they are rounded."""
        return pair_reduce(wide(self.image), wide(self.text), scale=self.scale, cols=True, **options)

    def logits(self, rows: slice) -> Tensor:
        return self.scale * (wide(self.image[rows]) @ wide(self.text).T)


def distillation(student: Pairs, teacher: Pairs, **engine: Any) -> tuple[Tensor, Tensor]:
    """CLIP's loss, and the mean over rows, columns and both directions of the cross entropy to the teacher's softmax.

        L = 1/2N sum_i [ r_i + c_i - 2 z_ii ],      r_i = log sum_j e^z_ij,   c_j = log sum_i e^z_ij
        T = 1/2N sum_ij [ p_ij (r_i - z_ij) + q_ij (c_j - z_ij) ],      p, q = the teacher's softmax over j, over i

    Both use the same r and c. The teacher's softmax is attention over the student's features, multiplied out by torch
    in blocks of rows. Cost: 10 N^2 D FLOP in the engine and 6 in the blocks; 16 and 16 if the teacher needs gradients.
    """
    n = student.image.shape[0]
    check.same_device("dist_image_features", teacher.image, student.image.device)
    if teacher.image.shape[0] != n:
        raise ValueError(f"dist_image_features must have the {n} rows of image_features, got {teacher.image.shape[0]}")
    if n == 0:
        parts = (*student.parts(), *teacher.parts())
        return reduced_empty(0, "mean", *parts), reduced_empty(0, "mean", *parts)
    own = student.stats(positives="same_index", compute_dtype=student.image.dtype, **engine)
    soft = teacher.stats(**engine)
    assert own.cols is not None and own.row_positives is not None
    contrastive = (0.5 * (own.rows + own.cols) - own.row_positives).mean()
    trains = any(isinstance(x, Tensor) and x.requires_grad for x in teacher.parts())
    term = trained_teacher if trains and torch.is_grad_enabled() else frozen_teacher
    with no_autocast(student.image):
        return contrastive, term(student, teacher, own, soft) / (2 * n)


def frozen_teacher(student: Pairs, teacher: Pairs, own: PairStats, soft: PairStats) -> Tensor:
    """T is linear in r, c and z: with w = p + q, sum_ij w_ij z_ij = scale * sum_i <image_i, sum_j w_ij text_j>."""
    assert own.cols is not None and soft.cols is not None
    image, text = wide(student.image), wide(student.text)
    row_sums, col_sums, for_images, for_texts = soft_sums(image.detach(), text.detach(), teacher, soft)
    dots = paired_dot(image, for_images)
    if text.requires_grad:  # the same sum once more, for the gradient of text alone
        again = paired_dot(text, for_texts)
        dots = dots + (again - again.detach())
    return (own.rows * row_sums + own.cols * col_sums - student.scale * dots).sum()


@torch.no_grad()
def soft_sums(image: Tensor, text: Tensor, teacher: Pairs, soft: PairStats) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of the teacher's softmaxes: over j, over i (1 but for rounding), of both over text_j, over image_i."""
    assert soft.cols is not None
    row_sums, col_sums = torch.empty_like(soft.rows), torch.zeros_like(soft.cols)
    for_images, for_texts = torch.empty_like(image), torch.zeros_like(text)
    for rows in blocks(image.shape[0]):
        logits = teacher.logits(rows)
        weights, over_cols = (logits - soft.rows[rows].unsqueeze(1)).exp_(), logits.sub_(soft.cols).exp_()
        row_sums[rows] = weights.sum(1)
        col_sums += over_cols.sum(0)
        weights += over_cols
        for_images[rows] = weights @ text
        for_texts += weights.T @ image[rows]
    return row_sums, col_sums, for_images, for_texts


def blocks(n: int) -> Iterator[slice]:
    step = max(BLOCK // n, 1)
    return (slice(start, start + step) for start in range(0, n, step))


def trained_teacher(student: Pairs, teacher: Pairs, own: PairStats, soft: PairStats) -> Tensor:
    """Weights with gradients: blocks are computed again in backward."""
    total = own.rows.new_zeros(())
    for rows in blocks(own.rows.shape[0]):
        total = total + checkpoint(
            soft_block, student, teacher, own, soft, rows, use_reentrant=False, preserve_rng_state=False
        )
    return total


def soft_block(student: Pairs, teacher: Pairs, own: PairStats, soft: PairStats, rows: slice) -> Tensor:
    """sum of p_ij (r_i - z_ij) + q_ij (c_j - z_ij) over a block of rows i.

    The log-sum-exps are inside: rounding of the teacher's weights then multiplies differences, not logits.
    """
    assert own.cols is not None and soft.cols is not None
    z, logits = student.logits(rows), teacher.logits(rows)
    over_rows = (logits - soft.rows[rows].unsqueeze(1)).exp() * (own.rows[rows].unsqueeze(1) - z)
    return torch.addcmul(over_rows, (logits - soft.cols).exp(), own.cols - z).sum()
