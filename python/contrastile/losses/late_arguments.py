"""The arguments of a loss of late interaction, checked, and what they mean: scores, documents of a query alone,
a teacher's scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..literals import BackendName, SegmentReduceName
from ..ops import check, equal_blocks
from .common import like_statistics, number
from .late import maxsim_candidates
from .score_contrast import Apart, Columns, Teacher
from .tokens import OverTokens

ScoreLoss: TypeAlias = Literal["kl", "ce", "mse"]


@dataclass(frozen=True)
class Scoring:
    """How queries are scored."""

    queries: Tensor
    mask: Tensor | None
    scale: float | Tensor
    reduce: OverTokens
    document_reduce: SegmentReduceName
    sharpness: float | Tensor
    normalize: bool
    backend: BackendName

    @property
    def plain(self) -> bool:
        """Whether the reduces are those that a loss has by default."""
        return self.reduce == "sum" and self.document_reduce == "max"

    def apart(self, name: str, documents: Tensor | None, mask: Tensor | None) -> Apart | None:
        """Logits of documents of each query alone, (N, K, U, D); name: the argument's, without the s."""
        if documents is None:
            return None
        check.features(f"{name}s", documents, ndim=4)
        check.same_width(f"{name}s", documents, "queries", self.queries)
        check.same_device(f"{name}s", documents, self.queries.device)
        n, count, length, _ = documents.shape
        if n != self.queries.shape[0] or count == 0:
            expected = f"({self.queries.shape[0]}, K, U, D), K > 0"
            raise ValueError(f"{name}s must have shape {expected}, got {tuple(documents.shape)}")
        if mask is not None:
            mask = check.bool_mask(f"{name}_mask", mask, (n, count, length), documents.device)
        scores = maxsim_candidates(
            self.queries, documents, query_mask=self.mask, document_mask=mask, reduce=self.reduce,
            document_reduce=self.document_reduce, sharpness=self.sharpness, normalize=self.normalize,
            backend=self.backend,
        )  # fmt: skip
        ones = torch.full_like(scores, length > 0, dtype=torch.bool)
        here = ones if mask is None else mask.any(2)
        return Apart(torch.where(here, scores, 0.0) * self.scale, here)


@dataclass(frozen=True)
class Lesson:
    """A teacher's scores, and how much they count."""

    scores: Tensor  # (N, candidates), divided by the temperature
    loss: ScoreLoss
    weight: float | Tensor

    @staticmethod
    def of(
        scores: Tensor | None, loss: ScoreLoss, temperature: float | Tensor, weight: float | Tensor, queries: Tensor
    ) -> Lesson | None:
        check.choice("teacher_loss", loss, get_args(ScoreLoss))
        sharp = check.scalar("teacher_temperature", temperature, positive=True, device=queries.device)
        if scores is None:
            alone = {
                "teacher_loss": loss != "kl",
                "teacher_temperature": changed(sharp),
                "teacher_weight": changed(weight),
            }
            for name, given in alone.items():
                if given:
                    raise ValueError(f"{name} needs teacher_scores: it would have no effect")
            return None
        if check.tensor("teacher_scores", scores).dim() != 2 or scores.shape[0] != queries.shape[0]:
            expected = f"({queries.shape[0]}, candidates)"
            raise ValueError(f"teacher_scores must have shape {expected}, got {tuple(scores.shape)}")
        if not scores.is_floating_point():
            raise TypeError(f"teacher_scores must be floating point, got {scores.dtype}")
        check.same_device("teacher_scores", scores, queries.device)
        sharp = sharp.detach() if isinstance(sharp, Tensor) else sharp
        known = like_statistics(scores.detach(), queries) / sharp
        return Lesson(known, loss, number("teacher_weight", weight, known))

    def teacher(self, columns: Columns, apart: Apart | None, here: Tensor | None) -> Teacher:
        """For candidates that are columns, then those of each query alone. here: (N,), which queries take part; the
        scores of others may be anything."""
        count = columns.total + (0 if apart is None else apart.here.shape[1])
        if self.scores.shape[1] != count:
            raise ValueError(
                f"teacher_scores must have a column for each of {count} candidates, got {self.scores.shape[1]}"
            )
        if self.loss == "mse":
            return Teacher(self.scores if here is None else torch.where(here[:, None], self.scores, 0.0), self.loss)
        kept, _ = columns.kept(self.scores, equal_blocks(columns.total, None)[0])
        kept = kept if apart is None else torch.cat([kept, apart.here], 1)
        target = torch.where(kept, self.scores, -torch.inf).log_softmax(1)
        return Teacher(target if here is None else torch.where(here[:, None], target, -torch.inf), self.loss)

    def blended(self, contrast: Tensor, taught: Tensor) -> Tensor:
        if not isinstance(self.weight, Tensor) and self.weight == 1.0:
            return taught  # and not 0 times what may be infinite
        return contrast + self.weight * (taught - contrast)


def changed(x: float | Tensor) -> bool:
    return isinstance(x, Tensor) or x != 1.0


def checked_tokens(queries: Tensor, documents: Tensor, own: bool, packed: bool, query_mask: Tensor | None) -> None:
    check.features("queries", queries, ndim=3)
    if query_mask is not None:
        check.bool_mask("query_mask", query_mask, tuple(queries.shape[:2]), queries.device)
    check.features("documents", documents, ndim=4 if own else 2 if packed else 3)
    check.same_width("documents", documents, "queries", queries)
    check.same_device("documents", documents, queries.device)


def refuse_alone(name: str, value: object, given: Mapping[str, object]) -> None:
    """What has no meaning without the argument of that name."""
    for other, x in given.items():
        if x is not None and value is None:
            raise ValueError(f"{other} needs {name}: it would have no effect")


def refuse_together(
    own: bool, how: Scoring, direction: str, smoothing: float, teacher_scores: Tensor | None,
    teacher_weight: float | Tensor, document_mask: Tensor | None, given: Mapping[str, object],
) -> None:  # fmt: skip
    """given: optional arguments by name."""
    check.choice("reduce", how.reduce, get_args(OverTokens))
    check.choice("document_reduce", how.document_reduce, get_args(SegmentReduceName))
    names = [name for name, x in given.items() if x is not None]
    if own and (names or direction != "rows"):
        what = " or ".join(names) or f"direction={direction!r}"
        raise ValueError(f"documents of each query alone, (N, K, U, D), cannot be combined with {what}")
    if direction != "rows" and (teacher_scores is not None or "hard_positives" in names):
        raise ValueError(f"teacher_scores and hard_positives need direction='rows', got {direction!r}")
    if direction == "cols" and "hard_negatives" in names:
        raise ValueError("hard_negatives must be None with direction='cols': it would have no effect")
    if smoothing and teacher_scores is not None and not isinstance(teacher_weight, Tensor) and teacher_weight == 1.0:
        raise ValueError("label_smoothing needs teacher_weight < 1 beside teacher_scores: it would have no effect")
    if "hard_positives" in names and (smoothing or teacher_scores is not None):
        raise ValueError("hard_positives cannot be combined with label_smoothing or teacher_scores")
    if "modalities" in names and (document_mask is not None or "document_offsets" in names):
        raise ValueError("modalities cannot be combined with document_mask or document_offsets: others are padding")
    if "top_k" in names:
        if not how.plain or changed(how.sharpness):
            raise ValueError("top_k needs reduce='sum' and document_reduce='max', as XTR's scores have them")
        if {"modalities", "hard_negatives", "hard_positives"} & set(names):
            raise ValueError("top_k cannot be combined with modalities, hard_negatives or hard_positives")
