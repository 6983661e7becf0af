"""open_clip's SigLipLoss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...literals import BackendName
from ...losses import siglip_loss
from ...ranks import Strategy
from ..common import autocast_features, one_element
from ..ranks import stated_ranks
from .losses import Losses

# what holds one rank's texts at a time goes round the ring
DIST_IMPLEMENTATIONS: dict[str, Strategy] = {"bidir": "ring", "shift": "ring", "reduce": "ring", "gather": "gather"}


class SigLipLoss(nn.Module):
    """Sum over all pairs of log(1 + e^{-y z}), divided by N, as open_clip.SigLipLoss.

    chunk_size, of open_clip's main branch, has no effect: no logits are kept, memory_budget bounds those in work.
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        chunk_size: int = 0,
        *,
        backend: BackendName = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.cache_labels = cache_labels
        self.rank = rank
        self.world_size = world_size
        self.dist_impl = dist_impl or "bidir"
        if self.dist_impl not in DIST_IMPLEMENTATIONS:
            raise ValueError(f"dist_impl must be one of {tuple(DIST_IMPLEMENTATIONS)} or None, got {dist_impl!r}")
        if isinstance(chunk_size, bool) or not isinstance(chunk_size, int):
            raise TypeError(f"chunk_size must be an int, got {type(chunk_size).__name__}")
        self.chunk_size = chunk_size
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
        ranks = stated_ranks(self.world_size, self.rank, strategy=DIST_IMPLEMENTATIONS[self.dist_impl])
        image, text = autocast_features(image_features, text_features)
        engine: dict[str, Any] = {"backend": self.backend, "memory_budget": self.memory_budget, "group": ranks}
        loss = siglip_loss(image, text, one_element(logit_scale), one_element(logit_bias), **engine)
        return {"contrastive_loss": loss} if output_dict else loss
