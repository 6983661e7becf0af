"""Ranking losses with the names and arguments of sentence-transformers 6.2 (docs/dropins/sentence_transformers.md).

Everything around the loss (embedding of columns, GradCache, configuration, citation) is the package's own: the classes
extend its classes and replace the stage that turns embeddings into a loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer import losses as peer
from sentence_transformers.util import batch_to_device, cos_sim, dot_score, pytorch_cos_sim
from torch import Tensor

from ..literals import BackendName
from ..losses.common import unit
from ..ops import EngineOptions, no_autocast
from ..ranks import Group, collective
from .columns import embedding_columns, joined, product_dtype, propagated
from .guided import guided_loss
from .ranking import ranking_loss
from .ranks import ranks_of

__all__ = [
    "CachedGISTEmbedLoss",
    "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "GISTEmbedLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
]

Similarity = Callable[[Tensor, Tensor], Tensor]
Features = Iterable[dict[str, Any]]
SIMILARITIES: dict[Any, str] = {cos_sim: "cosine", pytorch_cos_sim: "cosine", dot_score: "dot"}
SYMMETRIC = ("query_to_doc", "doc_to_query")


def similarity_kind(similarity_fct: Similarity) -> str:
    """ "cosine" or "dot"; also for the method model.similarity, by the name the model has for it."""
    kind = SIMILARITIES.get(similarity_fct)
    if getattr(similarity_fct, "__name__", "") == "similarity":
        kind = getattr(getattr(similarity_fct, "__self__", None), "similarity_fn_name", kind)
    if kind not in ("cosine", "dot"):
        raise ValueError(
            "similarity_fct must be cos_sim or dot_score of sentence_transformers.util, or model.similarity of a model "
            f"with one of the two: the fused loss is made of matrix products, got {kind or similarity_fct!r}"
        )
    return str(kind)


class MultipleNegativesRankingLoss(peer.MultipleNegativesRankingLoss):
    """In-batch negatives, all directions, partitions and hardness modes, without the matrices of scores.

    backend, memory_budget: as in contrastile.pair_reduce.
    """

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        gather_across_devices: bool = False,
        directions: tuple[str, ...] = ("query_to_doc",),
        partition_mode: str = "joint",
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        similarity_kind(similarity_fct)
        EngineOptions.of(memory_budget, backend)
        arguments: tuple[Any, ...] = (
            model, scale, similarity_fct, gather_across_devices, directions, partition_mode, hardness_mode,
            hardness_strength,
        )  # fmt: skip
        super().__init__(*arguments)
        self.memory_budget = memory_budget
        self.backend = backend

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Any = None) -> Tensor:
        return self.contrast(embeddings, group=ranks_of() if self.gather_across_devices else None)

    @collective
    def contrast(self, embeddings: list[Tensor], *, group: Group) -> Tensor:
        queries, *documents = embedding_columns(embeddings)
        dtype = product_dtype(queries)
        with no_autocast(queries):
            if similarity_kind(self.similarity_fct) == "cosine":
                queries, *documents = (unit(x, True) for x in (queries, *documents))
            # options are read at every call, like the package does: they may be assigned
            engine = EngineOptions.of(self.memory_budget, self.backend, group, dtype)
            return ranking_loss(
                queries, documents, self.scale, engine, directions=self.directions,
                partition_mode=self.partition_mode, hardness_mode=self.hardness_mode,
                hardness_strength=self.hardness_strength,
            )  # fmt: skip


class MultipleNegativesSymmetricRankingLoss(MultipleNegativesRankingLoss):
    """MultipleNegativesRankingLoss of queries -> documents and documents -> queries; deprecated in the package."""

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        gather_across_devices: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        warn_of_symmetric_class("MultipleNegativesSymmetricRankingLoss", "MultipleNegativesRankingLoss")
        super().__init__(
            model, scale, similarity_fct, gather_across_devices, SYMMETRIC, "per_direction",
            memory_budget=memory_budget, backend=backend,
        )  # fmt: skip


def warn_of_symmetric_class(name: str, instead: str) -> None:
    """As the package does where one of its own two classes is made."""
    warnings.warn(
        f"{name} is deprecated in sentence-transformers, use {instead} with directions={SYMMETRIC} and "
        "partition_mode='per_direction'",
        DeprecationWarning,
        stacklevel=3,
    )


class CachedMultipleNegativesRankingLoss(peer.CachedMultipleNegativesRankingLoss):
    """GradCache with the loss stage in one fused pass; mini-batches bound the memory of the encoder alone."""

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        directions: tuple[str, ...] = ("query_to_doc",),
        partition_mode: str = "joint",
        show_progress_bar: bool = False,
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(
            model,
            mini_batch_size=mini_batch_size,
            mini_batch_num_tokens=mini_batch_num_tokens,
            show_progress_bar=show_progress_bar,
        )
        self.loss = MultipleNegativesRankingLoss(  # where the package reads and writes all options of the loss stage
            model, scale, similarity_fct, gather_across_devices, directions, partition_mode, hardness_mode,
            hardness_strength, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip

    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        loss: Tensor = self.loss.compute_loss_from_embeddings([joined(column) for column in reps], labels)
        return propagated(loss, with_backward)


class CachedMultipleNegativesSymmetricRankingLoss(CachedMultipleNegativesRankingLoss):
    """CachedMultipleNegativesRankingLoss in both directions; deprecated in the package."""

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        show_progress_bar: bool = False,
        *,
        memory_budget: int | None = None,
        backend: BackendName = "auto",
    ) -> None:
        warn_of_symmetric_class("CachedMultipleNegativesSymmetricRankingLoss", "CachedMultipleNegativesRankingLoss")
        super().__init__(
            model, scale, similarity_fct, mini_batch_size, mini_batch_num_tokens, gather_across_devices, SYMMETRIC,
            "per_direction", show_progress_bar, memory_budget=memory_budget, backend=backend,
        )  # fmt: skip


class GISTEmbedLoss(peer.GISTEmbedLoss):
    """A guide model says which in-batch negatives may be positives; its similarities are never held together."""

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


class CachedGISTEmbedLoss(peer.CachedGISTEmbedLoss):
    """GISTEmbedLoss with GradCache; mini-batches bound the memory of the encoders alone."""

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
