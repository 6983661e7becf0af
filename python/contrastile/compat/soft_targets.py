"""CLIP with a second target beside the pairs: the softmax of a teacher's logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..losses.common import feature_pair, paired_dot, reduced_empty, upcast
from ..ops import PairStats, check, no_autocast, pair_reduce
from ..ranks import GlobalBatch, Ranks
from .common import autocast_features, one_element

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
        return cls(image, text, check.scalar(f"{prefix}logit_scale", one_element(scale), device=image.device))

    def parts(self) -> tuple[Tensor, Tensor, float | Tensor]:
        return self.image, self.text, self.scale

    def trains(self) -> bool:
        return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in self.parts())

    def to(self, dtype: torch.dtype) -> Pairs:
        return Pairs(self.image.to(dtype), self.text.to(dtype), self.scale)

    def stats(self, **options: Any) -> PairStats:
        """Over rows and columns. Gradients are float32: they meet those of the soft targets before they are rounded."""
        return pair_reduce(upcast(self.image), upcast(self.text), scale=self.scale, cols=True, **options)

    def logits(self, rows: slice) -> Tensor:
        return self.scale * (self.image[rows] @ self.text.T)

    def pulled(self, pull: Pull) -> Tensor:
        """0 with the gradient that the score gradients of z behind the pull have."""
        dots = paired_dot(self.image, pull.images).sum()
        if self.text.requires_grad:  # the same sum once more, for the gradient of text alone
            again = paired_dot(self.text, pull.texts).sum()
            dots = dots + (again - again.detach())
        linear = self.scale * dots
        return linear - linear.detach()


class Pull:
    """sum_j g_ij text_j and sum_i g_ij image_i of score gradients g, added up over blocks of rows."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.images, self.texts = torch.zeros_like(pairs.image), torch.zeros_like(pairs.text)

    def add(self, score_gradients: Tensor, rows: slice) -> None:
        self.images[rows] = score_gradients @ self.pairs.text
        if self.pairs.text.requires_grad:
            self.texts += score_gradients.T @ self.pairs.image[rows]


class Columns:
    """The softmax of each column, of blocks of rows: its largest logit, and log sum e^(z - largest).

    The two stay apart. Their sum is as large as a logit, and its rounding would be all there is of a small loss.
    """

    def __init__(self, like: Tensor) -> None:
        self.top = torch.full_like(like, -torch.inf)
        self.log_sum = torch.full_like(like, -torch.inf)

    def join(self, logits: Tensor) -> None:
        top = torch.maximum(self.top, logits.amax(0))
        block = (logits - top).exp_().sum(0).log_()
        self.log_sum = torch.logaddexp(self.log_sum + (self.top - top), block)
        self.top = top

    def log_softmax(self, logits: Tensor) -> Tensor:
        return (logits - self.top).sub_(self.log_sum)


class Sweep:
    """Both logits in blocks of rows, as often as asked: where one block holds all, they are computed once."""

    def __init__(self, student: Pairs, teacher: Pairs, both: bool) -> None:
        self.pairs = student, teacher
        self.n, self.m = student.image.shape[0], student.text.shape[0]
        self.whole = self.logits(slice(0, self.n)) if self.n * self.m <= BLOCK else None
        like = student.image.new_empty(self.m)
        self.columns = Columns(like), Columns(like)
        if both:
            for _, logits in self.blocks():
                for columns, x in zip(self.columns, logits, strict=True):
                    columns.join(x)

    def logits(self, rows: slice) -> tuple[Tensor, Tensor]:
        student, teacher = self.pairs
        return student.logits(rows), teacher.logits(rows)

    def blocks(self) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
        step = max(BLOCK // self.m, 1)
        for start in range(0, self.n, step):
            rows = slice(start, start + step)
            yield rows, self.logits(rows) if self.whole is None else self.whole

    def over_rows(self, logits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The student's log softmax and the teacher's softmax."""
        return logits[0].log_softmax(1), logits[1].log_softmax(1).exp_()  # rounded alike: equal ones cancel

    def over_columns(self, logits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.columns[0].log_softmax(logits[0]), self.columns[1].log_softmax(logits[1]).exp_()


def distillation(student: Pairs, teacher: Pairs, **engine: Any) -> tuple[Tensor, Tensor]:
    """CLIP's loss, and the mean over rows, columns and both directions of the cross entropy to the teacher's softmax.

        L = 1/2N sum_i [ r_i + c_i - 2 z_ii ],      r_i = log sum_j e^z_ij,   c_j = log sum_i e^z_ij
        T = 1/2N sum_ij [ p_ij (r_i - z_ij) + q_ij (c_j - z_ij) ],      p, q = the teacher's softmax over j, over i

    L is the engine's, T multiplied out by torch in blocks of rows. Cost: 8 N^2 D FLOP in the engine; in the blocks 8,
    12 if the teacher needs gradients, and 4 or 8 more if there are several blocks.
    """
    n = student.image.shape[0]
    check.same_device("dist_image_features", teacher.image, student.image.device)
    if teacher.image.shape[0] != n:
        raise ValueError(f"dist_image_features must have the {n} rows of image_features, got {teacher.image.shape[0]}")
    if n == 0:
        parts = (*student.parts(), *teacher.parts())
        return reduced_empty(0, "mean", *parts), reduced_empty(0, "mean", *parts)
    own = student.stats(positives="same_index", compute_dtype=student.image.dtype, **engine)
    assert own.cols is not None and own.row_positives is not None
    contrastive = (0.5 * (own.rows + own.cols) - own.row_positives).mean()
    with no_autocast(student.image):
        return contrastive, soft_targets(student, teacher) / (2 * n)


def soft_targets_across(ranks: Ranks, student: Pairs, teacher: Pairs, *, gather_with_grad: bool) -> Tensor:
    """T of the global batch, this rank's share: its images over all texts, and its texts over all images.

    Images and texts of all ranks are gathered, their logits multiplied out for this rank's rows, in blocks.
    """
    dtype = torch.promote_types(upcast(student.image).dtype, upcast(teacher.image).dtype)
    batch = GlobalBatch.of(ranks, student.image.shape[0])
    if batch.total == 0:
        return reduced_empty(0, "mean", *student.parts(), *teacher.parts())

    def over_all(pairs: Pairs, rows: Tensor, columns: Tensor) -> Pairs:
        columns = columns.to(dtype)
        return Pairs(rows.to(dtype), batch.gather(columns if gather_with_grad else columns.detach()), pairs.scale)

    def texts_of(pairs: Pairs) -> Pairs:
        return over_all(pairs, pairs.image, pairs.text)

    def images_of(pairs: Pairs) -> Pairs:
        return over_all(pairs, pairs.text, pairs.image)

    with no_autocast(student.image):
        forth = soft_targets(texts_of(student), texts_of(teacher), both=False)
        back = soft_targets(images_of(student), images_of(teacher), both=False)
    return 0.5 * batch.weight("mean") * (forth + back)


def soft_targets(student: Pairs, teacher: Pairs, both: bool = True) -> Tensor:
    """The sum of the cross entropies of all rows and, with `both`, of all columns: 2N T.

    Its gradients are summed up along with its value: it is then linear in z with known score gradients.
    """
    dtype = torch.promote_types(upcast(student.image).dtype, upcast(teacher.image).dtype)
    student, teacher = student.to(dtype), teacher.to(dtype)
    value, pulls = swept(student, teacher, student.trains(), teacher.trains(), both)
    for pull in pulls:
        value = value + pull.pairs.pulled(pull)
    return value


@torch.no_grad()
def swept(
    student: Pairs, teacher: Pairs, student_trains: bool, teacher_trains: bool, both: bool
) -> tuple[Tensor, list[Pull]]:
    """The sum, and the pulls of those who train."""
    sweep = Sweep(student, teacher, both)
    pulls = [Pull(pairs) for pairs, trains in ((student, student_trains), (teacher, teacher_trains)) if trains]
    column_losses = student.image.new_zeros(sweep.m)
    value = student.image.new_zeros(())
    for rows, logits in sweep.blocks():
        score_gradients, row_losses = student_score_gradients(*sweep.over_rows(logits), 1)
        value += row_losses.sum()
        if both:
            over_columns, losses = student_score_gradients(*sweep.over_columns(logits), 0)
            column_losses += losses
            score_gradients.add_(over_columns)
        if student_trains:
            pulls[0].add(score_gradients, rows)
    if teacher_trains:
        for rows, logits in sweep.blocks():
            score_gradients = teacher_score_gradients(*sweep.over_rows(logits))
            if both:
                score_gradients += teacher_score_gradients(*sweep.over_columns(logits), column_losses)
            pulls[-1].add(score_gradients, rows)
    return value + column_losses.sum(), pulls


def student_score_gradients(log_softmax: Tensor, target: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """softmax - target, which cancel pair by pair where student and teacher agree, and the cross entropies."""
    losses = (log_softmax * target).sum(dim).neg_()
    return log_softmax.exp_().sub_(target), losses


def teacher_score_gradients(log_softmax: Tensor, target: Tensor, losses: Tensor | None = None) -> Tensor:
    """target_ij (-log softmax_ij - losses): the gradient of a cross entropy with respect to the target's logits."""
    if losses is None:
        losses = (log_softmax * target).sum(1, keepdim=True).neg_()
    return log_softmax.add_(losses).mul_(target).neg_()
