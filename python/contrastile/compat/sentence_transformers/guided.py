"""Guided losses: a second model says which negatives may be positives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer import losses as peer
from sentence_transformers.util import batch_to_device
from torch import Tensor

from ...literals import BackendName
from ...ops import EngineOptions, no_autocast
from ...ranks import Group, collective
from ..columns import embedding_columns, joined, propagated
from ..guided import guided_loss
from ..ranks import ranks_of
from .cited import cited

Features = Iterable[dict[str, Any]]


@cited
class GISTEmbedLoss(peer.GISTEmbedLoss):
    """A guide model says which in-batch negatives may be positives; its similarities are never held together."""

    memory_budget: int | None = None
    backend: BackendName = "auto"

    def __init__(
        self,
        model: Any,
        guide: Any,
        temperature: float = 0.01,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        arguments: tuple[Any, ...] = (
            model, guide, temperature, margin_strategy, margin, contrast_anchors, contrast_positives,
            gather_across_devices,
        )  # fmt: skip
        super().__init__(*arguments)
        check_guided(self, memory_budget, backend)

    def forward(self, sentence_features: Features, labels: Tensor | None = None) -> Tensor:
        features = list(sentence_features)
        copies = [dict(x) for x in features]  # models write into what they are given
        embeddings = embed_columns(self.model, features)
        with torch.no_grad():
            given = [guide_features(self, x) for x in features] if self.must_retokenize else copies
            guide_embeddings = embed_columns(self.guide, given)
        if len(embeddings) not in (2, 3):
            raise ValueError(f"Expected 2 or 3 embeddings, got {len(embeddings)}")
        group = ranks_of() if self.gather_across_devices else None
        return guided_stage(self, embeddings, guide_embeddings, group=group)


@cited
class CachedGISTEmbedLoss(peer.CachedGISTEmbedLoss):
    """GISTEmbedLoss with GradCache; mini-batches bound the memory of the encoders alone."""

    memory_budget: int | None = None
    backend: BackendName = "auto"

    def __init__(
        self,
        model: Any,
        guide: Any,
        temperature: float = 0.01,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        arguments: tuple[Any, ...] = (
            model, guide, temperature, mini_batch_size, mini_batch_num_tokens, show_progress_bar, margin_strategy,
            margin, contrast_anchors, contrast_positives, gather_across_devices,
        )  # fmt: skip
        super().__init__(*arguments)
        check_guided(self, memory_budget, backend)

    def calculate_loss(
        self, reps: list[list[Tensor]], reps_guided: list[list[Tensor]], *, with_backward: bool = False
    ) -> Tensor:
        if len(reps) != len(reps_guided):
            raise ValueError(f"reps and reps_guided must have the same length, got {len(reps)} and {len(reps_guided)}")
        group = ranks_of() if self.gather_across_devices else None
        loss = guided_stage(self, [joined(x) for x in reps], [joined(x) for x in reps_guided], group=group)
        return propagated(loss, with_backward)


def check_guided(loss: Any, memory_budget: int | None, backend: BackendName) -> None:
    EngineOptions.of(memory_budget, backend)
    loss.memory_budget, loss.backend = memory_budget, backend


def guide_features(loss: Any, features: dict[str, Any]) -> dict[str, Any]:
    """The texts behind a batch of token ids, in the guide's own tokens."""
    ids = features["input_ids"]
    if "cu_seq_lens_q" in features:  # all texts in one row, with the places where they begin
        ids = [part.tolist() for part in ids[0].tensor_split(features["cu_seq_lens_q"][1:-1].cpu())]
    texts = loss.tokenizer.batch_decode(ids, skip_special_tokens=True)
    moved: dict[str, Any] = batch_to_device(loss.guide.preprocess(texts), loss.guide.device)
    return moved


@collective
def guided_stage(
    loss: Any, embeddings: Sequence[Tensor], guide_embeddings: Sequence[Tensor], *, group: Group
) -> Tensor:
    columns, guided = embedding_columns(embeddings), embedding_columns(guide_embeddings)
    if guided[0].shape[0] != columns[0].shape[0]:
        raise ValueError(f"the guide must embed {columns[0].shape[0]} rows, got {guided[0].shape[0]}")
    with no_autocast(columns[0]):
        value: Tensor = guided_loss(
            columns, guided, temperature=loss.temperature, margin_strategy=loss.margin_strategy, margin=loss.margin,
            contrast_anchors=loss.contrast_anchors, contrast_positives=loss.contrast_positives,
            memory_budget=loss.memory_budget, backend=loss.backend,
            group=group,
        )  # fmt: skip
    return value
