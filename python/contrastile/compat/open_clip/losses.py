"""open_clip's losses of softmaxes, and of captions: ClipLoss, CoCaLoss, DistillClipLoss, GenLipLoss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...literals import BackendName
from ...losses import clip_distill_loss, clip_loss, distill_info_nce, info_nce
from ...losses.common import feature_pair, inverse, upcast
from ...losses.soft_targets import same_items
from ...ops import check
from ...ranks import Ranks
from ..common import autocast_features, gradient_scaled, one_element
from ..ranks import joint_gradient, mean_value, stated_ranks
from .gathering import gather_features, refuse_horovod

Features = tuple[Tensor, Tensor, float | Tensor]  # of images, of texts, and the scale of their logits
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
        backend: BackendName = "auto",
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

    @property
    def ranks(self) -> Ranks | None:
        """Whose features are candidates; None: this process's alone."""
        refuse_horovod(self.use_horovod and self.world_size > 1)
        return stated_ranks(self.world_size, self.rank)

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The two N x N matrices (with local_loss this rank's rows of them), for code that wants them; forward does
        not."""
        images, texts = image_features, text_features
        if self.world_size > 1:
            images, texts = gather_features(
                images, texts, self.local_loss, self.gather_with_grad, self.rank, self.world_size, self.use_horovod
            )
        if self.world_size > 1 and self.local_loss:
            logits = logit_scale * image_features @ texts.T, logit_scale * text_features @ images.T
        else:
            per_image = logit_scale * images @ texts.T
            logits = per_image, per_image.T
        return logits if logit_bias is None else (logits[0] + logit_bias, logits[1] + logit_bias)

    def get_ground_truth(self, device: torch.device | str, num_logits: int) -> Tensor:
        """The column of each row's positive; forward needs none."""
        first = num_logits * self.rank if self.world_size > 1 and self.local_loss else 0
        return torch.arange(first, first + num_logits, device=device)

    def shared(self, ranks: Ranks | None, *features: Tensor) -> tuple[Tensor, ...]:
        """Features that all ranks see, with the gradient the flags give them: see docs/dropins/open_clip.md."""
        if ranks is None or self.local_loss or self.gather_with_grad:
            return features
        return tuple(gradient_scaled(x, 1.0 / ranks.size) for x in features)

    def shared_scale(self, ranks: Ranks | None, scale: float | Tensor) -> Any:
        return scale if ranks is None or self.local_loss else joint_gradient(scale, ranks, 1.0 / ranks.size)

    def contrastive(self, image_features: Tensor, text_features: Tensor, logit_scale: float | Tensor) -> Tensor:
        ranks = self.ranks
        image, text = self.shared(ranks, *autocast_features(image_features, text_features))
        scale = self.shared_scale(ranks, one_element(logit_scale))
        if ranks is not None and self.local_loss and not self.gather_with_grad:
            options = {"temperature": inverse(scale, image, name="logit_scale"), "group": ranks, **self.engine}
            forth, back = info_nce(image, text.detach(), **options), info_nce(text, image.detach(), **options)
            return 0.5 * (forth + back)
        loss = clip_loss(image, text, scale, group=ranks, **self.engine)
        return loss if self.local_loss else mean_value(loss, ranks)

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
            loss = loss + 0.0 * (upcast(bias) if isinstance(bias, Tensor) else bias)
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
        backend: BackendName = "auto",
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
        image, text = autocast_features(image_features, text_features)  # once, for both losses
        of_student = image, text, logit_scale
        of_teacher = dist_image_features, dist_text_features, dist_logit_scale
        contrastive, distill = self.contrastive(*of_student), self.distilled(of_student, of_teacher)
        if output_dict:
            return {"contrastive_loss": contrastive, "distill_loss": distill}
        return contrastive, distill

    def distilled(self, student: Features, teacher: Features) -> Tensor:
        """The mean over both directions of the cross entropy to the teacher's softmax."""
        ranks = self.ranks
        image, text, scale = self.seen(ranks, "", student)
        teacher_image, teacher_text, teacher_scale = self.seen(ranks, "dist_", teacher)
        same_items("dist_image_features", teacher_image, image)
        if ranks is not None and self.local_loss and not self.gather_with_grad:
            options = dict(alpha=1.0, detach_targets=False, group=ranks, **self.engine)
            options["temperature"] = inverse(scale, image, name="logit_scale")
            options["teacher_temperature"] = inverse(teacher_scale, image, name="dist_logit_scale")
            forth = distill_info_nce(image, text.detach(), teacher_image, teacher_text.detach(), **options)
            return 0.5 * (
                forth + distill_info_nce(text, image.detach(), teacher_text, teacher_image.detach(), **options)
            )
        loss = clip_distill_loss(
            image, text, teacher_image, teacher_text, scale, teacher_scale, detach_targets=False, group=ranks,
            **self.engine,
        )  # fmt: skip
        return loss if self.local_loss else mean_value(loss, ranks)

    def seen(self, ranks: Ranks | None, prefix: str, given: Features) -> Features:
        """One side's features and its scale, as all ranks see them."""
        image, text = autocast_features(*given[:2])
        image, text = feature_pair(f"{prefix}image_features", image, f"{prefix}text_features", text, normalize=False)
        scale = check.scalar(f"{prefix}logit_scale", one_element(given[2]), device=image.device)
        image, text = self.shared(ranks, image, text)
        return image, text, self.shared_scale(ranks, scale)


class GenLipLoss(nn.Module):
    """The cross entropy of captions alone, as open_clip.loss.GenLipLoss: torch's own. There are no pairs to compare."""

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.caption_loss = nn.CrossEntropyLoss(ignore_index=ignore_index)

    def forward(self, logits: Tensor, labels: Tensor, output_dict: bool = False) -> Losses:
        """logits (.., V) and labels (..) of the next tokens."""
        loss: Tensor = self.caption_loss(logits.flatten(0, -2), labels.flatten())
        return {"caption_loss": loss} if output_dict else loss
