"""open_clip's losses: ClipLoss, SigLipLoss, CoCaLoss, DistillClipLoss, create_loss. open_clip need not be installed.

Same arguments, values and gradients as open_clip 3.3.0 without its N x N logits; docs/dropins/open_clip.md has what
differs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..losses import clip_loss, siglip_loss
from ..losses.common import wide
from ..ops import check
from .common import autocast_features, one_element, refuse_ranks
from .soft_targets import Pairs, distillation

DIST_IMPLEMENTATIONS = ("bidir", "shift", "reduce", "gather")

Losses = Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]


class ClipLoss(nn.Module):
    """(cross entropy of images over texts + of texts over images) / 2, as open_clip.ClipLoss."""

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        backend: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.cache_labels = cache_labels  # there are no labels to cache
        self.rank = rank
        self.world_size = world_size
        self.use_horovod = use_horovod
        self.backend = backend
        self.memory_budget = memory_budget

    @property
    def engine(self) -> dict[str, Any]:
        return {"backend": self.backend, "memory_budget": self.memory_budget}

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The two N x N matrices, for code that wants them; forward does not."""
        refuse_ranks(f"world_size={self.world_size}", self.world_size)
        logits = logit_scale * image_features @ text_features.T
        logits = logits if logit_bias is None else logits + logit_bias
        return logits, logits.T

    def get_ground_truth(self, device: torch.device | str, num_logits: int) -> Tensor:
        """The column of each row's positive; forward needs none."""
        return torch.arange(num_logits, device=device)

    def contrastive(self, image_features: Tensor, text_features: Tensor, logit_scale: float | Tensor) -> Tensor:
        refuse_ranks(f"world_size={self.world_size}", self.world_size)
        image, text = autocast_features(image_features, text_features)
        return clip_loss(image, text, one_element(logit_scale), **self.engine)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Losses:
        loss = self.contrastive(image_features, text_features, logit_scale)
        if logit_bias is not None:  # a number added to all logits cancels in a softmax: its gradient is 0
            bias = check.scalar("logit_bias", one_element(logit_bias), device=loss.device)
            loss = loss + 0.0 * (wide(bias) if isinstance(bias, Tensor) else bias)
        return {"contrastive_loss": loss} if output_dict else loss


class CoCaLoss(ClipLoss):
    """ClipLoss and the cross entropy of captions, each with its weight, as open_clip.CoCaLoss."""

    def __init__(
        self,
        caption_loss_weight: float,
        clip_loss_weight: float,
        pad_id: int = 0,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        backend: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(
            local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod, backend=backend,
            memory_budget=memory_budget,
        )  # fmt: skip
        self.clip_loss_weight = clip_loss_weight
        self.caption_loss_weight = caption_loss_weight
        self.caption_loss = nn.CrossEntropyLoss(ignore_index=pad_id)

    def forward(  # type: ignore[override]  # open_clip's own order
        self,
        image_features: Tensor,
        text_features: Tensor,
        logits: Tensor,
        labels: Tensor,
        logit_scale: float | Tensor,
        output_dict: bool = False,
    ) -> Losses:
        """logits (N, L, V) and labels (N, L) are those of the captions."""
        contrastive = torch.tensor(0, device=logits.device)
        if self.clip_loss_weight:
            contrastive = self.clip_loss_weight * self.contrastive(image_features, text_features, logit_scale)
        caption = self.caption_loss_weight * self.caption_loss(logits.permute(0, 2, 1), labels)
        if output_dict:
            return {"contrastive_loss": contrastive, "caption_loss": caption}
        return contrastive, caption


class DistillClipLoss(ClipLoss):
    """ClipLoss and the cross entropy to a teacher's softmax in both directions, as open_clip.DistillClipLoss."""

    def dist_loss(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """One direction, of logits that code of its own has multiplied out; forward does not."""
        return -(student_logits.log_softmax(1) * teacher_logits.softmax(1)).sum(1).mean(0)

    def forward(  # type: ignore[override]  # open_clip's own order
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        dist_image_features: Tensor,
        dist_text_features: Tensor,
        dist_logit_scale: float | Tensor,
        output_dict: bool = False,
    ) -> Losses:
        refuse_ranks(f"world_size={self.world_size}", self.world_size)
        student = Pairs.checked("", image_features, text_features, logit_scale)
        teacher = Pairs.checked("dist_", dist_image_features, dist_text_features, dist_logit_scale)
        contrastive, distill = distillation(student, teacher, **self.engine)
        if output_dict:
            return {"contrastive_loss": contrastive, "distill_loss": distill}
        return contrastive, distill


class SigLipLoss(nn.Module):
    """Sum over all pairs of log(1 + e^{-y z}), divided by N, as open_clip.SigLipLoss."""

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        *,
        backend: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl or "bidir"
        if self.dist_impl not in DIST_IMPLEMENTATIONS:
            raise ValueError(f"dist_impl must be one of {DIST_IMPLEMENTATIONS} or None, got {dist_impl!r}")
        self.backend = backend
        self.memory_budget = memory_budget

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
    ) -> Tensor:
        """The N x N matrix, for code that wants it; forward does not."""
        logits = logit_scale * image_features @ text_features.T
        return logits if logit_bias is None else logits + logit_bias

    def get_ground_truth(
        self, device: torch.device | str, dtype: torch.dtype, num_logits: int, negative_only: bool = False
    ) -> Tensor:
        """N x N: 1 for the pairs, -1 for all others; forward needs none."""
        labels = torch.full((num_logits, num_logits), -1.0, device=device, dtype=dtype)
        return labels if negative_only else labels.fill_diagonal_(1.0)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None,
        output_dict: bool = False,
    ) -> Losses:
        refuse_ranks(f"world_size={self.world_size}", self.world_size)
        image, text = autocast_features(image_features, text_features)
        scale, bias = one_element(logit_scale), one_element(logit_bias)
        loss = siglip_loss(image, text, scale, bias, backend=self.backend, memory_budget=self.memory_budget)
        return {"contrastive_loss": loss} if output_dict else loss


def gather_features(
    image_features: Tensor,
    text_features: Tensor,
    local_loss: bool = False,
    gather_with_grad: bool = False,
    rank: int = 0,
    world_size: int = 1,
    use_horovod: bool = False,
) -> tuple[Tensor, Tensor]:
    """The features of all processes: of one process, its own."""
    refuse_ranks(f"world_size={world_size}", world_size)
    return image_features, text_features


def create_loss(args: Any, *, backend: str = "auto", memory_budget: int | None = None) -> nn.Module:
    """The loss open_clip.create_loss makes of the training script's arguments, by the same rules."""
    engine: dict[str, Any] = {"backend": backend, "memory_budget": memory_budget}
    ranks = {"rank": args.rank, "world_size": args.world_size}
    if args.siglip and not args.distill and "coca" not in args.model.lower():
        if args.horovod:
            raise NotImplementedError("horovod is not supported with siglip, in open_clip neither")
        return SigLipLoss(**ranks, dist_impl=args.loss_dist_impl, **engine)
    common = {
        "local_loss": args.local_loss, "gather_with_grad": args.gather_with_grad, "cache_labels": True, **ranks,
        "use_horovod": args.horovod, **engine,
    }  # fmt: skip
    if args.distill:
        return DistillClipLoss(**common)
    if "coca" in args.model.lower():
        return CoCaLoss(args.coca_caption_loss_weight, args.coca_contrastive_loss_weight, **common)
    return ClipLoss(**common)
